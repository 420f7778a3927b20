"""Pictures of SIMGAN's edits and its one-file export: numerical checks 8 and 15, sidecars, what a user gets wrong."""

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
from common.pictures import to_picture
from common.text import SentenceEncoder, Vocabulary
from simgan import figures
from simgan.model import SIMGAN
from tests.worlds.settings import settings

SIDE, D = 32, 12
COLOURS = {"red": (210, 40, 40), "green": (40, 180, 60), "blue": (50, 70, 220), "grey": (128, 128, 128)}
A, B = "a red bird with white wings", "this bird is blue"
LOSS: dict[str, dict[str, float | None]] = {
    "d": {"real": 1.0, "mismatch": 1.0, "fake": 1.0},
    "g": {"adversarial": 1.0, "cycle": 10.0, "conditioning": 1.0, "identity": None},
}
SETTINGS: dict[str, Any] = {"image_size": SIDE, "loss": LOSS, "phi_dim": D, "ngf": 8, "n_res": 1, "ca_dim": 8, "ndf": 8}
SAMPLE = {"task": "sample", "text": A, "n": 3, "eps_scale": 1.0, "seed": 5, "checkpoint": "some.ckpt", "output": None}
FIGURE: dict[str, Any] = {
    "task": "figure",
    "images": [],
    "texts": [],
    "n": 3,
    "steps": 4,
    "space": "phi",
    "eps": "mean",
    "seed": 5,
    "checkpoint": None,
    "output": None,
}


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
    vocabulary = Vocabulary.build(lines)
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
    phi, eps = model.encode([A, B, A]), figures.noise(model, 3, 0)
    assert torch.equal(model.draw(x, phi, eps), model.draw(x, phi, eps))
    assert (model.draw(x, phi, eps) - model.draw(x, phi, eps + 1)).abs().mean() > 0.01


def test_the_mean_edit_ignores_the_random_state(model: SIMGAN, x: torch.Tensor) -> None:
    phi = model.encode([A, B, A])
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = model.draw(x, phi, mode="mean")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert torch.equal(first, model.draw(x, phi, mode="mean"))
    assert torch.equal(first, model.draw(x, phi, torch.zeros(3, 8)))


