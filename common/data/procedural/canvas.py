"""Painting by polygons: shapes of a unit frame placed on a background, with a map of parts drawn beside the picture."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


Point = Sequence[float] | np.ndarray


class Shape(NamedTuple):
    """A filled polygon. points: N,2 in the unit frame (x to the right, y down); part 0 = belongs to the background."""

    points: np.ndarray
    colour: np.ndarray  # 3, sRGB 0..255
    part: int


class Picture(NamedTuple):
    """What is rendered for one image, with what is known of its pixels."""

    image: Image.Image  # RGB
    parts: np.ndarray  # H,W uint8: 0 = background, else the number of the part that is seen
    votes: np.ndarray  # H,W uint8 in {0, 51, ..., 255}: how many of five annotators call it foreground, times 51


def smooth(points: Sequence[Point] | np.ndarray, steps: int = 6, closed: bool = True) -> np.ndarray:
    """A Catmull-Rom curve through the points, `steps` points for each span: N,2."""
    p = np.asarray(points, float)
    p = np.vstack([p[-1], p, p[:2]]) if closed else np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    curve = curve.transpose(1, 0, 2).reshape(-1, 2)
    return curve if closed else np.vstack([curve, p[-2]])


def ellipse(centre: Point, rx: float, ry: float, angle: float = 0.0, n: int = 20) -> np.ndarray:
    """n,2 points of an ellipse; angle in radians."""
    return turned(circle(n) * (rx, ry), angle) + centre


@cache
def circle(n: int) -> np.ndarray:
    """n,2 points of the unit circle, clockwise from the right."""
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([np.cos(t), np.sin(t)], 1)


def stroke(points: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """The polygon of a line through N,2 points, `width` wide (one number, or one for each point)."""
    along = np.empty_like(points)
    along[1:-1], along[0], along[-1] = points[2:] - points[:-2], points[1] - points[0], points[-1] - points[-2]
    half = np.asarray(width) / (2 * np.hypot(along[:, 0], along[:, 1]) + 1e-9)
    across = (along[:, ::-1] * (-1, 1)) * half[:, None]
    return np.vstack([points + across, (points - across)[::-1]])


def turned(points: np.ndarray, angle: float, about: Point = (0.0, 0.0)) -> np.ndarray:
    """Points turned clockwise as seen (y points down) by `angle` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return (points - about) @ np.array([[c, s], [-s, c]]) + about


def varied(colour: Point, rng: np.random.Generator, light: float = 12.0, hue: float = 5.0) -> np.ndarray:
    """A colour of the surroundings, a little lighter or darker and a little of another hue: 3 float."""
    return np.asarray(colour) + rng.normal(0, light) + rng.normal(0, hue, 3)


def tinted(colour: np.ndarray, amount: float) -> np.ndarray:
    """Darker by a share (amount < 0) or lighter (> 0: towards white)."""
    return colour * (1 + amount) if amount < 0 else colour + (255 - colour) * amount


def lines(colour: np.ndarray, strength: float = 0.22) -> np.ndarray:
    """The tone of lines on a colour: darker, but lighter on what is nearly black."""
    return tinted(colour, -strength if colour.mean() > 60 else strength * 0.7)


