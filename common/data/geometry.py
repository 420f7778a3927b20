"""How images are cut, in whole pixels: the same rule for the store and for any photo."""

import numpy as np
from PIL import Image, ImageOps

from common.data.poses import FRAME

Box = tuple[int, int, int, int]  # left, top, right, bottom
FRAMINGS = ("pad", "squeeze")


def square_about(box: np.ndarray, width: int, height: int) -> Box:
    """The square of half-size 0.75 max(w, h) about a box's centre, clipped to the image.

    box: x, y, width, height in pixels. Integers as in AttnGAN's datasets.py, so the crops are the same to the pixel.
    """
    x, y, w, h = (int(value) for value in box)
    half = int(0.75 * max(w, h))
    cx, cy = int((2 * x + w) / 2), int((2 * y + h) / 2)
    return max(0, cx - half), max(0, cy - half), min(width, cx + half), min(height, cy + half)


def fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height with the shorter one `side` and the aspect kept (the longer one rounded down: torchvision)."""
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def fit(image: Image.Image, side: int) -> Image.Image:
    """The image with shorter side `side`: bilinear with antialiasing, as Pillow resizes."""
    return image.resize(fitted(*image.size, side), Image.Resampling.BILINEAR)


def upright(image: Image.Image) -> Image.Image:
    """A photo as a viewer shows it: turned by its EXIF orientation, in RGB."""
    return ImageOps.exif_transpose(image).convert("RGB")


def framed(photo: Image.Image, framing: str) -> Image.Image:
    """A photo in the square of 256x256 that key points are given in, RGB; framing: one of FRAMINGS, "" = as it is.

    pad: the longer side is made 256, the columns (or rows) at the edges are repeated on both sides: 750x1101 becomes
    174x256 with 41 columns at each side, which is DeepFashion's own small photo. squeeze: each side by itself (GFLA).
    """
    if not framing:
        return photo
    if framing == "squeeze":
        return photo.resize((FRAME, FRAME), Image.Resampling.BILINEAR)
    width, height = (round(side * FRAME / max(photo.size)) for side in photo.size)
    small = np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR))
    left, top = (FRAME - width) // 2, (FRAME - height) // 2
    margins = ((top, FRAME - height - top), (left, FRAME - width - left), (0, 0))
    return Image.fromarray(np.pad(small, margins, "edge"))
