"""A user's own images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.readers.folder import Folder
from tests.worlds.layouts import make_folder, refusal

OWN = {
    f"{kind}/{i}": [f"a {kind} number {i}", f"one {kind}, seen"]
    for kind in "finch gull heron ibis".split()
    for i in "ab"
}


@pytest.mark.parametrize("table", [True, False])
def test_folder_with_classes(tmp_path: Path, table: bool) -> None:
    make_folder(tmp_path, OWN, table=table, masks=True)
    records = Folder(root=tmp_path, masks=True).read()
    assert records.keys == tuple(sorted(OWN))
    assert records.classes == ("finch", "gull", "heron", "ibis")
    assert records.captions == tuple(tuple(OWN[key]) for key in sorted(OWN))
    assert (records.name, records.expected, records.notes) == ("folder", 8, ())
    assert len(set(records.labels[records.test])) == 2
    assert not set(records.labels[records.test]) & set(records.labels[~records.test])
    assert records.read_mask is not None
    mask = records.read_mask(records.masks[0], np.asarray(Image.open(records.images[0]).convert("RGB")))
    assert mask.sum() == 40


def test_folder_without_classes_makes_each_image_one(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"photo{i}": [f"this is photo {i}"] for i in range(10)})
    records = Folder(root=tmp_path).read()
    assert records.labels.tolist() == list(range(10))
    assert "each image is a class of its own" in records.notes[0]
    assert records.test.sum() == 2
    assert (Folder(root=tmp_path).read().test == records.test).all()
    write_more = {f"photo{i}": ["text"] for i in range(10, 12)}
    make_folder(tmp_path / "other", write_more)
    assert "holds 2 images to use" in refusal(Folder(root=tmp_path / "other").read)


def test_folder_with_few_classes_splits_each(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"{kind}/{i}": ["text"] for kind in ("finch", "gull") for i in range(6)})
    records = Folder(root=tmp_path).read()
    assert np.bincount(records.labels[records.test]).tolist() == [1, 1]
    for path in list((tmp_path / "images" / "gull").glob("*.jpg"))[1:]:
        path.unlink()
    assert "class gull has one image" in refusal(Folder(root=tmp_path, allow_missing=True).read)


def test_folder_labels_csv(tmp_path: Path) -> None:
    make_folder(tmp_path, OWN)
    path = tmp_path / "labels.csv"
    rows = [f"images/{key}.jpg,{'small' if key[-1] == 'a' else 'large'}" for key in OWN]
    path.write_text("\n".join(["image,class", *rows]))
    assert Folder(root=tmp_path).read().classes == ("large", "small")
    path.write_text("\n".join([*rows, "finch/a,large"]))
    assert f"{path} line 9 labels finch/a again, after line 1" in refusal(Folder(root=tmp_path).read)
    path.write_text("\n".join(rows[1:]))
    assert f"{path} has no class for finch/a" in refusal(Folder(root=tmp_path).read)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("heron/z.jpg,a heron", "line 10 is about heron/z.jpg, which is not in"),
        ("heron/a.jpg,a heron, standing", "line 10 has 3 columns, not image and text"),
    ],
)
def test_folder_captions_csv_errors_name_the_line(tmp_path: Path, row: str, words: str) -> None:
    make_folder(tmp_path, {key: texts[:1] for key, texts in OWN.items()})
    path = tmp_path / "captions.csv"
    path.write_text(path.read_text() + row)
    assert f"{path} {words}" in refusal(Folder(root=tmp_path).read)


def test_folder_with_missing_captions(tmp_path: Path) -> None:
    make_folder(tmp_path, OWN, table=False)
    text = tmp_path / "images" / "gull" / "a.txt"
    text.write_text("\n")
    assert f"{text} holds no caption" in refusal(Folder(root=tmp_path).read)
    records = Folder(root=tmp_path, allow_missing=True).read()
    assert "gull/a" not in records.keys
    assert records.notes == (f"1 caption files without a caption, such as {text}", "7 of 8 images' captions found")
    text.unlink()
    assert "7 of 8 images' captions (the first absent one is gull/a)" in refusal(Folder(root=tmp_path).read)
    for path in tmp_path.rglob("*.txt"):
        path.unlink()
    assert "there is no" in refusal(Folder(root=tmp_path).read)
    assert Folder(root=tmp_path, captions="none").read().captions == ()


def test_folder_absent_or_ambiguous(tmp_path: Path) -> None:
    assert "data.root=FOLDER" in refusal(Folder(root=tmp_path).read)
    make_folder(tmp_path, OWN)
    assert "masks is absent" in refusal(Folder(root=tmp_path, masks=True).read)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "finch" / "a.png")
    assert "have one name" in refusal(Folder(root=tmp_path).read)
    assert "data.captions=attngan" in refusal(lambda: Folder(root=tmp_path, captions="attngan"))
    assert "data=folder has no attributes" in refusal(lambda: Folder(root=tmp_path, attributes=True))
