"""A tiny dataset for networks to train on: coloured squares, 'a small red square on dark ground'."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.data.module import ImageData
from common.data.records import Records

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "purple": (128, 0, 255),
}
GROUNDS = {"dark": 30, "light": 200}
SIZES = {"small": 8, "large": 20}


class Squares:
    """A class is a size and a colour; two are held out, their words known from the rest. The ground alternates."""

    def __init__(self, root: Path, *, per_class: int = 8, side: int = 32, **changes: Any) -> None:
        """changes: fields of Records to set otherwise."""
        self.root, self.per_class, self.side, self.changes = root, per_class, side, changes

    def read(self) -> Records:
        kinds = [(size, colour) for size in SIZES for colour in COLOURS]
        labels = np.repeat(np.arange(len(kinds)), self.per_class)
        paths = tuple(self.root / f"{i:03d}.png" for i in range(len(labels)))
        rng = np.random.default_rng(0)
        captions = []
        for i, (path, label) in enumerate(zip(paths, labels, strict=True)):
            (size, colour), ground = kinds[label], list(GROUNDS)[i % 2]
            captions.append(
                (f"a {size} {colour} square on {ground} ground", f"this {ground} one is {colour} and {size}")
            )
            width = SIZES[size] * self.side // 32
            image = GROUNDS[ground] + rng.integers(0, 30, (self.side, self.side, 3), dtype=np.uint8)
            y, x = rng.integers(0, self.side - width, 2)
            image[y : y + width, x : x + width] = COLOURS[colour]
            Image.fromarray(image).save(path)
        fields: dict[str, Any] = {
            "name": "squares",
            "root": self.root,
            "keys": tuple(path.stem for path in paths),
            "images": paths,
            "labels": labels,
            "classes": tuple(f"{size}_{colour}" for size, colour in kinds),
            "test": np.isin(labels, [0, 6]),  # small red, large green
            "captions": tuple(captions),
        }
        return Records(**fields | self.changes)


def squares(root: Path, *, reads: tuple[str, ...] = ("image",), batch_size: int = 32, **options: Any) -> ImageData:
    """Its data module: 80 images of 32x32, 64 of them in the training split."""
    dataset = Squares(root, **options)
    return ImageData(
        dataset=dataset,
        image_size=dataset.side,
        batch_size=batch_size,
        load_ratio=1.1,
        reads=reads,
        store=root / "store",
    )