def test_an_edit_does_not_depend_on_the_rest_of_its_batch(model: SIMGAN, x: torch.Tensor) -> None:
    """In double: these weights amplify single precision's rounding, which differs with the batch, to just 1e-6."""
    phi, eps = model.encode([A, B, A]).double(), figures.noise(model, 3, 0).double()
    model, x = deepcopy(model).double(), x.double()
    alone = torch.cat([model.draw(x[i : i + 1], phi[i : i + 1], eps[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(model.draw(x, phi, eps), alone, atol=1e-6, rtol=0)


# ---- drawing


@pytest.mark.parametrize("space", ["phi", "c"])
@pytest.mark.parametrize("noisy", [True, False])
def test_interpolation_ends_at_the_plain_edits(model: SIMGAN, x: torch.Tensor, space: str, noisy: bool) -> None:
    """Check 15, and that what lies between is neither end."""
    a, b = model.encode([A] * 3), model.encode([B] * 3)
    eps = figures.noise(model, 3, 0) if noisy else None
    strip = list(figures.interpolate(model, x, a, b, steps=5, eps=eps, space=space).values())[1:]
    mode = "sample" if noisy else "mean"
    assert len(strip) == 5
    assert torch.equal(strip[0], model.draw(x, a, eps, mode))
    assert torch.equal(strip[-1], model.draw(x, b, eps, mode))
    assert all((strip[2] - strip[end]).abs().mean() > 0.005 for end in (0, -1))


def test_the_two_spaces_of_interpolation_differ(model: SIMGAN, x: torch.Tensor) -> None:
    a, b = model.encode([A] * 3), model.encode([B] * 3)
    middle = [list(figures.interpolate(model, x, a, b, steps=3, space=s).values())[2] for s in ("phi", "c")]
    assert not torch.allclose(*middle, atol=1e-4)


def test_diversity_shows_the_source_each_noise_and_the_mean(model: SIMGAN, x: torch.Tensor) -> None:
    phi, eps = model.encode([A, B, A]), figures.noise(model, 2, 0)
    columns = figures.diversity(model, x, phi, eps)
    assert list(columns) == ["source", "edit 1", "edit 2", "mean"]
    assert torch.equal(columns["source"], x)
    assert torch.equal(columns["edit 2"], model.draw(x, phi, eps[[1, 1, 1]]))
    assert torch.equal(columns["mean"], model.draw(x, phi, mode="mean"))


def test_cycle_takes_the_edit_back_by_the_own_sentence(model: SIMGAN, x: torch.Tensor) -> None:
    own, target, eps = model.encode([A] * 3), model.encode([B] * 3), figures.noise(model, 3, 0)
    first, edit, back, difference = figures.cycle(model, x, own, target, eps).values()
    assert torch.equal(edit, model.draw(x, target, eps))
    assert torch.equal(back, model.draw(edit, own, mode="mean"))
    shown = np.asarray(to_picture(difference[0]), float)
    wanted = 4 * (((back - first)[0] / 2).abs() * 255).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(shown, wanted.clip(0, 255), atol=0.51)


def test_grid_edits_every_photo_by_every_sentence(model: SIMGAN, x: torch.Tensor) -> None:
    phi, eps = model.encode([A, B]), figures.noise(model, 1, 0)
    columns = figures.grid(model, x, phi, eps)
    assert list(columns) == ["photo 1", "photo 2", "photo 3"]
    assert torch.equal(columns["photo 3"][0], x[2])
    wanted = model.draw(x[2:], phi[1:], eps)[0]
    torch.testing.assert_close(columns["photo 3"][2], wanted, atol=1e-5, rtol=0)  # batches of other sizes


def test_compare_takes_any_number_of_methods(model: SIMGAN, x: torch.Tensor) -> None:
    columns = figures.compare({"one": lambda x, s: x + len(s), "two": lambda x, s: -x}, x, [A, B, A])
    assert list(columns) == ["source", "one", "two"]
    assert torch.equal(columns["one"], x + 3)


# ---- task=sample


def photo(path: Path, width: int = 40, height: int = 40, mode: str = "RGB") -> str:
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 4), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "size", "mode"), [("s.png", (9, 7), "RGBA"), ("l.jpg", (900, 300), "L"), ("p.png", (40, 60), "P")]
)
def test_photos_of_any_size_and_kind_become_one_square(
    data: ImageData, tmp_path: Path, name: str, size: tuple[int, int], mode: str
) -> None:
    x = figures.read_photos([photo(tmp_path / name, *size, mode)], data)
    assert x.shape == (1, 3, SIDE, SIDE)
    assert -1 <= x.min() < x.max() <= 1


def test_sample_writes_the_sheet_each_edit_and_how_they_were_made(
    model: SIMGAN, data: ImageData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = [photo(tmp_path / "one.jpg"), photo(tmp_path / "two.png", 90, 50)]
    texts = [A, "a zorgle BLUE zorgle gribble bird"]
    cfg = SAMPLE | {"image": images, "text": texts, "output": str(tmp_path / "out" / "mine.png")}
    with caplog.at_level(logging.WARNING):
        path = figures.sample(cfg, model, data, tmp_path / "samples")
    assert caplog.messages == ["unknown words, read as <unk>: zorgle, gribble"]
    assert path == tmp_path / "out" / "mine.png"
    told = json.loads(path.with_suffix(".json").read_text())
    assert (told["checkpoint"], told["seed"], told["eps_scale"]) == ("some.ckpt", 5, 1.0)
    assert [(row["image"], row["text"]) for row in told["rows"]] == [(i, t) for i in images for t in texts]
    assert told["unknown"] == ["zorgle", "gribble"]
    last = path.with_name(told["rows"][3]["edits"][2])
    x, phi, eps = figures.read_photos(images[1:], data), model.encode(texts[1:]), figures.noise(model, 3, 5)
    wanted = np.asarray(to_picture(model.draw(x, phi, eps[2:])[0]), int)
    assert wanted.std() > 5
    assert np.abs(np.asarray(Image.open(last), int) - wanted).max() <= 1
    assert len(list(path.parent.iterdir())) == 2 + 4 * 3


def test_sample_repeats_itself_and_varies_with_seed_and_scale(model: SIMGAN, data: ImageData, tmp_path: Path) -> None:
    image = photo(tmp_path / "one.jpg")

    def pictures(**more: Any) -> list[bytes]:
        path = figures.sample(SAMPLE | {"image": image} | more, model, data, tmp_path / "samples")
        names = json.loads(path.with_suffix(".json").read_text())["rows"][0]["edits"]
        return [path.with_name(name).read_bytes() for name in names]

    first, small = pictures(), pictures(eps_scale=1e-4)
    assert first == pictures()
    assert len({*first, *pictures(seed=6)}) == 6
    mean = pictures(eps_scale=0)
    assert len(mean) == 1
    edit, middle = (np.asarray(Image.open(file), int) for file in written(tmp_path, small[0], mean[0]))
    assert np.abs(edit - middle).max() <= 1  # the scale reaches the noise
    assert mean[0] not in first


def written(folder: Path, *contents: bytes) -> list[Path]:
    paths = [folder / f"{number}.png" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "nowhere.jpg"}, "there is no photo at nowhere.jpg"),
        ({"image": "{tmp}/broken.jpg"}, "cannot be read as a photo"),
        ({"image": "{tmp}/text.png"}, "cannot be read as a photo"),
        ({"text": "zorgle gribble"}, "no word of the sentence 'zorgle gribble' is known"),
        ({"text": [A, " ?! "]}, "holds no word"),
        ({"text": []}, "task=sample edits a photo by a sentence"),
        ({"n": 0}, "n=0 is not a whole number from 1 on"),
        ({"eps_scale": "much"}, "eps_scale=much is not a number"),
        ({"output": "{tmp}/out.jpg"}, "is not the name of a PNG"),
        ({"output": "{tmp}/text.png/out.png"}, "cannot be made"),
    ],
)
def test_sample_says_in_one_sentence_what_is_wrong(
    model: SIMGAN, data: ImageData, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    whole = photo(tmp_path / "whole.jpg", 200, 200)
    (tmp_path / "broken.jpg").write_bytes(Path(whole).read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no picture")
    change = {key: v.replace("{tmp}", str(tmp_path)) if isinstance(v, str) else v for key, v in change.items()}
    with pytest.raises(UserError) as caught:
        figures.sample(SAMPLE | {"image": whole} | change, model, data, tmp_path / "samples")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "samples").exists() or not list((tmp_path / "samples").iterdir())


# ---- task=figure


def draw_figure(model: SIMGAN, data: ImageData, folder: Path, **more: Any) -> tuple[Image.Image, dict[str, Any]]:
    path = figures.figure(FIGURE | more, model, data, folder / "figures")
    return Image.open(path), json.loads(path.with_suffix(".json").read_text())


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
    model: SIMGAN, data: ImageData, tmp_path: Path, name: str, columns: list[str], photos: int, each: int
) -> None:
    picture, told = draw_figure(model, data, tmp_path, figure=name)
    assert (tmp_path / "figures" / f"{name}.png").is_file()
    assert told["columns"] == columns
    assert picture.width == len(columns) * 132 + 4
    assert told["checkpoint"] == str(tmp_path / "checkpoints" / "last.ckpt")
    assert told["seed"] == 5
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
    assert told == draw_figure(model, data, tmp_path, figure=name)[1]