def clouded(
    size: tuple[int, int], rng: np.random.Generator, cells: int, kind: Image.Resampling = BICUBIC
) -> np.ndarray:
    """Smooth noise of `cells` cells on the longer side: H,W float of unit variance before smoothing."""
    width, height = size
    longer = max(size)
    noise = rng.standard_normal((max(2, cells * height // longer), max(2, cells * width // longer)), np.float32)
    return np.asarray(Image.fromarray(noise).resize(size, kind))


def backdrop(kind: str, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A background without anything in focus. kind: sky, foliage, water, meadow, wood. size: width, height."""
    top, bottom = (varied(c, rng) for c in SCENES[kind])
    ramp = np.linspace(0, 1, size[1], dtype=np.float32)[:, None]
    soft, fine = clouded(size, rng, 4), clouded(size, rng, 40, BILINEAR)
    if kind == "water":  # ripples: noise stretched along the horizon
        waves = rng.standard_normal((22, 4), np.float32)
        fine = np.asarray(Image.fromarray(waves).resize(size, BICUBIC)) * 1.5
    mix = np.clip(ramp + 0.22 * soft, 0, 1)[..., None]
    pixels = top.astype(np.float32) * (1 - mix) + bottom.astype(np.float32) * mix
    pixels += (ROUGHNESS[kind] * (fine + 0.8 * soft))[..., None]
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return blobs(image, kind, rng) if kind in BLOBS else image


def blobs(image: Image.Image, kind: str, rng: np.random.Generator) -> Image.Image:
    """Leaves, grass or clouds out of focus."""
    pen, unit = ImageDraw.Draw(image), min(image.size)
    count, blur = BLOBS[kind]
    for _ in range(count):
        tone = np.array(SCENES[kind][int(rng.integers(2))]) * rng.uniform(0.65, 1.3) + rng.normal(0, 9, 3)
        centre = rng.uniform(0, 1, 2) * image.size
        size = unit * rng.uniform(0.03, 0.12)
        if kind == "sky":
            tone, flat = np.full(3, rng.uniform(225, 250)), ellipse(centre, size * 2.2, size * 0.8)
        elif kind == "meadow":
            tip = centre + np.array([rng.normal(0, 0.06), -rng.uniform(0.1, 0.3)]) * unit
            flat = stroke(np.stack([centre, tip]), np.array([0.03, 0.005]) * unit)
        else:
            flat = ellipse(centre, size, size * rng.uniform(0.4, 0.9), rng.uniform(0, np.pi))
        pen.polygon(flat.ravel().tolist(), fill=rgb(tone))
    return image.filter(ImageFilter.GaussianBlur(unit * blur))


SCENES = {  # colour above, colour below
    "sky": ((118, 172, 222), (205, 225, 238)),
    "foliage": ((62, 98, 48), (122, 148, 74)),
    "water": ((128, 160, 170), (66, 104, 124)),
    "meadow": ((168, 178, 116), (98, 124, 58)),
    "wood": ((150, 132, 108), (88, 76, 62)),
}
ROUGHNESS = {"sky": 2.0, "foliage": 9.0, "water": 11.0, "meadow": 7.0, "wood": 9.0}
BLOBS = {"sky": (5, 0.03), "foliage": (38, 0.018), "meadow": (36, 0.012), "wood": (12, 0.03)}  # count, blur / side


def rgb(colour: np.ndarray) -> tuple[int, int, int]:
    """Three numbers to what Pillow takes: rounded and cut to [0, 255]."""
    r, g, b = (min(255, max(0, round(value))) for value in colour.tolist())
    return r, g, b


def paint(
    background: Image.Image,
    shapes: Sequence[Shape],
    matrix: np.ndarray,
    offset: np.ndarray,
    rng: np.random.Generator,
    *,
    oversample: int,
    foreground: Sequence[int],
) -> Picture:
    """Shapes in their order on the background, anti-aliased; the light falls from above on what belongs to a part.

    matrix 2,2 and offset 2 take the unit frame to pixels: points @ matrix + offset. foreground: the parts that the
    mask holds.
    """
    width, height = background.size
    big = (width * oversample, height * oversample)
    canvas, labels = background.resize(big, BILINEAR), Image.new("L", big)
    pen, marker = ImageDraw.Draw(canvas), ImageDraw.Draw(labels)
    for shape in shapes:
        flat = ((shape.points @ matrix + offset) * oversample).ravel().tolist()
        pen.polygon(flat, fill=rgb(shape.colour))
        marker.polygon(flat, fill=shape.part)
    table = [255 * (part in foreground) for part in range(256)]
    coverage = np.asarray(labels.point(table).reduce(oversample).filter(ImageFilter.BoxBlur(0.4 * width / 256)))
    parts = np.asarray(labels)[oversample // 2 :: oversample, oversample // 2 :: oversample].copy()
    image = lit(np.asarray(canvas.reduce(oversample), np.float32), parts > 0, matrix, offset, rng)
    return Picture(image, parts, (np.rint(coverage / 51.0) * 51).astype(np.uint8))


def lit(
    pixels: np.ndarray, inside: np.ndarray, matrix: np.ndarray, offset: np.ndarray, rng: np.random.Generator
) -> Image.Image:
    """Shading of what is inside, by height in the unit frame, with plumage texture; grain of the film everywhere."""
    height, width = inside.shape
    scale = np.sqrt(abs(np.linalg.det(matrix)))
    above = (offset[1] - np.arange(height, dtype=np.float32)[:, None]) / scale
    light = np.clip(0.24 * above, -0.16, 0.14) + 0.035 * clouded((width, height), rng, 24, BILINEAR)
    light = np.where(inside, light, 0).astype(np.float32)[..., None]
    grain = 2.2 * rng.standard_normal((height, width, 1), np.float32)
    return Image.fromarray((pixels * (1 + light) + 30 * light + grain + 0.5).clip(0, 255).astype(np.uint8))
