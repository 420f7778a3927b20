"""Class-disjoint splits: the test classes are never seen in training (Reed et al. 2016's split of CUB and Oxford-102).

Not CUB's train_test_split.txt nor Oxford's setid.mat: those split the images of each class, and leak the test classes.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from common.data.readers.old_formats import read_pickle
from common.errors import UserError
from common.files import read_text

REMEDY = "take the split files of one distribution"


class Split(NamedTuple):
    """Which classes are for testing."""

    test: frozenset[int]  # class numbers as the dataset writes them, from 1
    path: Path  # the file that names the test classes


def find_split(folders: Sequence[Path], images: Mapping[str, int]) -> Split | None:
    """The first split in the folders, None if there is none. images: image name -> class number.

    Either {train,test}/filenames.pickle (AttnGAN, StackGAN), or testclasses.txt / testids.txt with {trainval,train,val}
    lists beside (Reed). Refuses a split that names absent images, that is not disjoint, or that leaves a class out.
    """
    for folder in folders:
        files = [folder / part / "filenames.pickle" for part in ("train", "test")]
        if all(file.is_file() for file in files):
            return _checked(_pickled_classes(files[0], images), _pickled_classes(files[1], images), files[1], images)
    for folder in folders:
        for kind in ("classes", "ids"):
            test = folder / f"test{kind}.txt"
            train = [folder / f"{part}{kind}.txt" for part in ("trainval", "train", "val")]
            if test.is_file() and any(file.is_file() for file in train):
                listed = frozenset[int]().union(*(_listed_classes(file) for file in train if file.is_file()))
                return _checked(listed, _listed_classes(test), test, images)
    return None


def _pickled_classes(file: Path, images: Mapping[str, int]) -> frozenset[int]:
    classes = set()
    for row, key in enumerate(read_keys(file)):
        if (name := key.rpartition("/")[2]) not in images:
            raise UserError(f"{file} entry {row} names {key!r}, which the dataset's own list does not have: {REMEDY}.")
        classes.add(images[name])
    return frozenset(classes)


def _listed_classes(file: Path) -> frozenset[int]:
    """Class numbers of lines such as "001.Black_footed_Albatross", "class_00001" or "1"."""
    classes = set()
    for row, line in enumerate(read_text(file, stray="?").splitlines(), 1):
        if line.strip():
            number = re.search(r"\d+", line)
            if number is None:
                raise UserError(f"{file} line {row} has no class number ({line.strip()!r}): {REMEDY}.")
            classes.add(int(number[0]))
    return frozenset(classes)


def _checked(train: frozenset[int], test: frozenset[int], path: Path, images: Mapping[str, int]) -> Split:
    known = set(images.values())
    if both := sorted(train & test):
        raise UserError(f"{path} shares class {both[0]} with the training classes, so it is not zero-shot: {REMEDY}.")
    if unknown := sorted((train | test) - known):
        raise UserError(
            f"{path} or the training list beside it names class {unknown[0]}, which has no image: {REMEDY}."
        )
    if left_out := sorted(known - train - test):
        raise UserError(f"{path} and the training list beside it leave out class {left_out[0]}: {REMEDY}.")
    if not test or not train:
        raise UserError(f"{path} leaves no class to {'train' if test else 'test'} on: {REMEDY}.")
    return Split(test, path)


def read_keys(file: Path) -> list[str]:
    """The list of image keys ("class_dir/name") of a filenames.pickle."""
    keys = read_pickle(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise UserError(f"{file} is not a list of image names: {REMEDY}.")
    if len(set(keys)) < len(keys):
        twice = next(key for row, key in enumerate(keys) if key in keys[:row])
        raise UserError(f"{file} names {twice!r} twice: {REMEDY}.")
    return keys
