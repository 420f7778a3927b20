"""Pictures of FineGAN and of AttnGAN: what each figure holds still and what it changes, sidecars, what goes wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from common.blocks import Frozen
from common.data.module import ImageData
from common.data.procedural.write_cub import write_birds
from common.data.readers.cub import CUB
from common.pictures import Figure, Images, Request, Sheet, find_images, pixels
from finegan import figure_inputs, figures
from finegan.checkpoints import Encoders
from finegan.conditions import Codes, caption_sequences, groups, readable
from finegan.encoders import ImageEncoder, RNNEncoder
from finegan.figures import between, mask_between, replaced, spotlight, strongest, take
from finegan.model import FineGAN
from finegan.serving import STRIDE
from tests.worlds.layouts import refusal
from tests.worlds.settings import settings

S, D = 32, 12
RED, BLUE = "wing color: red", "has_wing_color::blue"
SENTENCE = "this bird is red"
LOSS: dict[str, dict[str, float | None]] = {
    "d": dict.fromkeys(("real", "fake", "cond_real", "cond_fake", "mismatch"), 1.0),
    "g": dict.fromkeys(("uncond", "cond", "damsm", "kl"), 1.0),
}
for side in LOSS.values():
    side |= dict.fromkeys(("part", "fg", "fg_part"))
SETTINGS: dict[str, Any] = {"image_size": S, "loss": LOSS, "ngf": 4, "ndf": 4, "code_dim": D, "z_dim": 8, "c_dim": 8}


def asked(**more: Any) -> Request:
    """A request with seed 5, three of each and four steps."""
    settings = {"other": more.pop("other", None)}
    return Request(**{"n": 3, "steps": 4, "seed": 5, "settings": settings} | more)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    folder = tmp_path_factory.mktemp("birds")
    write_birds(folder / "cub", images=24, classes=8, side=40, seed=0, workers=0)
    return ImageData(
        dataset=CUB(root=folder / "cub", masks=True, attributes=True),
        image_size=S,
        batch_size=2,
        reads=["image", "mask", "attributes", "caption"],
        bbox_crop=True,
        store=folder / "store",
    )


def make_model(data: ImageData, inputs: str = "raw", **more: Any) -> FineGAN:
    """Random weights large enough that condition, mask and noise are seen in eight bits."""
    torch.manual_seed(1)
    model = FineGAN(**settings("finegan", **SETTINGS | more, inputs=inputs, masks=inputs != "text"))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    names = caption_sequences(data.records).names if inputs == "text" else data.records.attribute_names
    text = RNNEncoder(tokens=len(names) + 1, word_dim=10, code_dim=D, dropout=0.5)
    nn.init.normal_(text.encoder.weight)  # tokens far apart, as after training
    image = ImageEncoder(trunk="conv", code_dim=D, image_size=299, bn_train=True)
    config = {"code_dim": D, "word_dim": 10, "trunk": "conv", "image_size": S}
    model.take_encoders(Encoders(Frozen(text), Frozen(image), names, inputs, "0" * 8, config))
    model.ema_generator.update_parameters(model.generator)
    return model.eval()


@pytest.fixture(scope="module")
def model(data: ImageData) -> FineGAN:
    return make_model(data)


@pytest.fixture(scope="module")
def attngan(data: ImageData) -> FineGAN:
    return make_model(data, "text")


def keys_of(data: ImageData) -> list[str]:
    return [data.records.keys[row] for row in data.rows("test")]


def column(drawn: Sheet, name: str) -> Tensor:
    return drawn.columns[name]


def mask_file(path: Path, side: int = S, white: int = 255) -> str:
    """A grey PNG with a disc in its middle."""
    y, x = np.ogrid[:side, :side]
    disc = (y - side / 2) ** 2 + (x - side / 2) ** 2 < (side / 3) ** 2
    Image.fromarray((disc * white).astype(np.uint8)).save(path)
    return str(path)


# ---- what changes and what is pointed at


def test_an_attribute_takes_the_place_of_its_group() -> None:
    names = ["has_wing_color::blue", "has_wing_color::red", "has_size::small", "has_crown_color::red"]
    found = groups(names)
    assert replaced([1, 3], [2], found) == [2, 3]
    assert replaced([1, 2, 4], [2], found) == [2, 4]
    assert replaced([3], [1, 4], found) == [1, 3, 4]
    assert replaced([1, 3], [], found) == [1, 3]


def disc(radius: float, side: int = 33) -> Tensor:
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return ((y - side // 2) ** 2 + (x - side // 2) ** 2 <= radius**2).float()


def test_masks_between_two_discs_are_discs_of_radii_between() -> None:
    small, large = disc(4), disc(12)
    assert torch.equal(mask_between(small, large, 0), small)
    assert torch.equal(mask_between(small, large, 1), large)
    middle = mask_between(small, large, 0.5)
    assert (disc(7) <= middle).all()
    assert (middle <= disc(9)).all()
    assert middle.dtype == small.dtype
    whole = torch.ones(33, 33)
    assert torch.equal(mask_between(whole, small, 0), whole)  # beyond the picture is background
    assert small.sum() < mask_between(whole, small, 0.5).sum() < whole.sum()


def test_only_the_sentence_code_moves_between_two_conditions() -> None:
    a, b = (Codes(torch.full((1, 2, 3), v), torch.full((1, 2), v), torch.zeros(1, 3, dtype=bool)) for v in (0.0, 1.0))
    middle = between(a, b, 0.25)
    assert torch.equal(middle.sent, torch.full((1, 2), 0.25))
    assert middle.words is a.words
    assert torch.equal(between(b, a, 0).sent, b.sent)


def test_the_strongest_tokens_lead_in_most_places() -> None:
    """Token 0 has more in all than token 2 but less than 2 / L in most places; token 3 is padding."""
    maps = torch.tensor([[0.95, 0.3, 0.3, 0.3], [0.0, 0.0, 0.0, 0.1], [0.05, 0.7, 0.7, 0.0], [0.0, 0.0, 0.0, 0.6]])
    assert strongest(maps.view(4, 2, 2), 3, 2) == [2, 0]
    assert strongest(maps.view(4, 2, 2), 3, 5) == [2, 0, 1]
    assert strongest(torch.full((4, 2, 2), 0.25), 4, 2) == [0, 1]


def test_a_spotlight_shows_the_image_where_it_is_attended_to() -> None:
    image, attention = torch.rand(3, 8, 8) * 2 - 1, torch.zeros(2, 2)
    attention[0, 0] = 0.01  # stretched: faint attention is seen too
    lit = spotlight(image, attention)
    torch.testing.assert_close(lit[:, 0, 0], image[:, 0, 0])
    far = lit[:, -1, -1]
    assert (far == far[0]).all()
    assert far[0] < -0.45
    assert spotlight(image, torch.ones(2, 2)).isfinite().all()


# ---- conditions


def test_an_images_own_condition_is_what_evaluation_draws_from(
    model: FineGAN, attngan: FineGAN, data: ImageData
) -> None:
    rows = data.rows("test")[:3]
    for each in (model, attngan):
        mine = each.encode([figure_inputs.own_condition(int(row), each, data) for row in rows])
        for a, b in zip(mine, each.codes(torch.from_numpy(rows)), strict=True):
            torch.testing.assert_close(a, b)


def test_attributes_are_said_as_people_say_them(model: FineGAN) -> None:
    red = ["has_wing_color::red"]
    for text in ("wing color: red", "Wing colour red", "has_wing_color::red"):
        assert figure_inputs.asked_condition(text, model) == red
    assert figure_inputs.asked_condition("wing color: red, wing color: blue", model) == ["has_wing_color::blue", *red]
    assert figure_inputs.summary([*red, "has_size::small_(5_-_9_in)", "has_x"], 2) == (
        "wing color: red, size: small (5 - 9 in) and 1 more"
    )


def test_images_are_named_by_key_by_name_or_by_file(data: ImageData, tmp_path: Path) -> None:
    key, file = keys_of(data)[1], mask_file(tmp_path / "mask.png")
    found = find_images([key, file, key.rpartition("/")[2]], data)
    assert found.names == [key, file, key]
    assert found.rows == [data.rows("test")[1], None, data.rows("test")[1]]
    masks = pixels(found, data, "mask", figure_inputs.read_mask)
    assert masks.shape == (3, 1, S, S)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(masks[0], masks[2])
    assert masks[1, 0, S // 2, S // 2] == 1
    assert masks[1, 0, 0, 0] == 0


# ---- task=figure


@pytest.mark.parametrize(
    ("name", "columns", "rows"),
    [
        ("grid", ["photo", "mask", "draw 1", "draw 2"], 3),
        ("attention", ["picture", *(f"token {k}" for k in range(1, 6))], 12),
        ("diversity", ["mask", "draw 1", "draw 2", "draw 3"], 1),
        ("inputs", ["x", "m", "x * m", *(f"{x}, {c}" for x in ("x", "x * m") for c in ("TL", "TR", "BL", "BR"))], 6),
        ("attributes", ["draw 1", "draw 2", "draw 3"], 5),
        ("triplets", ["ground truth", "ours"], 3),
        ("swap", ["photo", "mask", "own", "swap 1", "swap 2", "swap 3", "swap 4"], 3),
        ("mask_swap", ["mask 1", "mask 2", "mask 3"], 4),
        ("mask_interp", ["alpha 0.000", "alpha 0.333", "alpha 0.667", "alpha 1.000"], 2),
        ("interp", ["alpha 0.000", "alpha 0.333", "alpha 0.667", "alpha 1.000"], 2),
        ("stages", ["mask", "stage 1: 8 px", "stage 2: 16 px", "stage 3: 32 px"], 3),
    ],
)
def test_a_figure_of_test_images_says_what_it_shows(
    model: FineGAN, attngan: FineGAN, data: ImageData, name: str, columns: list[str], rows: int
) -> None:
    draw: Figure = getattr(figures, name)
    sheet = draw(model, data, asked())
    assert list(sheet.columns) == columns
    assert len(sheet.above) == rows == len(sheet.columns[columns[0]])
    told = sheet.facts
    assert set(told.get("images", [])) | set(told.get("masks") or []) <= set(keys_of(data))
    again = draw(model, data, asked())
    assert again.facts == told
    assert all(torch.equal(column(sheet, name), column(again, name)) for name in columns)
    if name not in ("inputs", "swap", "mask_swap", "mask_interp"):  # AttnGAN draws all that needs no mask
        assert list(draw(attngan, data, asked()).columns) == [name for name in columns if name != "mask"]


def test_the_same_command_draws_the_same_and_another_seed_another(model: FineGAN, data: ImageData) -> None:
    first, again, other = (figures.grid(model, data, asked(seed=seed)) for seed in (5, 5, 6))
    assert torch.equal(column(first, "draw 1"), column(again, "draw 1"))
    for different in (column(first, "draw 2"), column(other, "draw 1"), column(other, "draw 2")):
        assert (column(first, "draw 1") - different).abs().mean() > 0.01


def test_a_figure_draws_what_evaluation_would(model: FineGAN, data: ImageData) -> None:
    """A row of the grid is the model's own draw of that image, its sequence and its mask."""
    drawn, rows = figures.grid(model, data, asked()), data.rows("test")
    row = int(rows[keys_of(data).index(drawn.facts["images"][1])])
    batch = data.move(next(iter(data.eval_loader(rows=np.array([row])))), "cpu")
    z, eps = model.noise(torch.tensor([STRIDE * 5 + 2]))
    mine = model.infer(model.codes(batch["row"]), batch["mask"], z, eps).images[-1]
    torch.testing.assert_close(column(drawn, "draw 2")[1:2], mine, atol=1e-4, rtol=0)
    assert torch.equal(column(drawn, "photo")[1:2], batch["image"])