def test_test_images_come_from_each_class_in_turn(data: ImageData) -> None:
    labels = data.records.labels[figures.first_of_classes(data, 5)]
    assert len(set(labels[:2])) == len(set(labels[2:4])) == 2
    assert len(set(data.records.labels[data.rows("test")])) == 2


def test_figures_take_free_photos_and_sentences(model: SIMGAN, data: ImageData, tmp_path: Path) -> None:
    files = [photo(tmp_path / "one.jpg"), photo(tmp_path / "two.png", 90, 50)]
    for name in ("interp", "cycle"):
        _, told = draw_figure(model, data, tmp_path, figure=name, images=files, texts=[A, B])
        assert (told["images"], told["texts"]) == (files, [[A, B]] * 2)
    for name in ("diversity", "compare"):
        assert draw_figure(model, data, tmp_path, figure=name, images=files, texts=[A, B])[1]["texts"] == [[A], [B]]
    _, told = draw_figure(model, data, tmp_path, figure="compare", texts=[A])  # with test images
    assert told["texts"] == [[A]] * 3
    assert len(draw_figure(model, data, tmp_path, figure="diversity", texts=[A, B])[1]["images"]) == 2
    assert len(draw_figure(model, data, tmp_path, figure="compare", images=files[0])[1]["texts"]) == 1
    grid = draw_figure(model, data, tmp_path, figure="grid", images=files, texts=[A, B, A])[1]
    assert grid["texts"] == [[A, B, A]] * 2


