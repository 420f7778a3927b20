"""Mismatched sentences: captions of another class, drawn for training and written to a file for evaluation.

SIMGAN, Sec. 2.1 of the paper leaves the draw open; another class always, as Reed et al. 2016 and ManiGAN do.
"""

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.records import Records
from common.data.sampling import other_class
from common.errors import UserError
from common.files import composed, read_text

COLUMNS = (
    "pair_id",
    "image",
    "class",
    "own_caption_idx",
    "target_image",
    "target_class",
    "target_caption_idx",
    "target_text",
)
COMPARED = 150  # letters and digits of a caption that are compared: Reed's files cut captions at 201 characters


@dataclass(frozen=True)
class Pairs:
    """P pairs of an image and a sentence of another class. All int64 of length P, rows of Records."""

    pair_id: np.ndarray  # seeds the noise of the pair
    row: np.ndarray
    caption: np.ndarray  # which of the image's own captions
    other_row: np.ndarray  # the target: an image of another class ...
    other_caption: np.ndarray  # ... and which of its captions
    text: tuple[str, ...]  # that caption

    def __len__(self) -> int:
        return len(self.pair_id)


def caption_counts(records: Records) -> np.ndarray:
    """N int64: how many captions each image has. Raises UserError when there are none."""
    if not records.captions:
        raise UserError(f"{records.name} in {records.root} has no captions: add them, or choose a model without text.")
    return np.array([len(captions) for captions in records.captions])


def make_pairs(records: Records, split: str = "test", pairs_per_image: int = 1, seed: int = 0) -> Pairs:
    """`pairs_per_image` pairs for each image of a split, both classes of that split (papers: class-disjoint test set).

    In passes over the split, so one pair an image is the beginning of ten; own captions take turns from pass to pass.
    """
    rows, counts = records.rows(split), caption_counts(records)
    start = np.random.default_rng([seed]).integers(0, counts[rows])
    own, others, chosen = [], [], []
    for turn in range(pairs_per_image):
        rng = np.random.default_rng([seed, turn])
        others.append(other_class(rng, records.labels, rows, rows))
        chosen.append(rng.integers(0, counts[others[-1]]))
        own.append((start + turn) % counts[rows])
    other, caption = np.concatenate(others), np.concatenate(chosen)
    return Pairs(
        pair_id=np.arange(len(other)),
        row=np.tile(rows, pairs_per_image),
        caption=np.concatenate(own),
        other_row=other,
        other_caption=caption,
        text=tuple(records.captions[row][k] for row, k in zip(other, caption, strict=True)),
    )


def write_csv(pairs: Pairs, records: Records, path: Path) -> None:
    """The pairs with names instead of rows, so that they hold for every copy of the dataset."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for i, row, k, other, j, text in zip(
            pairs.pair_id, pairs.row, pairs.caption, pairs.other_row, pairs.other_caption, pairs.text, strict=True
        ):
            classes = [records.classes[records.labels[each]] for each in (row, other)]
            writer.writerow([i, records.keys[row], classes[0], k, records.keys[other], classes[1], j, text])


def read_csv(path: Path, records: Records) -> Pairs:
    """The pairs of a file, checked against the records. Raises UserError with the line for each disagreement."""
    rows = {composed(key): row for row, key in enumerate(records.keys)}
    caption_counts(records)
    columns: list[tuple[int, ...]] = []
    texts: list[str] = []
    seen: set[int] = set()
    if not Path(path).exists():
        raise UserError(f"there is no file of pairs at {path}: correct the path, or leave pairs= out to have one made.")
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path} is not a file of pairs: its first line must be {','.join(COLUMNS)}.")
        for line in reader:
            where = f"{path}, line {reader.line_num}"
            numbers = _numbers(line, records, rows, where)
            if numbers[0] in seen:
                raise UserError(f"{where}: pair_id {numbers[0]} was there before: number the pairs differently.")
            seen.add(numbers[0])
            columns.append(numbers)
            texts.append(line["target_text"])
    except csv.Error as error:
        raise UserError(f"{path} cannot be read as pairs ({error}): delete it to have it made anew.") from error
    if not columns:
        raise UserError(f"{path} holds no pair: delete it to have it made anew.")
    ids, own, k, other, j = np.array(columns, np.int64).T
    return Pairs(pair_id=ids, row=own, caption=k, other_row=other, other_caption=j, text=tuple(texts))


def _numbers(line: dict[str, str], records: Records, rows: dict[str, int], where: str) -> tuple[int, ...]:
    """pair_id, row, caption, other_row, other_caption of a line."""
    if None in line or None in line.values():
        raise UserError(f"{where}: {len(COLUMNS)} columns are wanted, as in the first line.")
    found: list[int] = []
    for name, kind, index in (
        ("image", "class", "own_caption_idx"),
        ("target_image", "target_class", "target_caption_idx"),
    ):
        key, text = composed(line[name]), line[index]
        if key not in rows:
            raise UserError(
                f"{where}: there is no image {key!r} among the {len(records)} of {records.name} in {records.root}: "
                "take the dataset that the file was made for, or delete the file to have it made anew."
            )
        row = rows[key]
        if line[kind] != (own := records.classes[records.labels[row]]):
            raise UserError(f"{where}: {key} is of class {own!r}, not {line[kind]!r}: correct the line.")
        if not text.isdecimal() or int(text) >= len(records.captions[row]):
            raise UserError(f"{where}: {key} has captions 0 to {len(records.captions[row]) - 1}, not {text!r}.")
        found += [row, int(text)]
    if not line["pair_id"].isdecimal():
        raise UserError(f"{where}: pair_id must be a whole number, not {line['pair_id']!r}.")
    if records.labels[found[0]] == records.labels[found[2]]:
        raise UserError(f"{where}: image and target are both of class {line['class']!r}: choose a target of another.")
    caption = records.captions[found[2]][found[3]]
    if _letters(line["target_text"]) != _letters(caption):
        raise UserError(
            f"{where}: caption {found[3]} of {line['target_image']} reads {caption!r} here, not "
            f"{line['target_text']!r}: take the captions of the file, or delete it to have it made anew."
        )
    return int(line["pair_id"]), *found


def _letters(text: str) -> str:
    """What two sources of the same caption agree on: case and punctuation differ, long ones are cut."""
    return re.sub(r"[^a-z0-9]", "", text.lower())[:COMPARED]
