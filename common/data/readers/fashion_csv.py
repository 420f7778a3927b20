"""Key-point and pair files of the pose-transfer line of work: Deformable GAN's format, which PATN, ADGAN, GFLA keep.

    fasion-annotation-{train,test}.csv    name:keypoints_y:keypoints_x, then `name: [y0, ..., y17]: [x0, ..., x17]`
    fasion-pairs-{train,test}.csv         from,to, then two names a line
Other stems: fasion-resize- (PATN), fashion-resize- (ADGAN), fashion- (GFLA). A negative coordinate is missing;
one with a point is in the nearest pixel.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.data.pose_pairs import Pair
from common.data.poses import JOINTS
from common.data.readers.fashion_names import group, parse
from common.data.records import FRAME
from common.errors import UserError, choose
from common.files import read_text

FRAMES = ("auto", "256", "crop176", "squeeze176")
HEADER = "name:keypoints_y:keypoints_x"
NARROW = 176  # columns of PATN's photos: 40 to 215 of the 256
AGAIN = "correct the line or download the file again"


def read_joints(
    paths: Sequence[Path], frame: str, key_of: Callable[[str], str | None] = parse, *, narrow: str = "crop176"
) -> tuple[dict[str, np.ndarray], str]:
    """Key -> 18,2 int16: x, y in the frame of 256x256, -1, -1 = missing; and the frame that the files themselves use.
    In the order of the lines. key_of: a photo's key by its name, None = this is no name of a photo.

    frame: "256"; "crop176" (x is counted from column 40); "squeeze176" (photos 176 wide were squeezed from 256); or
    "auto": `narrow` where the file is called resize or no x reaches 176. UserError: a line that is no key points of one
    photo, a photo that two lines tell different things of.
    """
    choose("data.annotation_frame", frame, FRAMES)
    found: dict[str, np.ndarray] = {}
    for path in paths:
        for line, text in enumerate(read_text(path).splitlines(), 1):
            if line == 1:
                if text.strip() != HEADER:
                    raise UserError(f"{path} is not a file of key points: its first line must be {HEADER}.")
            elif text.strip():
                key, joints = _joints(text, f"{path} line {line}", key_of)
                if not np.array_equal(found.setdefault(key, joints), joints):
                    raise UserError(f"{path} line {line} has other key points for {key} than an earlier line: {AGAIN}.")
    widest = max((int(joints[:, 0].max()) for joints in found.values()), default=0)
    if frame == "auto":
        frame = narrow if widest < NARROW or any("resize" in path.name for path in paths) else "256"
    return {key: _framed(joints, frame) for key, joints in found.items()}, frame


def _joints(text: str, where: str, key_of: Callable[[str], str | None]) -> tuple[str, np.ndarray]:
    """A line's key and its 18,2 float64 as they are."""
    name, *fields = text.split(":")
    if (key := key_of(name)) is None:
        raise UserError(f"{where} is about {name[:80]!r}, which is no name of a DeepFashion photo: {AGAIN}.")
    try:
        y, x = (json.loads(field) for field in fields)
        counts = (len(y), len(x))
        if any(type(value) not in (int, float) or not math.isfinite(value) for value in (*y, *x)):
            raise ValueError("true, null, a text")
        points = np.array([x, y], np.float64).T if counts == (len(JOINTS), len(JOINTS)) else None
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"{where} is not `name: [18 y]: [18 x]` in numbers ({text[:80]!r}): {AGAIN}.") from None
    if points is None:
        raise UserError(
            f"{where} gives {name.strip()} {counts[0]} y and {counts[1]} x, not {len(JOINTS)} each: {AGAIN}."
        )
    return key, points


def _framed(joints: np.ndarray, frame: str) -> np.ndarray:
    """18,2 of a file -> the frame of 256x256, in the nearest pixels. What lies outside the file's frame is missing."""
    size = np.array((FRAME if frame == "256" else NARROW, FRAME))
    missing = np.any((joints < 0) | (joints >= size), axis=1, keepdims=True)
    joints = np.rint(joints).astype(np.int64).clip(max=size - 1)
    x = joints[:, 0]
    if frame == "crop176":
        x = x + (FRAME - NARROW) // 2
    elif frame == "squeeze176":
        x = x * FRAME // NARROW
    return np.where(missing, -1, np.stack([x, joints[:, 1]], 1)).astype(np.int16)


def write_joints(path: Path, joints: Mapping[str, np.ndarray]) -> None:
    """Names -> 18,2 integers x, y in the frame of 256x256 (-1 = missing), as Deformable GAN writes them."""
    rows = (f"{name}: {points[:, 1].tolist()}: {points[:, 0].tolist()}\n" for name, points in joints.items())
    path.write_text(f"{HEADER}\n{''.join(rows)}", encoding="utf-8", newline="\n")


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file, by key. UserError: a line that is none, and one with two people or one photo twice."""
    pairs = []
    rows = csv.reader(io.StringIO(read_text(path), newline=""))
    if [cell.strip() for cell in next(rows, [])] != ["from", "to"]:
        raise UserError(f"{path} is not a file of pairs: its first line must be from,to.")
    for row in rows:
        if row:
            pairs.append(pair_of(row, f"{path} line {rows.line_num}", AGAIN))
    return pairs


def pair_of(row: Any, where: str, again: str) -> Pair:
    """Two names of a file -> a pair by key. UserError: names of no photos, two people, or one photo twice."""
    row = list(row) if isinstance(row, list | tuple) else [row]
    keys = [parse(str(name)) for name in row]
    if len(row) != 2 or None in keys:
        raise UserError(f"{where} is not two names of DeepFashion photos ({','.join(map(str, row))[:120]!r}): {again}.")
    source, target = (key for key in keys if key)
    if group(source) != group(target) or source == target:
        what = "a photo with itself" if source == target else "photos of two identities"
        raise UserError(f"{where} pairs {what}, {source} and {target}: {again}.")
    return source, target
