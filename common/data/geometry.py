"""How photos and masks are opened and cut, in whole pixels: the same rule for the store and for any photo."""

import numpy as np
from PIL import Image, ImageColor

from common.data.records import FRAME
from common.errors import UserError

Box = tuple[int, int, int, int]  # left, top, right, bottom
FRAMINGS = ("pad", "squeeze")
ORIENTATION = 0x0112  # of EXIF
TURNS = {  # EXIF's orientation -> what makes the photo upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def square_about(box: np.ndarray, width: int, height: int) -> Box:
    """The square of half-size 0.75 max(w, h) about a box's centre, clipped to the image.

    box: x, y, width, height in pixels. Integers as in AttnGAN's datasets.py, so the crops are the same to the pixel.
    """
    x, y, w, h = (int(value) for value in box)
    half = int(0.75 * max(w, h))
    cx, cy = int((2 * x + w) / 2), int((2 * y + h) / 2)
    return max(0, cx - half), max(0, cy - half), min(width, cx + half), min(height, cy + half)


def fitted(width: int, height: int, side: int, *, squash: bool = False) -> tuple[int, int]:
    """Width and height with the shorter one `side` and the aspect kept (the longer one rounded down: torchvision).

    squash: both are `side`.
    """
    if squash:
        return side, side
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def fit(image: Image.Image, side: int, *, squash: bool = False) -> Image.Image:
    """The image with sides as `fitted` has them: bilinear with antialiasing, as Pillow resizes."""
    return image.resize(fitted(*image.size, side, squash=squash), Image.Resampling.BILINEAR)


def centre_crop(pixels: np.ndarray, size: int) -> np.ndarray:
    """The window of size,size in the middle of H,W or H,W,C; where it cannot be in the middle, the later of the two."""
    top, left = ((side - size + 1) // 2 for side in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]


def upright(image: Image.Image, background: str = "white") -> Image.Image:
    """A photo as a viewer shows it: turned by its EXIF orientation, in RGB, on the background where transparent."""
    turn = TURNS.get(orientation(image))
    rgb = to_rgb(image, background)
    return rgb if turn is None else rgb.transpose(turn)


def orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 = upright. It is read alone: cameras and programs write fields that nobody can read."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a block that is cut or no EXIF at all: Pillow raises what its parser stumbles over
        return 1
    found = int.from_bytes(found, "little") if isinstance(found, bytes) else found
    return found if isinstance(found, int) and found in TURNS else 1


def to_rgb(image: Image.Image, background: str = "white") -> Image.Image:
    """RGB as stored. Where it is transparent the background shows, not the colours that lie hidden there."""
    image = in_bytes(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, ImageColor.getrgb(background))
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def to_grey(image: Image.Image) -> Image.Image:
    """Mode L, as masks are read: black where transparent."""
    image = in_bytes(image)
    return to_rgb(image, "black").convert("L") if image.has_transparency_data else image.convert("L")


def in_bytes(image: Image.Image) -> Image.Image:
    """Grey of 16 bits, which Pillow's own conversion cuts at 255, as the nearest of 8 bits; others as they are."""
    if image.mode == "F":
        raise ValueError("its pixels are numbers with a point, not colours")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray(((np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257).astype(np.uint8))


def check_colour(background: str) -> str:
    """The background, if it is a colour. UserError else."""
    try:
        ImageColor.getrgb(background)
    except ValueError:
        raise UserError(
            f"data.background={background} is no colour: choose white, black, grey, or one such as '#7f7f7f'."
        ) from None
    return background


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
