"""What every model's pictures share: the request, photos by name, sheets and the files that are written of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.module import ImageData
from common.data.readers.folder import Folder
from common.pictures import Request, Sheet, destination, find_images, first_images, pixels, to_picture, write
from tests.worlds.layouts import refusal

S = 32
SAMPLE: dict[str, Any] = {
    "task": "sample",
    "image": "a.jpg",
    "text": ["one", "two"],
    "n": 3,
    "seed": 5,
    "pictures": {"module": "paper.figures", "figures": {"grid": "all of it"}, "scale": 0.5},
}
FIGURE = SAMPLE | {"task": "figure", "images": [], "texts": "one", "steps": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageData:
    """Four classes of three photos each."""
    folder, rng = tmp_path_factory.mktemp("birds"), np.random.default_rng(0)
    for name in "abcd":
        for number in range(3):
            path = folder / "images" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (50, 44, 3), np.uint8)).save(path)
    return ImageData(
        dataset=Folder(root=folder, captions="none"),
        image_size=S,
        batch_size=2,
        reads=["image"],
        store=folder / "store",
    )


# ---- what is asked for


def test_a_request_is_read_off_a_command() -> None:
    asked = Request.of(SAMPLE)
    assert (asked.images, asked.texts, asked.n, asked.seed) == (["a.jpg"], ["one", "two"], 3, 5)
    assert asked.settings == {"scale": 0.5}
    assert asked.pairs() == ([0, 0], [0, 1])
    shown = Request.of(FIGURE)
    assert (shown.images, shown.texts, shown.steps, shown.every) == ([], ["one"], 4, False)
    for change, said in (
        ({"n": 0}, "n=0 is not a whole number from 1 on"),
        ({"steps": 1}, "steps=1 is not a whole number from 2 on"),
        ({"n": "many"}, "n=many"),
        ({"pictures": None, "chosen": {"model": "vse"}}, "model=vse makes no pictures"),
    ):
        assert said in refusal(lambda change=change: Request.of(FIGURE | change))


def test_images_and_texts_are_crossed_or_paired() -> None:
    a, b, one, two, three = "a", "b", "1", "2", "3"
    assert Request([a, b], [one, two], every=True).pairs() == ([0, 0, 1, 1], [0, 1, 0, 1])
    assert Request([a, b], [one, two]).pairs() == ([0, 1], [0, 1])
    assert Request([a], [one, two]).pairs() == ([0, 0], [0, 1])
    assert Request([a, b], [one]).pairs() == ([0, 1], [0, 0])
    assert Request([], [one, two]).pairs() == ([0, 0], [0, 1])
    assert "there are 2 images and 3 texts" in refusal(Request([a, b], [one, two, three]).pairs)


# ---- photos in


def photo(path: Path, width: int, height: int, mode: str) -> str:
    levels = np.random.default_rng(width).integers(0, 255, (height, width, 4), dtype=np.uint8)
    Image.fromarray(levels).convert(mode).save(path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "size", "mode"), [("s.png", (9, 7), "RGBA"), ("l.jpg", (900, 300), "L"), ("p.png", (40, 60), "P")]
)
def test_photos_of_any_size_and_kind_become_one_square(
    data: ImageData, tmp_path: Path, name: str, size: tuple[int, int], mode: str
) -> None:
    x = pixels(find_images([photo(tmp_path / name, *size, mode)], data), data)
    assert x.shape == (1, 3, S, S)
    assert -1 <= x.min() < x.max() <= 1


def test_files_and_test_images_stand_side_by_side(data: ImageData, tmp_path: Path) -> None:
    file, key = photo(tmp_path / "own.png", 40, 40, "RGB"), data.records.keys[int(data.rows("test")[1])]
    images = find_images([file, key], data)
    assert images.rows == [None, data.rows("test")[1]]
    assert not images.known
    x = pixels(images, data)
    assert torch.equal(x[0], pixels(find_images([file], data), data)[0])
    batch = data.move(next(iter(data.eval_loader(rows=data.rows("test")[1:2]))), "cpu")
    assert torch.equal(x[1], batch["image"][0])


def test_test_images_come_from_each_class_in_turn(data: ImageData) -> None:
    labels = data.records.labels[first_images(data, 5).rows]
    assert len(set(labels[:2])) == len(set(labels[2:4])) == 2
    assert len(set(data.records.labels[data.rows("test")])) == 2


def test_a_photo_that_cannot_be_read_is_a_sentence(data: ImageData, tmp_path: Path) -> None:
    whole = photo(tmp_path / "whole.jpg", 200, 200, "RGB")
    (tmp_path / "broken.jpg").write_bytes(Path(whole).read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no picture")
    for name in ("broken.jpg", "text.png"):
        images = find_images([str(tmp_path / name)], data)
        assert "cannot be read as a photo" in refusal(lambda images=images: pixels(images, data))
    nowhere = ImageData(dataset=Folder(root=tmp_path / "absent"), image_size=S, batch_size=2)
    assert "absent.jpg is no file" in refusal(lambda: find_images(["absent.jpg"], nowhere))


# ---- pictures out


def sheet(columns: int = 2, side: int = 8, **more: Any) -> Sheet:
    """Two rows of white squares."""
    return Sheet({f"column {k}": torch.ones(2, 3, side, side) for k in range(columns)}, **more)


def ink(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).min(2) < 128


def test_a_sheet_has_words_below_each_picture() -> None:
    plain = sheet().render()
    words = sheet(below=[["", ""], ["", "upper tail color: iridescent"]]).render()
    assert words.height == plain.height + 15 * 2
    assert not ink(words)[20 : 20 + 8 + 128].any()
    assert not ink(words)[20 + 128 + 20 + 128 :, :136].any()
    assert ink(words)[20 + 128 + 20 + 128 :, 136:].any()


def test_files_of_a_sheet(tmp_path: Path) -> None:
    rows = [{"text": "one"}, {"text": "two"}]
    columns = {"given": torch.ones(2, 3, S, S), "a": torch.zeros(2, 3, S, S), "b": torch.full((2, 3, S, S), -1.0)}
    write(Sheet(columns, ["one", "two"], {"rows": rows}, generated=["a", "b"]), tmp_path / "s.png", {"seed": 5})
    told = json.loads((tmp_path / "s.json").read_text())
    assert (told["seed"], told["columns"]) == (5, ["given", "a", "b"])
    assert [row["files"] for row in told["rows"]] == [["s-1-1.png", "s-1-2.png"], ["s-2-1.png", "s-2-2.png"]]
    assert [row["text"] for row in told["rows"]] == ["one", "two"]
    assert Image.open(tmp_path / "s-2-1.png").tobytes() == to_picture(columns["a"][1]).tobytes()
    write(Sheet(columns, ["one", "two"], {"n": 3}, moving=["a", "b"]), tmp_path / "w.png", {"seed": 5})
    told = json.loads((tmp_path / "w.json").read_text())
    assert (told["rows"], told["n"], told["animation"]) == (["one", "two"], 3, "w.gif")
    animation = Image.open(tmp_path / "w.gif")
    assert animation.n_frames == 2
    assert animation.width == 2 * 132 + 4 < Image.open(tmp_path / "w.png").width
    assert len(list(tmp_path.iterdir())) == 2 + 4 + 3


def test_a_picture_needs_a_name_of_its_own_kind(tmp_path: Path) -> None:
    assert destination(None, tmp_path / "figures", "grid.png") == tmp_path / "figures" / "grid.png"
    assert "is not the name of a PNG" in refusal(lambda: destination(str(tmp_path / "out.jpg"), tmp_path, "grid.png"))
    (tmp_path / "file").write_text("")
    assert "cannot be made" in refusal(lambda: destination(str(tmp_path / "file" / "out.png"), tmp_path, "grid.png"))
