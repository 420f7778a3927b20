"""The colours of drawn birds and flowers, by the names that CUB's attributes and the captions use."""

import numpy as np

# One anchor a name, sRGB 0..255, at least 30 apart in CIELAB, so that shading and JPEG never carry one to another.
# CUB's "rufous" and "iridescent" are not drawn: the first lies between brown and orange, the second is no colour.
ANCHORS: dict[str, tuple[int, int, int]] = {
    "red": (205, 22, 32),
    "blue": (25, 96, 222),
    "yellow": (250, 220, 30),
    "white": (246, 246, 244),
    "black": (24, 24, 26),
    "green": (30, 150, 55),
    "orange": (248, 125, 12),
    "purple": (136, 40, 162),
    "brown": (108, 62, 26),
    "grey": (134, 136, 140),
    "pink": (250, 145, 190),
    "buff": (218, 186, 136),
    "olive": (116, 120, 34),
}
NAMES = tuple(ANCHORS)


def lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB ...,3 in 0..255 -> CIELAB ...,3 (D65; IEC 61966-2-1 and CIE 15)."""
    v = np.asarray(rgb, np.float64) / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    t = xyz / np.array([0.9505, 1.0, 1.089])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


ANCHORS_LAB = lab(np.array(list(ANCHORS.values())))


def nearest(rgb: np.ndarray) -> np.ndarray:
    """sRGB ...,3 in 0..255 -> index into NAMES of the nearest anchor in CIELAB (Euclidean: CIE 1976 difference)."""
    return np.linalg.norm(lab(rgb)[..., None, :] - ANCHORS_LAB, axis=-1).argmin(-1)


def distance(rgb: np.ndarray, name: str) -> float:
    """CIELAB distance (CIE 1976) of one sRGB colour, 0..255, from the anchor of a name; 2 is just to be seen."""
    return float(np.linalg.norm(lab(rgb) - ANCHORS_LAB[NAMES.index(name)]))


def jittered(name: str, rng: np.random.Generator) -> np.ndarray:
    """An individual's own tone of a named colour: up to 12 grey levels off its anchor, each channel up to 6 more."""
    shift = 6 * rng.normal(size=1).clip(-2, 2) + 3 * rng.normal(size=3).clip(-2, 2)
    return np.clip(ANCHORS[name] + shift, 0, 255)
