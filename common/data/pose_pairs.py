"""Pairs of photos of one person in the same clothes: the item-disjoint split and its pairs.

Keys are those of readers/fashion_names.py. What is drawn here depends on names alone, not on files or machines.
"""

import random
from collections.abc import Iterable
from itertools import groupby, permutations
from pathlib import Path

import numpy as np

from common.data.readers.fashion_names import group, item
from common.data.records import Records
from common.errors import UserError
from common.files import sha256, write_whole

TRAIN_PAIRS, TEST_PAIRS = 146_680, 12_800  # GGB, Sec. 4: ours number as many as PG2's
HELD_BACK = 500  # training pairs that no epoch shows, for watching a run
Pair = tuple[str, str]  # keys of source and target


def ordered_pairs(keys: Iterable[str]) -> list[Pair]:
    """Every ordered pair within each group of garment and colour; groups and photos sorted."""
    groups = groupby(sorted(keys), group)
    return [pair for _, photos in groups for pair in permutations(photos, 2)]


def held_items(keys: Iterable[str], pairs: int = TEST_PAIRS) -> set[str]:
    """The items held back: in a fixed random order, as many as it takes to have `pairs` ordered pairs of their photos.

    Of fewer photos than DeepFashion's, no greater share than there: TEST_PAIRS of TEST_PAIRS + TRAIN_PAIRS.
    """
    keys = list(keys)
    count = {name: 0 for name in sorted({item(key) for key in keys})}
    for source, _ in ordered_pairs(keys):
        count[item(source)] += 1
    wanted = min(pairs, sum(count.values()) * TEST_PAIRS / (TEST_PAIRS + TRAIN_PAIRS))
    names = list(count)
    random.Random(0).shuffle(names)
    held: set[str] = set()
    for name in names:
        if wanted <= 0:
            break
        held.add(name)
        wanted -= count[name]
    return held


def drawn_pairs(keys: Iterable[str], most: int | None = None) -> tuple[list[Pair], list[Pair]]:
    """The first `most` of all ordered pairs in a fixed random order (None: all of them), and those left over."""
    return drawn(ordered_pairs(keys), most)


def drawn(pairs: Iterable[Pair], most: int | None = None) -> tuple[list[Pair], list[Pair]]:
    """`drawn_pairs` of a list of pairs."""
    pairs = list(pairs)
    random.Random(0).shuffle(pairs)
    most = len(pairs) if most is None else most
    return pairs[:most], pairs[most:]


def without_groups(pairs: Iterable[Pair], count: int) -> tuple[list[Pair], list[Pair]]:
    """The pairs without those of `count` groups, which a fixed seed draws, and those. UserError: none would stay."""
    pairs = list(pairs)
    groups = sorted({group(source) for source, _ in pairs})
    if count >= len(groups):
        raise UserError(
            f"data.val_groups={count} is all there is to train on, {len(groups)} groups of pairs: take fewer."
        )
    random.Random(0).shuffle(groups)
    held = set(groups[:count])
    kept = [pair for pair in pairs if group(pair[0]) not in held]
    return kept, drawn(pair for pair in pairs if group(pair[0]) in held)[0]


def csv_text(pairs: Iterable[Pair]) -> str:
    """from,to with official paths below img/, one pair a line."""
    return "from,to\n" + "".join(f"{source}.jpg,{target}.jpg\n" for source, target in pairs)


def digest(records: Records, split: str) -> str:
    """SHA-256 of `csv_text` of the records' pairs: two runs with the same one are scored on the same pairs."""
    return sha256(csv_text(named(records, split)))


def named(records: Records, split: str) -> list[Pair]:
    """The pairs of a split by key."""
    return [(records.keys[source], records.keys[target]) for source, target in records.pose_pairs[split].tolist()]


def write_pairs(records: Records, split: str, path: Path) -> None:
    """The pairs as a csv file that `files=` of the reader, and other code of this line of work, can take."""
    write_whole(path, csv_text(named(records, split)))


def pairs_of(records: Records, split: str) -> np.ndarray:
    """P,2 int64 rows of source and target. UserError where the records have none."""
    if not len(pairs := records.pose_pairs.get(split, np.zeros((0, 2), np.int64))):
        raise UserError(
            f"{records.name} in {records.root} has no {split} pairs of one person in two poses: use data=deepfashion."
        )
    return pairs