def test_one_noise_serves_all_steps_of_an_interpolation(model: SIMGAN, data: ImageData, tmp_path: Path) -> None:
    still, _ = draw_figure(model, data, tmp_path, figure="interp")
    still = np.asarray(still)
    noisy, told = draw_figure(model, data, tmp_path, figure="interp", eps="sample", texts=[A, A])
    assert told["eps"] == "sample"
    size, top = 132, 20 + 15  # a column; heading and one line of text
    steps = [np.asarray(noisy)[top : top + 128, 4 + size * k :][:, :128] for k in range(1, 5)]
    assert all(np.array_equal(steps[0], step) for step in steps)
    assert not np.array_equal(still, np.asarray(noisy))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"figure": "intrep"}, "figure=intrep is not known: did you mean interp?"),
        ({"figure": "interp", "space": "ph"}, "did you mean phi?"),
        ({"figure": "interp", "eps": "men"}, "did you mean mean?"),
        ({"figure": "interp", "steps": 1}, "steps=1 is not a whole number from 2 on"),
        ({"figure": "interp", "texts": [A]}, "takes two sentences to go between, and texts has 1"),
        ({"figure": "cycle", "texts": [A, B, A]}, "takes the photo's own sentence and the edit's, and texts has 3"),
        ({"figure": "cycle", "images": ["{photo}"]}, "takes a photo back by its own sentence"),
        ({"figure": "compare", "images": ["{photo}"], "texts": [A, B]}, "there are 1 photos and 2 sentences"),
        ({"figure": "grid", "texts": ["zorgle"]}, "no word of the sentence 'zorgle' is known"),
        ({"figure": "grid", "images": ["nowhere.png"]}, "there is no photo at nowhere.png"),
    ],
)
def test_figure_says_in_one_sentence_what_is_wrong(
    model: SIMGAN, data: ImageData, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    file = photo(tmp_path / "one.jpg")
    change = {k: [file] if v == ["{photo}"] else v for k, v in change.items()}
    with pytest.raises(UserError) as caught:
        draw_figure(model, data, tmp_path, **change)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- the one-file export


def exported(model: SIMGAN, path: Path) -> Path:
    model.data_name = "folder"
    torch.save(model.export(), path)
    return path


def test_the_export_alone_edits_the_same_in_a_fresh_object(
    root: Path, x: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(root)
    path, eps = exported(model, tmp_path / "simgan_folder.pt"), figures.noise(model, 3, 0)
    content = torch.load(path, weights_only=True)
    keys = {"format", "kind", "data", "config", "G", "ema", "vse", "vocab", "phi_hash"}
    assert (set(content), content["kind"], content["data"]) == (keys, "simgan", "folder")
    assert content["config"]["text_encoder"] is None
    wanted = model.draw(x, model.encode([A, B, "a zorgle bird"]), eps)
    monkeypatch.chdir(tmp_path)  # nothing is read but the file
    fresh = SIMGAN.load("simgan_folder.pt")
    assert not fresh.training
    assert torch.equal(fresh.draw(x, fresh.encode([A, B, "a zorgle bird"]), eps), wanted)
    assert fresh.export()["phi_hash"] == content["phi_hash"]
    assert figures.check_sentences(fresh, [A, "a zorgle bird"]) == ["zorgle"]


def test_the_export_keeps_the_average_and_the_statistics(root: Path, x: torch.Tensor, tmp_path: Path) -> None:
    model = make_model(root, **{"average.decay": 0.5})
    model.ema_generator.update_parameters(model.generator)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.fill_(0.1)
    nn.init.zeros_(model.generator.decoder[-2].weight)  # tells the generator from its average
    fresh = SIMGAN.load(exported(model, tmp_path / "simgan_folder.pt"))
    phi, eps = model.encode([A, B, A]), figures.noise(model, 3, 0)
    assert torch.equal(fresh.draw(x, phi, eps), model.draw(x, phi, eps))
    assert fresh.draw(x, phi, eps).std() > 0.01
    assert fresh.generator(x, phi, eps).std() < 0.01


def test_the_export_keeps_what_standardises_its_sentences(root: Path, x: torch.Tensor, tmp_path: Path) -> None:
    model = make_model(root, phi_norm="standard", **{"average.decay": 0.5})
    records = Folder(root=root).read()
    model.read_text(records)
    model.standardise(records)
    phi, eps = model.encode([A, B, A]), figures.noise(model, 3, 0)
    torch.testing.assert_close(model.generator.standardise(phi), model.discriminator.standardise(phi))
    assert (model.generator.standardise(phi) - phi).abs().mean() > 0.1
    fresh = SIMGAN.load(exported(model, tmp_path / "simgan_folder.pt"))
    assert torch.equal(fresh.draw(x, phi, eps), model.draw(x, phi, eps))


def test_restore_takes_a_checkpoint_or_the_export(root: Path, x: torch.Tensor, tmp_path: Path) -> None:
    model = make_model(root)
    phi, eps = model.encode([A, B, A]), figures.noise(model, 3, 0)
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    for path in (tmp_path / "last.ckpt", exported(model, tmp_path / "simgan_folder.pt")):
        torch.manual_seed(9)
        fresh = SIMGAN(**settings("simgan", **SETTINGS, text_encoder=str(root / "vse.pt"))).eval()
        assert not torch.equal(fresh.draw(x, phi, eps), model.draw(x, phi, eps))
        fresh.restore(path)
        assert torch.equal(fresh.draw(x, fresh.encode([A, B, A]), eps), model.draw(x, phi, eps))


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