def test_rows_of_attributes_differ_by_the_attribute_alone(model: FineGAN, data: ImageData) -> None:
    drawn = figures.attributes(model, data, asked(texts=[RED, BLUE, RED]))
    assert drawn.facts["conditions"] == [["has_wing_color::red"], ["has_wing_color::blue"], ["has_wing_color::red"]]
    assert len(drawn.facts["masks"]) == 3
    for k, pictures in enumerate(drawn.columns.values()):
        mask, red, blue, again = pictures
        assert torch.equal(red, again)
        assert (red - blue).abs().mean() > 1e-3
        row = data.records.keys.index(drawn.facts["masks"][k])
        own = pixels(Images([""], [row]), data, "mask")[0]
        assert torch.equal(mask, (2 * own - 1).expand(3, -1, -1))
    assert (column(drawn, "draw 1")[1] - column(drawn, "draw 2")[1]).abs().mean() > 0.01
    one = figures.attributes(model, data, asked(texts=[RED], images=keys_of(data)[:2]))
    assert torch.equal(column(one, "draw 1")[0], column(one, "draw 3")[0])  # two masks in turn
    assert not torch.equal(column(one, "draw 1")[0], column(one, "draw 2")[0])


def test_a_swap_changes_one_group_and_nothing_else(model: FineGAN, data: ImageData) -> None:
    key = keys_of(data)[3]  # a yellow-winged red hawk
    drawn = figures.swap(model, data, asked(images=[key], texts=[RED, f"{RED}, crown color: white"]))
    own, red, both = (set(lists[0]) for lists in drawn.facts["conditions"])
    assert red ^ own == {name for name in own if name.startswith("has_wing_color")} ^ {"has_wing_color::red"}
    assert {name for name in both if "wing_color" in name or "crown" in name} == {
        "has_wing_color::red",
        "has_crown_color::white",
    }
    assert both - red == {"has_crown_color::white"} - own
    plain = figures.grid(model, data, asked(images=[key]))
    torch.testing.assert_close(column(drawn, "own"), column(plain, "draw 1"))
    assert (column(drawn, "own") - column(drawn, "swap 1")).abs().mean() > 1e-3


