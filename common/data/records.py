"""What a reader hands over (`Records`) and what a batch holds (`Sample`): stated once, spoken by all datasets.

Without torch, which takes seconds to import: where a data set is absent, its reader says so at once.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

FRAME = 256  # side of the photos that key points are given for
LAST = 64  # bytes of a file that `Records.fingerprint` looks at
MaskReader = Callable[[Path, np.ndarray], np.ndarray]


class Sample(TypedDict, total=False):
    """A batch. B images of side S. Keys that the model does not read (`data.reads`) are absent.

    On the device, after `ImageData.on_after_batch_transfer`; from the loader, `image` and `mask` are uint8.
    """

    image: Tensor  # B,3,S,S float in [-1, 1], RGB
    mask: Tensor  # B,1,S,S float in {0, 1}, 1 = foreground, cut and flipped like the image
    attributes: Tensor  # B,A float in {0, 1} (CUB: A = 312, in the order of attributes.txt)
    label: Tensor  # B int64, class, 0-based into Records.classes
    flip: Tensor  # B bool, whether the image is mirrored; training alone
    row: Tensor  # B int64, row of the image in Records: index into tables over the whole dataset
    target: Tensor  # B,3,S,S float in [-1, 1]: what `image` shows, the same person in the same clothes, in another pose
    target_row: Tensor  # B int64, row of the target
    joints: (
        Tensor  # B,18,2 int64: x, y in pixels of `image`, -1, -1 = missing; in the order of common.data.poses.JOINTS
    )
    target_joints: Tensor  # B,18,2 int64, of `target`
    caption: Tensor  # B int64, which of the image's own captions is t
    other: Tensor  # B,3,S,S float in [-1, 1]: the image of other_row, cut and flipped like `image`; training alone
    other_row: Tensor  # B int64, row of an image of another class ...
    other_caption: Tensor  # B int64, ... and which of its captions is the mismatched sentence
    pair: (
        Tensor  # B int64, evaluation only: pair_id, seeds the noise of this pair; of a pose pair its place in the list
    )


@dataclass(frozen=True)
class Records:
    """One dataset as its reader found it: N images, in a fixed order that does not depend on the file system."""

    name: str  # "cub", "oxford102", "folder"
    root: Path  # the folder that was read
    keys: tuple[str, ...]  # N stable names, the image path without extension as the dataset spells it
    images: tuple[Path, ...]  # N absolute paths
    labels: np.ndarray  # N int64, 0-based into classes
    classes: tuple[str, ...]
    test: np.ndarray  # N bool, True = an image of a test class
    captions: tuple[tuple[str, ...], ...] = ()  # N tuples of one or more sentences, or () when there are none
    masks: tuple[Path, ...] = ()  # N paths, or () when the dataset has none
    read_mask: MaskReader | None = None  # (mask path, RGB uint8 H,W,3) -> uint8 H,W in {0, 1}; module-level function
    boxes: np.ndarray | None = None  # N,4 float32: x, y, width, height in pixels
    attributes: np.ndarray | None = None  # N,A uint8 in {0, 1}
    certainty: np.ndarray | None = None  # N,A uint8: 1 not visible, 2 guessing, 3 probably, 4 definitely
    attribute_names: tuple[str, ...] = ()  # A names such as has_wing_color::red
    joints: np.ndarray | None = None  # N,18,2 int16: x, y in a frame of 256x256 that the photo fills; -1, -1 = missing
    identities: np.ndarray | None = None  # N int64: photos of one show the same person in the same clothes
    pose_pairs: dict[str, np.ndarray] = field(default_factory=dict)  # "train", "val", "test": P,2 rows: source, target
    framing: str = ""  # how each photo is made 256x256 before all else, one of geometry.FRAMINGS; "" = it is as it is
    squash: bool = False  # the sides are resized each by itself, so that all images are squares
    background: str = "white"  # a colour, behind what is transparent in a photo
    mirrored: bool = False  # each training pair is seen twice an epoch: as it is, and with both photos mirrored
    procedural: bool = False  # drawn by common/data/procedural
    expected: int = 0  # how many images the complete dataset has
    notes: tuple[str, ...] = field(default=())  # one sentence for each thing that was absent or skipped

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self, split: str) -> np.ndarray:
        """Rows of a split, ascending int64. split: "train", "test" or "all"."""
        if split == "all":
            return np.arange(len(self))
        return np.flatnonzero(self.test if split == "test" else ~self.test)

    def fingerprint(self, reads: Collection[str]) -> str:
        """64 hex digits of what a model that reads these (`ImageData.reads`) is trained on: names, classes, split, and
        as far as they are read captions, attributes, poses and pairs, photos and masks.

        The same for every copy of the data: no place and no time goes in. Of a photo or mask its size in bytes and its
        last bytes count, in which whatever changes a compressed picture shows.
        """
        columns: dict[str, Any] = {"keys": self.keys, "labels": self.labels, "classes": self.classes}
        columns |= {"test": self.test, "framing": self.framing, "mirrored": self.mirrored, "boxes": self.boxes}
        columns["background"] = self.background
        if self.squash:  # else the hash is as it was before this was possible
            columns["squash"] = True
        if "caption" in reads:
            columns["captions"] = self.captions
        if "attributes" in reads:
            columns |= {"attributes": self.attributes, "certainty": self.certainty, "names": self.attribute_names}
        if "joints" in reads:
            columns["joints"] = self.joints
        if "target" in reads:
            columns |= {"identities": self.identities, **self.pose_pairs}
        with ThreadPoolExecutor(8) as pool:  # they wait for the disk
            columns["images"] = tuple(pool.map(_mark, self.images if {"image", "target"} & set(reads) else ()))
            columns["masks"] = tuple(pool.map(_mark, self.masks if "mask" in reads else ()))
        digest = hashlib.sha256()
        for name, value in sorted(columns.items()):
            plain = value.astype(value.dtype.newbyteorder("<")).tobytes() if isinstance(value, np.ndarray) else value
            digest.update(repr((name, getattr(value, "shape", None), plain)).encode())
        return digest.hexdigest()

    def take(self, rows: np.ndarray) -> Records:
        """The same dataset with only these rows, in this order."""

        def cut(values: tuple) -> tuple:
            return tuple(values[i] for i in rows) if values else ()

        def pick(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        place = np.full(len(self), -1)
        place[rows] = np.arange(len(rows))
        pairs = {split: place[each] for split, each in self.pose_pairs.items()}
        return replace(
            self,
            keys=cut(self.keys),
            images=cut(self.images),
            labels=self.labels[rows],
            test=self.test[rows],
            captions=cut(self.captions),
            masks=cut(self.masks),
            boxes=pick(self.boxes),
            attributes=pick(self.attributes),
            certainty=pick(self.certainty),
            joints=pick(self.joints),
            identities=pick(self.identities),
            pose_pairs={split: each[(each >= 0).all(1)] for split, each in pairs.items()},
        )


def _mark(path: Path) -> str:
    """The size of a file and its last bytes: a PNG's checksum, the end of a JPEG's stream."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return "no file"
        with path.open("rb") as file:
            file.seek(max(0, found.st_size - LAST))
            return f"{found.st_size} {file.read(LAST).hex()}"
    except OSError:
        return "absent"
