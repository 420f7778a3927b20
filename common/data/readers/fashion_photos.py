"""Where the photos of DeepFashion's In-shop benchmark lie, in the layouts that are about, and which file is which."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from common.data.geometry import FRAMINGS
from common.data.readers import fashion_names as names
from common.data.readers.presence import Dataset, files_below, nested
from common.data.records import FRAME
from common.errors import UserError
from common.files import UNREADABLE, open_image

INSHOP = Dataset(
    "DeepFashion In-shop Clothes Retrieval",
    "deepfashion",
    "people",
    "Img/img.zip",
    "mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
    "its authors send the password; unpack it there",
)
PLACES = ("deepfashion", "DeepFashion", "In-shop Clothes Retrieval Benchmark", "fashion_data", "fasion", "fashion", ".")
TREES, PARTS, HIGHRES = ("Img/img", "img"), ("train", "test"), ("Img/img_highres", "img_highres")
PG2_HOME, PG2_PARTS = ("DF_img_pose", "."), ("filted_up_train", "filted_up_test")
HIGHRES_WAYS = (*FRAMINGS, "refuse")
GENDERS = ("MEN", "WOMEN")
ENDINGS = (".jpg", ".png")
LOOKED_AT = 24  # photos whose size is checked before the store is built


class Place(NamedTuple):
    """A data set's folder, and those below it that hold its photos."""

    folder: Path
    tops: tuple[Path, ...]
    pg2: bool = False  # tops are PG2's photos for training and for testing
    framing: str = ""  # Records.framing


def locate(root: Path, *, split: str, highres: str) -> Place:
    """The photos that a split is of; of 750x1101 where there are no others. UserError where there are none.

    highres: how to make those 256x256, one of HIGHRES_WAYS; refuse is a UserError.
    """
    homes = [root / place for place in PLACES]
    if place := _locate(homes, split, highres):
        return place
    trees = (*TREES, *HIGHRES, *PARTS, *PG2_PARTS)
    if place := _locate([deeper for tree in trees if (deeper := nested(root, tree))], split, highres):
        return place
    if split == "pg2":
        raise UserError(
            f"{root} has no {'/'.join((PG2_HOME[0], PG2_PARTS[0]))}: data.split=pg2 reads the photos that PG2's "
            "authors give out, data.split=disjoint needs only the data set's own."
        )
    INSHOP.refuse_absent(root, [f"{place}/{TREES[0]}" for place in PLACES[:2]])


def _locate(homes: Sequence[Path], split: str, highres: str) -> Place | None:
    """The first of these folders that holds photos that the split is of."""
    for home in homes if split != "pg2" else ():
        if tree := _tree(home, TREES):
            return Place(home, (tree,))
        parts = tuple(home / part for part in PARTS)
        if any(_first_name(part) for part in parts):
            return Place(home, parts)
    for home in homes if split != "pg2" else ():
        if tree := _tree(home, HIGHRES):
            if highres == "refuse":
                raise UserError(
                    f"{home} has only the high-resolution photos (750x1101): unpack the 256x256 ones beside them, "
                    f"{INSHOP.archive} from {INSHOP.source}, or data.highres=pad makes those again."
                )
            return Place(home, (tree,), framing=highres)
    for home in [home / name for home in homes for name in PG2_HOME] if split in ("auto", "pg2") else ():
        train, test = (home / part for part in PG2_PARTS)
        if _first_name(train):
            if not _first_name(test):
                raise UserError(f"{test} has no photos, {train} has: unpack PG2's photos for testing beside them.")
            return Place(home, (train, test), pg2=True)
    return None


def _tree(home: Path, trees: Sequence[str]) -> Path | None:
    """The first of these folders that is an official tree."""
    return next((home / tree for tree in trees if any((home / tree / gender).is_dir() for gender in GENDERS)), None)


def _first_name(folder: Path) -> str:
    """Some flat name of a photo in a folder, or ""."""
    if not folder.is_dir():
        return ""
    return next((entry.name for entry in os.scandir(folder) if names.parse(entry.name)), "")


def photos(tops: Sequence[Path]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Key -> file of all photos in these folders, and a note about files that are none."""
    found: dict[str, Path] = {}
    strange: list[Path] = []
    for top in tops:
        spelt: dict[str, str] = {}  # spelling -> the first name in it
        for path in files_below(top) if top.is_dir() else ():
            if path.suffix not in ENDINGS:
                continue
            key = names.parse(str(path.relative_to(top)))
            if key is None:
                strange.append(path)
                continue
            spelt.setdefault(names.spelling(path.name), path.name)
            if found.setdefault(key, path) != path:
                raise UserError(f"{found[key]} and {path} are names of the same photo: keep one of them.")
        if len(spelt) > 1:
            mixed = " and ".join(sorted(spelt.values()))
            raise UserError(f"{top} has names of both spellings, {mixed}: keep the photos of one source.")
    note = f"{len(strange):,} files are no photos of the data set, the first: {min(strange)}" if strange else ""
    return found, (note,) if note else ()


def check_sizes(paths: Sequence[Path], framing: str, procedural: bool) -> None:
    """Refuses photos of another size, by the headers of a few of them; the others are seen when they are decoded."""
    for path in paths[:: max(1, len(paths) // LOOKED_AT)]:
        try:
            with open_image(path) as photo:
                width, height = photo.size
        except UNREADABLE:
            continue  # the store says so, or leaves it out
        if framing and width >= height:
            raise UserError(f"{path} is {width}x{height}, no high-resolution photo of 750x1101: move them to Img/img.")
        if not framing and (width != height or not (procedural or width == FRAME)):
            raise UserError(
                f"{path} is {width}x{height}, not {FRAME}x{FRAME}: take the photos of {INSHOP.archive}, which the key "
                "points and the published scores are of."
            )