def test_a_swap_for_what_is_there_already_changes_nothing(model: FineGAN, data: ImageData) -> None:
    lists = {key: figure_inputs.own_condition(data.records.keys.index(key), model, data) for key in keys_of(data)}
    colours = {key: [name for name in names if "wing_color" in name] for key, names in lists.items()}
    key = next(key for key, found in colours.items() if len(found) == 1)
    drawn = figures.swap(model, data, asked(images=[key], texts=colours[key]))
    assert torch.equal(column(drawn, "own"), column(drawn, "swap 1"))


def test_a_mask_swap_has_the_plain_drawings_on_its_diagonal(model: FineGAN, data: ImageData, tmp_path: Path) -> None:
    plain, swapped = figures.grid(model, data, asked()), figures.mask_swap(model, data, asked())
    for k in range(3):
        own = column(swapped, f"mask {k + 1}")
        assert torch.equal(own[0], column(plain, "mask")[k])
        torch.testing.assert_close(own[k + 1], column(plain, "draw 1")[k], atol=1e-4, rtol=0)
        assert (own[k + 1] - column(swapped, f"mask {(k + 1) % 3 + 1}")[k + 1]).abs().mean() > 0.01
    file = mask_file(tmp_path / "mask.png")
    mixed = figures.mask_swap(model, data, asked(images=[keys_of(data)[0], file]))
    assert (len(mixed.columns), len(mixed.above)) == (2, 2)  # a file has a mask and no attributes


