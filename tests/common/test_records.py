"""The fingerprint of what is trained on: another one for other data, the same one for a copy."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.readers.folder import Folder
from tests.worlds.layouts import make_folder

ALL = ("image", "mask", "caption", "attributes", "joints", "target")


def repaint(path: Path) -> None:
    """Another colour in one corner, in a file of the same kind."""
    with Image.open(path) as image:
        pixels = np.asarray(image).copy()
    pixels[:8, :8] = 255 - pixels[:8, :8]
    Image.fromarray(pixels).save(path, quality=95)


def relabel(root: Path) -> None:
    file = root / "labels.csv"
    rows = file.read_text().splitlines()
    file.write_text("\n".join([rows[0].replace(",robin", ",wren"), *rows[1:]]) + "\n")


def recaption(root: Path) -> None:
    (root / "captions.csv").write_text((root / "captions.csv").read_text().replace("a bird", "a cat", 1))


def same(root: Path) -> None:
    for path in root.rglob("*"):
        os.utime(path, (1, 1))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    root = tmp_path / "own"
    names = [f"{kind}/{i}" for kind in ("robin", "wren", "owl", "tit") for i in range(3)]
    make_folder(root, {name: ("a bird",) for name in names}, masks=True)
    (root / "labels.csv").write_text("".join(f"{name},{name.partition('/')[0]}\n" for name in names))
    return root


@pytest.mark.parametrize(
    ("change", "seen_by"),
    [
        (relabel, {"image", "caption", "mask", "attributes", "joints", "target"}),
        (recaption, {"caption"}),
        (lambda root: repaint(root / "images/owl/1.jpg"), {"image", "target"}),
        (lambda root: repaint(root / "masks/owl/1.png"), {"mask"}),
        (same, set()),
    ],
    ids=["label", "caption", "photo", "mask", "times"],
)
def test_a_change_of_the_data_is_seen_by_those_who_read_it(
    own: Path, tmp_path: Path, change: Callable[[Path], None], seen_by: set[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(own, copy)
    change(copy)
    before, after = (Folder(root=root, masks=True).read() for root in (own, copy))
    assert {read for read in ALL if before.fingerprint([read]) != after.fingerprint([read])} == seen_by


def test_tables_are_seen_by_those_who_read_them(own: Path) -> None:
    plain = Folder(root=own).read()
    count = len(plain)
    for reads, name, shape in (
        ("attributes", "attributes", (count, 5)),
        ("attributes", "certainty", (count, 5)),
        ("joints", "joints", (count, 18, 2)),
        ("target", "identities", (count,)),
    ):
        zero, one = (replace(plain, **{name: np.full(shape, value, np.int16)}) for value in (0, 1))
        seen_by = {read for read in ALL if zero.fingerprint([read]) != one.fingerprint([read])}
        assert seen_by == {reads}
