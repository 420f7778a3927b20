"""Pictures of SIMGAN's edits and its one-file export: numerical checks 8 and 15, what a user gets wrong."""

import json
import logging
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from common.data.module import ImageData
from common.data.readers.folder import Folder
from common.errors import UserError
from common.pictures import Request, Sheet, find_images, pixels, to_picture, write
from common.text import SentenceEncoder, Vocabulary
from simgan import figures
from simgan.model import SIMGAN
from tests.worlds.layouts import refusal
from tests.worlds.settings import settings

SIDE, D = 32, 12
COLOURS = {"red": (210, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 220), "grey": (128, 128, 128)}
A, B = "a red bird with white wings", "this bird is blue"
LOSS: dict[str, dict[str, float | None]] = {
    "d": {"real": 1.0, "mismatch": 1.0, "fake": 1.0},
    "g": {"adversarial": 1.0, "cycle": 10.0, "conditioning": 1.0, "identity": None},
}
SETTINGS: dict[str, Any] = {"image_size": SIDE, "loss": LOSS, "phi.dim": D, "ngf": 8, "n_res": 1, "ca_dim": 8, "ndf": 8}
PICTURES = {"space": "phi", "eps": "mean", "eps_scale": 1.0}


def asked(**more: Any) -> Request:
    """A request with seed 5, three of each and four steps; keys of `pictures` by their names."""
    settings = {key: more.pop(key, value) for key, value in PICTURES.items()}
    return Request(**{"n": 3, "steps": 4, "seed": 5, "settings": settings} | more)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder of four classes, three photos each, and a text encoder in the file that model=vse makes."""
    folder, rng, lines = tmp_path_factory.mktemp("birds"), np.random.default_rng(0), []
    for colour, rgb in COLOURS.items():
        for number in range(3):
            path = folder / "images" / colour / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 60, (50, 44, 3)) + np.array(rgb) * 3 // 4
            Image.fromarray(pixels.astype(np.uint8)).save(path)
            lines += [f"{colour}/{number},a {colour} bird with white wings", f"{colour}/{number},this bird is {colour}"]
    (folder / "captions.csv").write_text("\n".join(lines), encoding="utf-8")
    torch.manual_seed(0)
    vocabulary = Vocabulary.build(lines, max_words=50)
    net = SentenceEncoder(words=len(vocabulary), word_dim=10, dim=D)
    nn.init.normal_(net.embedding.weight)  # words far apart, as after training
    vse = {"config": {"word_dim": 10, "dim": D, "max_words": 50, "vectors": None}, "vocabulary": list(vocabulary.words)}
    torch.save({"format": 1, "kind": "vse", "text": net.state_dict(), **vse}, folder / "vse.pt")
    return folder


@pytest.fixture(scope="module")
def data(root: Path) -> ImageData:
    return ImageData(dataset=Folder(root=root), image_size=SIDE, batch_size=2, store=root / "store")


def make_model(root: Path, **more: Any) -> SIMGAN:
    """Random weights large enough that noise and sentence are seen in eight bits."""
    torch.manual_seed(1)
    model = SIMGAN(**settings("simgan", **SETTINGS, text_encoder=str(root / "vse.pt"), **more))
    for layer in model.generator.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return model.eval()


@pytest.fixture(scope="module")
def model(root: Path) -> SIMGAN:
    return make_model(root)


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) * 2 - 1


# ---- check 8: what the generator's output depends on


def test_the_same_noise_gives_the_same_bits_and_other_noise_other_pictures(model: SIMGAN, x: torch.Tensor) -> None:
    phi, eps = model.encode([A, B, A]), model.noise(3, 0)
    assert torch.equal(model.infer(x, phi, eps), model.infer(x, phi, eps))
    assert (model.infer(x, phi, eps) - model.infer(x, phi, eps + 1)).abs().mean() > 0.01


def test_the_mean_edit_ignores_the_random_state(model: SIMGAN, x: torch.Tensor) -> None:
    phi = model.encode([A, B, A])
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = model.infer(x, phi, mode="mean")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert torch.equal(first, model.infer(x, phi, mode="mean"))
    assert torch.equal(first, model.infer(x, phi, torch.zeros(3, 8)))


def test_an_edit_does_not_depend_on_the_rest_of_its_batch(model: SIMGAN, x: torch.Tensor) -> None:
    """In double: these weights amplify single precision's rounding, which differs with the batch, to just 1e-6."""
    phi, eps = model.encode([A, B, A]).double(), model.noise(3, 0).double()
    model, x = deepcopy(model).double(), x.double()
    alone = torch.cat([model.infer(x[i : i + 1], phi[i : i + 1], eps[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(model.infer(x, phi, eps), alone, atol=1e-6, rtol=0)


# ---- the figures


@pytest.fixture(scope="module")
def keys(data: ImageData) -> list[str]:
    return [data.records.keys[row] for row in data.rows("test")[:3]]


def shown(sheet: Sheet) -> list[torch.Tensor]:
    return [torch.as_tensor(column) for column in sheet.columns.values()]


@pytest.mark.parametrize("space", ["phi", "c"])
@pytest.mark.parametrize("eps", ["sample", "mean"])
def test_interpolation_ends_at_the_plain_edits(
    model: SIMGAN, data: ImageData, keys: list[str], space: str, eps: str
) -> None:
    """Check 15, and that what lies between is neither end."""
    x, *strip = shown(figures.interp(model, data, asked(images=keys, texts=[A, B], steps=5, space=space, eps=eps)))
    a, b = model.encode([A, B])[:, None].expand(2, 3, -1)
    noise = model.noise(3, 5) if eps == "sample" else None
    assert len(strip) == 5
    assert torch.equal(strip[0], model.infer(x, a, noise, eps))
    assert torch.equal(strip[-1], model.infer(x, b, noise, eps))
    assert all((strip[2] - strip[end]).abs().mean() > 0.005 for end in (0, -1))


def test_the_two_spaces_of_interpolation_differ(model: SIMGAN, data: ImageData, keys: list[str]) -> None:
    requests = [asked(images=keys, texts=[A, B], steps=3, space=space) for space in ("phi", "c")]
    middle = [shown(figures.interp(model, data, request))[2] for request in requests]
    assert not torch.allclose(*middle, atol=1e-4)


def test_one_noise_serves_all_steps_of_an_interpolation(model: SIMGAN, data: ImageData, keys: list[str]) -> None:
    _, *strip = shown(figures.interp(model, data, asked(images=keys, texts=[A, A], eps="sample")))
    assert torch.equal(strip[0], strip[-1])
    assert not torch.equal(strip[0], shown(figures.interp(model, data, asked(images=keys, texts=[A, A])))[1])


def test_diversity_shows_the_source_each_noise_and_the_mean(model: SIMGAN, data: ImageData, keys: list[str]) -> None:
    columns = figures.diversity(model, data, asked(images=keys, texts=[A, B, A], n=2)).columns
    x, phi = torch.as_tensor(columns["source"]), model.encode([A, B, A])
    assert list(columns) == ["source", "edit 1", "edit 2", "mean"]
    assert torch.equal(x, pixels(find_images(keys, data), data))
    assert torch.equal(columns["edit 2"], model.infer(x, phi, model.noise(2, 5)[[1, 1, 1]]))
    assert torch.equal(columns["mean"], model.infer(x, phi, mode="mean"))


def test_cycle_takes_the_edit_back_by_the_own_sentence(model: SIMGAN, data: ImageData, keys: list[str]) -> None:
    first, edit, back, difference = shown(figures.cycle(model, data, asked(images=keys, texts=[A, B])))
    own, target = model.encode([A, B])[:, None].expand(2, 3, -1)
    assert torch.equal(edit, model.infer(first, target, model.noise(3, 5)))
    assert torch.equal(back, model.infer(edit, own, mode="mean"))
    rendered = np.asarray(to_picture(difference[0]), float)
    wanted = 4 * (((back - first)[0] / 2).abs() * 255).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(rendered, wanted.clip(0, 255), atol=0.51)


def test_grid_edits_every_photo_by_every_sentence(model: SIMGAN, data: ImageData, keys: list[str]) -> None:
    columns = figures.grid(model, data, asked(images=keys, texts=[A, B])).columns
    x = pixels(find_images(keys, data), data)
    assert list(columns) == ["photo 1", "photo 2", "photo 3"]
    assert torch.equal(columns["photo 3"][0], x[2])
    wanted = model.infer(x[2:], model.encode([A, B])[1:], model.noise(1, 5))[0]
    torch.testing.assert_close(columns["photo 3"][2], wanted, atol=1e-5, rtol=0)  # batches of other sizes


# ---- task=sample


def photo(path: Path, width: int = 40, height: int = 40, mode: str = "RGB") -> str:
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 4), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return str(path)


def sample(model: SIMGAN, data: ImageData, path: Path, **more: Any) -> dict[str, Any]:
    """What task=sample writes of a request, and its JSON."""
    write(model.respond(data, asked(every=True, **more)), path, {"seed": 5})
    return json.loads(path.with_suffix(".json").read_text())


def test_a_sample_is_each_photo_edited_by_each_sentence(
    model: SIMGAN, data: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [photo(tmp_path / "one.jpg"), photo(tmp_path / "two.png", 90, 50)]
    texts, path = [A, "a zorgle BLUE zorgle gribble bird"], tmp_path / "out" / "mine.png"
    path.parent.mkdir()
    with caplog.at_level(logging.WARNING):
        told = sample(model, data, path, images=images, texts=texts)
    assert caplog.messages == ["unknown words, read as <unk>: zorgle, gribble"]
    assert [(row["image"], row["text"]) for row in told["rows"]] == [(i, t) for i in images for t in texts]
    assert told["unknown"] == ["zorgle", "gribble"]
    last = path.with_name(told["rows"][3]["files"][2])
    x, phi, eps = pixels(find_images(images[1:], data), data), model.encode(texts[1:]), model.noise(3, 5)
    wanted = np.asarray(to_picture(model.infer(x, phi, eps[2:])[0]), int)
    assert wanted.std() > 5
    assert np.abs(np.asarray(Image.open(last), int) - wanted).max() <= 1
    assert len(list(path.parent.iterdir())) == 2 + 4 * 3


def test_a_sample_repeats_itself_and_varies_with_seed_and_scale(model: SIMGAN, data: ImageData, tmp_path: Path) -> None:
    image = photo(tmp_path / "one.jpg")

    def edits(**more: Any) -> list[torch.Tensor]:
        sheet = model.respond(data, asked(images=[image], texts=[A], **more))
        return [torch.as_tensor(sheet.columns[name])[0] for name in sheet.generated]

    first, small = edits(), edits(eps_scale=1e-4)
    assert torch.equal(torch.stack(first), torch.stack(edits()))
    assert len({edit.numpy().tobytes() for edit in [*first, *edits(seed=6)]}) == 6
    (mean,) = edits(eps_scale=0)
    assert (small[0] - mean).abs().max() < 0.01  # the scale reaches the noise
    assert (first[0] - mean).abs().max() > 0.01


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": ["nowhere.jpg"]}, "nowhere.jpg is neither a file nor a test image"),
        ({"texts": ["zorgle gribble"]}, "no word of the sentence 'zorgle gribble' is known"),
        ({"texts": [A, " ?! "]}, "holds no word"),
        ({"texts": []}, "SIMGAN edits a photo by a sentence"),
        ({"images": []}, "image=PHOTO.jpg"),
        ({"eps_scale": "much"}, "pictures.eps_scale=much is not a number"),
    ],
)
def test_sample_says_in_one_sentence_what_is_wrong(
    model: SIMGAN, data: ImageData, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    whole = {"images": [photo(tmp_path / "whole.jpg", 200, 200)], "texts": [A]}
    assert said in refusal(lambda: model.respond(data, asked(**whole | change)))


# ---- task=figure


@pytest.mark.parametrize(
    ("name", "columns", "photos", "each"),
    [
        ("diversity", ["source", "edit 1", "edit 2", "edit 3", "mean"], 1, 1),
        ("compare", ["source", "SIMGAN"], 3, 1),
        ("interp", ["source", "alpha 0.000", "alpha 0.333", "alpha 0.667", "alpha 1.000"], 3, 2),
        ("cycle", ["x", "x-hat", "x-tilde", "|x-tilde - x| x 4"], 3, 2),
        ("grid", ["photo 1", "photo 2", "photo 3"], 3, 3),
    ],
)
def test_a_figure_of_test_images_says_what_it_shows(
    model: SIMGAN, data: ImageData, name: str, columns: list[str], photos: int, each: int
) -> None:
    sheet = getattr(figures, name)(model, data, asked())
    told = sheet.facts
    assert list(sheet.columns) == columns
    assert [len(group) for group in told["texts"]] == [each] * photos
    records = data.records
    rows = [records.keys.index(key) for key in told["images"]]
    assert all(records.test[rows])
    for row, group in zip(rows, told["texts"], strict=True):
        colours = [next(c for c in COLOURS if c in text) for text in group]
        if name == "cycle":
            assert colours[0] == records.classes[records.labels[row]]
        if name != "grid":
            assert colours[-1] != records.classes[records.labels[row]]
    again = getattr(figures, name)(model, data, asked())
    assert again.facts == told
    assert all(torch.equal(a, b) for a, b in zip(shown(sheet), shown(again), strict=True))


def test_figures_take_free_photos_and_sentences(model: SIMGAN, data: ImageData, tmp_path: Path) -> None:
    files = [photo(tmp_path / "one.jpg"), photo(tmp_path / "two.png", 90, 50)]

    def told(name: str, **more: Any) -> dict[str, Any]:
        return dict(getattr(figures, name)(model, data, asked(**more)).facts)

    for name in ("interp", "cycle"):
        found = told(name, images=files, texts=[A, B])
        assert (found["images"], found["texts"]) == (files, [[A, B]] * 2)
    for name in ("diversity", "compare"):
        assert told(name, images=files, texts=[A, B])["texts"] == [[A], [B]]
    assert told("compare", texts=[A])["texts"] == [[A]] * 3  # with test images
    assert len(told("diversity", texts=[A, B])["images"]) == 2
    assert len(told("compare", images=files[:1])["texts"]) == 1
    assert told("grid", images=files, texts=[A, B, A])["texts"] == [[A, B, A]] * 2


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("interp", {"space": "ph"}, "pictures.space=ph is not known: did you mean phi?"),
        ("interp", {"eps": "men"}, "did you mean mean?"),
        ("interp", {"texts": [A]}, "takes two sentences to go between, and texts has 1"),
        ("cycle", {"texts": [A, B, A]}, "takes the photo's own sentence and the edit's, and texts has 3"),
        ("cycle", {"images": ["{photo}"]}, "takes a photo back by its own sentence"),
        ("compare", {"images": ["{photo}"] * 2, "texts": [A, B, A]}, "there are 2 images and 3 texts"),
        ("grid", {"texts": ["zorgle"]}, "no word of the sentence 'zorgle' is known"),
        ("grid", {"images": ["nowhere.png"]}, "nowhere.png is neither a file nor a test image"),
    ],
)
def test_figure_says_in_one_sentence_what_is_wrong(
    model: SIMGAN, data: ImageData, tmp_path: Path, name: str, change: dict[str, Any], said: str
) -> None:
    file = photo(tmp_path / "one.jpg")
    change = {k: [file] * len(v) if "{photo}" in v else v for k, v in change.items()}
    assert said in refusal(lambda: getattr(figures, name)(model, data, asked(**change)))


# ---- the one-file export


def exported(model: SIMGAN, path: Path) -> Path:
    model.data_name = "folder"
    torch.save(model.export(), path)
    return path


def test_the_export_alone_edits_the_same_in_a_fresh_object(
    root: Path, x: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(root)
    path, eps = exported(model, tmp_path / "simgan_folder.pt"), model.noise(3, 0)
    content = torch.load(path, weights_only=True)
    keys = {"format", "kind", "data", "config", "G", "ema", "vse", "vocab", "phi_hash"}
    assert (set(content), content["kind"], content["data"]) == (keys, "simgan", "folder")
    assert content["config"]["text_encoder"] is content["config"]["phi"]["cache"] is None
    wanted = model.infer(x, model.encode([A, B, "a zorgle bird"]), eps)
    monkeypatch.chdir(tmp_path)  # nothing is read but the file
    fresh = SIMGAN.load("simgan_folder.pt")
    assert not fresh.training
    assert torch.equal(fresh.infer(x, fresh.encode([A, B, "a zorgle bird"]), eps), wanted)
    assert fresh.export()["phi_hash"] == content["phi_hash"]
    assert fresh.unknown_words([A, "a zorgle bird"]) == ["zorgle"]


def test_the_export_keeps_the_average_and_the_statistics(root: Path, x: torch.Tensor, tmp_path: Path) -> None:
    model = make_model(root, **{"average.decay": 0.5})
    model.ema_generator.update_parameters(model.generator)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.fill_(0.1)
    nn.init.zeros_(model.generator.decoder[-2].weight)  # tells the generator from its average
    fresh = SIMGAN.load(exported(model, tmp_path / "simgan_folder.pt"))
    phi, eps = model.encode([A, B, A]), model.noise(3, 0)
    assert torch.equal(fresh.infer(x, phi, eps), model.infer(x, phi, eps))
    assert fresh.infer(x, phi, eps).std() > 0.01
    assert fresh.generator(x, phi, eps).std() < 0.01


def test_the_export_keeps_what_standardises_its_sentences(root: Path, x: torch.Tensor, tmp_path: Path) -> None:
    model = make_model(root, **{"phi.norm": "standard", "average.decay": 0.5})
    records = Folder(root=root).read()
    model.read_text(records)
    model.standardise(records)
    phi, eps = model.encode([A, B, A]), model.noise(3, 0)
    torch.testing.assert_close(model.generator.standardise(phi), model.discriminator.standardise(phi))
    assert (model.generator.standardise(phi) - phi).abs().mean() > 0.1
    fresh = SIMGAN.load(exported(model, tmp_path / "simgan_folder.pt"))
    assert torch.equal(fresh.infer(x, phi, eps), model.infer(x, phi, eps))


def test_restore_takes_a_checkpoint_or_the_export(root: Path, x: torch.Tensor, tmp_path: Path) -> None:
    model = make_model(root)
    phi, eps = model.encode([A, B, A]), model.noise(3, 0)
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    for path in (tmp_path / "last.ckpt", exported(model, tmp_path / "simgan_folder.pt")):
        torch.manual_seed(9)
        fresh = SIMGAN(**settings("simgan", **SETTINGS, text_encoder=str(root / "vse.pt"))).eval()
        assert not torch.equal(fresh.infer(x, phi, eps), model.infer(x, phi, eps))
        fresh.restore(path)
        assert torch.equal(fresh.infer(x, fresh.encode([A, B, A]), eps), model.infer(x, phi, eps))


def test_other_files_are_refused_in_one_sentence(root: Path, tmp_path: Path) -> None:
    model, wide = (
        make_model(root),
        SIMGAN(**settings("simgan", **SETTINGS | {"ngf": 16, "ndf": 16}, text_encoder=str(root / "vse.pt"))),
    )
    editor = exported(wide, tmp_path / "wide.pt")
    ours = exported(model, tmp_path / "ours.pt")
    checkpoint = {"state_dict": wide.state_dict(), "hyper_parameters": dict(wide.hparams)}
    wide.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "wide.ckpt")
    torch.save(checkpoint | {"suite": {"model": "VSE"}}, tmp_path / "vse.ckpt")
    torch.save(torch.load(ours, weights_only=True) | {"format": 9}, tmp_path / "later.pt")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "weights.pth")
    (tmp_path / "cut.pt").write_bytes(ours.read_bytes()[:2000])
    words = {
        root / "vse.pt": "holds a vse, not a simgan",
        tmp_path / "weights.pth": "holds something else, not a simgan",
        tmp_path / "later.pt": "is of format 9, not 2",
        tmp_path / "cut.pt": "cannot be read as weights",
        tmp_path / "absent.pt": "no weights file at",
        tmp_path / "vse.ckpt": "vse.ckpt is of VSE, not of SIMGAN",
        tmp_path / "wide.ckpt": "add model.generator.ngf=16 model.discriminator.ndf=16 to the command",
        editor: "add model.generator.ngf=16 to the command",
    }
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for path, said in words.items():
        with pytest.raises(UserError, match=said) as caught:
            model.restore(path)
        assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(UserError, match="needs a text encoder"):
        SIMGAN(**settings("simgan", **SETTINGS)).export()