def test_masks_are_interpolated_from_end_to_end(model: FineGAN, data: ImageData, tmp_path: Path) -> None:
    keys = keys_of(data)[:2]
    strip = figures.mask_interp(model, data, asked(images=keys))
    ends = figures.mask_swap(model, data, asked(images=keys))
    for name, end in (("alpha 0.000", "mask 1"), ("alpha 1.000", "mask 2")):
        torch.testing.assert_close(column(strip, name), column(ends, end)[:2], atol=1e-4, rtol=0)
    assert not torch.equal(column(strip, "alpha 0.333")[0], column(strip, "alpha 0.000")[0])
    files = [mask_file(tmp_path / "a.png"), keys[0]]
    two = figures.mask_interp(model, data, asked(images=files, texts=[RED, BLUE]))
    assert two.above == ["the masks", "wing color: red", "wing color: blue"]


def test_codes_are_interpolated_with_the_words_of_each_end(model: FineGAN, data: ImageData) -> None:
    key = keys_of(data)[0]
    strip = figures.interp(model, data, asked(images=[key], texts=[RED, BLUE]))
    plain = figures.grid(model, data, asked(images=[key], texts=[RED, BLUE]))
    first, last = column(strip, "alpha 0.000"), column(strip, "alpha 1.000")
    torch.testing.assert_close(first[0], column(plain, "draw 1")[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(last[1], column(plain, "draw 1")[1], atol=1e-4, rtol=0)
    for row in (0, 1):
        assert (first[row] - last[row]).abs().mean() > 1e-3
    assert (first[0] - first[1]).abs().max() > 1e-4  # the words count
    assert strip.facts["masks"] == [key]


def test_inputs_are_what_the_discriminators_see(model: FineGAN, data: ImageData) -> None:
    model.mask_fill, before = -1.0, model.mask_fill
    drawn = figures.inputs(model, data, asked())
    model.mask_fill = before
    m = column(drawn, "m") > 0
    assert torch.equal(column(drawn, "x * m")[m], column(drawn, "x")[m])
    assert (column(drawn, "x * m")[~m] == -1).all()
    for x in ("x", "x * m"):
        top, bottom = (torch.cat([column(drawn, f"{x}, {e}{s}") for s in "LR"], 3) for e in "TB")
        assert torch.equal(torch.cat([top, bottom], 2), column(drawn, x))
    assert drawn.above[:2] == [f"{keys_of(data)[0].rpartition('/')[2]}: {what}" for what in ("photo", "drawing")]


def test_attention_points_at_tokens_of_the_condition(model: FineGAN, attngan: FineGAN, data: ImageData) -> None:
    key = keys_of(data)[0]
    drawn = figures.attention(model, data, asked(images=[key]))
    assert [line.partition(" | ")[2] for line in drawn.above] == [
        "stage 2",
        "stage 3",
        "DAMSM on the picture",
        "DAMSM on the photo",
    ]
    own = {readable(name) for name in drawn.facts["conditions"][0]}
    said = [[words.rpartition(" (")[0] for words in row[1:]] for row in drawn.below]
    assert all(row == said[0] for row in said)  # the same tokens in each view
    assert set(said[0]) <= own
    assert len(set(said[0])) == 5
    one = figures.attention(model, data, asked(images=[key], texts=[RED]))
    assert one.below[1][1:] == ["wing color: red (1.000)", "", "", "", ""]  # alone it has all the attention
    assert (column(one, "token 2") == 1).all()
    assert len(figures.attention(model, data, asked(texts=[RED])).above) == 3  # no photo without an image
    sentence = figures.attention(attngan, data, asked(images=[key], texts=[SENTENCE]))
    assert {words.split()[0] for words in sentence.below[0][1:5]} == set(SENTENCE.split())


def test_attention_takes_a_photo(model: FineGAN, data: ImageData, tmp_path: Path) -> None:
    Image.new("RGB", (50, 70), "red").save(tmp_path / "photo.jpg")
    drawn = figures.attention(model, data, asked(images=[str(tmp_path / "photo.jpg")], texts=[RED]))
    assert (column(drawn, "picture")[3, 0] > 0.9).all()
    assert drawn.facts["masks"][0] in keys_of(data)


def test_regions_of_damsm_are_those_of_each_pictures_own_tokens(model: FineGAN, data: ImageData) -> None:
    codes, x = (
        model.encode([["has_wing_color::red"], ["has_size::small_(5_-_9_in)", "has_wing_color::red"]]),
        (torch.rand(2, 3, S, S, generator=torch.Generator().manual_seed(0)) * 2 - 1),
    )
    maps = figures.regions_of(model, x, codes)
    assert maps.shape == (2, 2, S // 8, S // 8)
    torch.testing.assert_close(maps.sum((2, 3)), torch.ones(2, 2))
    alone = figures.regions_of(model, x[1:], take(codes, [1]))
    torch.testing.assert_close(maps[1:], alone)


def written(model: FineGAN, path: Path) -> Path:
    """The model as an exported file (.pt), or as a checkpoint with its encoders beside it."""
    encoders = model.encoders
    assert encoders is not None
    if path.suffix == ".pt":
        torch.save(model.export(), path)
        return path
    nets = {"text": encoders.text.net.state_dict(), "image": encoders.image.net.state_dict()}
    taught = {
        "inputs": encoders.inputs,
        "names": list(encoders.names),
        "denoised_hash": None,
        "config": encoders.config,
    }
    torch.save({"format": 2, "kind": "damsm", "data": "cub"} | taught | nets, path.with_name("damsm.pt"))
    told = dict(model.hparams) | {"damsm": str(path.with_name("damsm.pt"))}
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": told}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize("name", ["attngan.pt", "last.ckpt"])
def test_triplets_stand_beside_another_models(
    model: FineGAN, attngan: FineGAN, data: ImageData, tmp_path: Path, name: str
) -> None:
    file = written(attngan, tmp_path / name)
    drawn = figures.triplets(model, data, asked(other=str(file)))
    assert list(drawn.columns) == ["ground truth", "AttnGAN", "ours"]
    plain = figures.grid(attngan, data, asked())
    torch.testing.assert_close(column(drawn, "AttnGAN"), column(plain, "draw 1"))
    row = data.records.keys.index(drawn.facts["images"][0])
    assert drawn.below[0][1] == drawn.facts["AttnGAN"][0] == data.records.captions[row][0]
    assert drawn.below[0][2].endswith("more")


def test_attngan_draws_a_row_for_each_sentence(attngan: FineGAN, data: ImageData) -> None:
    for name in ("attributes", "diversity"):
        drawn = getattr(figures, name)(attngan, data, asked(texts=[SENTENCE, "a blue bird"]))
        assert drawn.above == [SENTENCE, "a blue bird"]
        assert drawn.facts["masks"] is None
        assert (column(drawn, "draw 1")[0] - column(drawn, "draw 1")[1]).abs().mean() > 1e-3


def test_a_picture_does_not_depend_on_the_others_of_its_sheet(attngan: FineGAN, data: ImageData) -> None:
    """Not even with the published code's attention, which takes the padding of one for that of another."""
    legacy = make_model(data, "text", legacy=True)
    long = "this bird is red with white wings and a long black tail"
    for each in (legacy, attngan):
        alone = figures.diversity(each, data, asked(texts=[SENTENCE]))
        beside = figures.diversity(each, data, asked(texts=[SENTENCE, long]))
        torch.testing.assert_close(column(alone, "draw 1")[0], column(beside, "draw 1")[0], atol=1e-5, rtol=0)


# ---- task=sample


def rows_of(model: FineGAN, data: ImageData, **more: Any) -> list[dict[str, Any]]:
    """What each row of a sample is of."""
    return list(model.respond(data, asked(every=True, **more)).facts["rows"])


def test_sample_draws_named_attributes(model: FineGAN, data: ImageData) -> None:
    text = "wing color: red, belly color: white"
    sheet = model.respond(data, asked(every=True, texts=[text]))
    assert list(sheet.columns) == ["mask", "draw 1", "draw 2", "draw 3"]
    assert sheet.generated == ["draw 1", "draw 2", "draw 3"]
    assert len({column(sheet, name).numpy().tobytes() for name in sheet.generated}) == 3
    (row,) = sheet.facts["rows"]
    assert row["condition"] == ["has_wing_color::red", "has_belly_color::white"]
    assert row["mask"] in keys_of(data)  # chosen by the seed
    again = model.respond(data, asked(every=True, texts=text.split(", ")))  # a list of names is one condition
    assert again.facts == sheet.facts
    assert torch.equal(column(again, "draw 1"), column(sheet, "draw 1"))
    other = model.respond(data, asked(every=True, texts=[text], seed=6))
    assert not torch.equal(column(other, "draw 1"), column(sheet, "draw 1"))


def test_sample_draws_in_each_mask(model: FineGAN, data: ImageData) -> None:
    keys = keys_of(data)[:2]
    rows = rows_of(model, data, images=keys, texts=[RED])
    assert [row["mask"] for row in rows] == keys
    assert [row["condition"] for row in rows] == [["has_wing_color::red"]] * 2
    (row,) = rows_of(model, data, images=keys[:1])  # without a text by its own attributes
    assert row["condition"] == figure_inputs.own_condition(int(data.rows("test")[0]), model, data)


def test_sample_needs_no_data_set_for_a_users_own_mask(model: FineGAN, tmp_path: Path) -> None:
    nothing = ImageData(dataset=CUB(root=tmp_path / "absent"), image_size=S, batch_size=2, reads=["image", "mask"])
    (row,) = rows_of(model, nothing, images=[mask_file(tmp_path / "mask.png")], texts=[RED])
    assert row["mask"].endswith("mask.png")


def test_sample_draws_each_sentence(attngan: FineGAN, data: ImageData) -> None:
    texts = [SENTENCE, "a bird, blue and white"]
    sheet = attngan.respond(data, asked(every=True, texts=texts))
    assert [row["condition"] for row in sheet.facts["rows"]] == texts
    assert [row["mask"] for row in sheet.facts["rows"]] == [None, None]
    assert list(sheet.columns) == ["draw 1", "draw 2", "draw 3"]


# ---- what a user can get wrong


def test_figure_and_sample_say_in_one_sentence_what_is_wrong(
    model: FineGAN, attngan: FineGAN, data: ImageData, tmp_path: Path
) -> None:
    key, training = keys_of(data)[0], data.records.keys[int(data.rows("train")[0])]
    mask, large = mask_file(tmp_path / "mask.png"), mask_file(tmp_path / "large.png", 2 * S)
    black, text = mask_file(tmp_path / "black.png", white=90), str(tmp_path / "text.png")
    Path(text).write_text("no picture")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")

    def refused(each: FineGAN, said: str, name: str = "grid", **more: Any) -> None:
        assert said in refusal(lambda: getattr(figures, name)(each, data, asked(**more)))

    refused(model, f"the nearest of these is {key}.", images=[f"{key}0"])
    refused(model, f"the nearest of these is {key.rpartition('/')[2]}.", images=[f"{key.rpartition('/')[2]}0"])
    refused(model, "is not among the test images", images=[training])
    refused(model, "'has_wing_color::red'", "attributes", texts=["wing color: rad"])
    refused(model, "reads attributes and 'a red bird' names none", "attributes", texts=["a red bird"])
    refused(model, "is 64x64 and this model draws 32x32", images=[large], texts=[RED])
    refused(model, "has no foreground", images=[black], texts=[RED])
    refused(model, "cannot be read as a mask", images=[text], texts=[RED])
    refused(model, "says nothing of what to draw", images=[mask])
    refused(model, "say nothing of what to draw", "mask_swap", images=[mask])
    refused(model, "there are 2 images and 3 texts", images=[key, mask], texts=[RED, BLUE, RED])
    refused(model, "and 3 are given: give two", "mask_interp", images=[key, mask, mask])
    refused(model, "and 1 are given: give two texts", "interp", texts=[RED])
    refused(model, "needs the attributes of test images", "swap", images=[mask])
    refused(model, "is not of model=attngan or finegan", "triplets", other=str(tmp_path / "other.pt"))
    refused(model, "no weights file at", "triplets", other="absent.pt")
    large_model = written(make_model(data, "text", image_size=2 * S), tmp_path / "large.pt")
    refused(model, "draws 64x64 and this model 32x32", "triplets", other=str(large_model))
    refused(attngan, "reads sentences and 'wing color: red' names attributes", texts=[RED])
    refused(attngan, "no word of the sentence 'zorgle' is known", texts=["zorgle"])
    refused(attngan, "replaces attributes and this model reads sentences", "swap")
    refused(attngan, "shows masks and this model takes none", "mask_swap")
    refused(attngan, "takes no mask and", images=[mask], texts=[SENTENCE])

    def with_reads(*reads: str) -> ImageData:
        reader = CUB(root=data.dataset.root, captions="none", masks="mask" in reads, attributes=True)
        return ImageData(dataset=reader, image_size=S, batch_size=2, reads=reads, store=tmp_path / "store")

    images = with_reads("image")
    assert "draws into a mask and no masks are read" in refusal(lambda: figures.triplets(model, images, asked()))
    captions = asked(other=str(written(attngan, tmp_path / "attngan.pt")))
    masks = with_reads("image", "mask")
    assert "reads captions: add data.reads" in refusal(lambda: figures.triplets(model, masks, captions))

    def unsaid(each: FineGAN, said: str, **more: Any) -> None:
        assert said in refusal(lambda: each.respond(data, asked(every=True, **more)))

    unsaid(model, "give text='wing color: red, belly color: white'")
    unsaid(attngan, "give text='a red bird with white wings'")
    unsaid(attngan, "takes no mask and image=", images=[key], texts=[SENTENCE])
    unsaid(model, "neither a file nor a test image", images=["nowhere.png"], texts=[RED])
    unsaid(model, "there is no attribute 'wing color: rad'", texts=["wing color: rad, crown color: red"])
