"""The segmentation image of a photo, as the extractor sees it (Sec. 3.1 and the experiment of Fig. 6 and 7).

H, W: of the photo. A photo is H,W,3 uint8, a mask H,W in {0, 1}, 1 = foreground. An instance map is H,W uint8: 0 =
background, k = the k-th largest instance; where instances overlap, the smaller one is on top.
"""

import colorsys
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from common.errors import choose

VIEWS = ("overlay", "foreground", "foreground_pred", "raw", "mask")
INSTANCED = ("overlay", "foreground_pred", "mask")  # those that instances are looked for
EIGHT = ndimage.generate_binary_structure(2, 2)  # 8-neighbourhood
LEAST = 0.01  # of the image's area, ours: a smaller part is no instance
MOST = 255  # instances that a map of bytes holds
GOLDEN = 0.618  # turn of the hue from an instance to the next: neighbours differ as much as they can
WHITE = 255


def render(view: str, photo: np.ndarray, instances: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """One of VIEWS as H,W,3 uint8. instances: the source's map. mask: the data set's own.

    overlay: the photo with each instance half in its colour, its outermost two pixels wholly so (how Mask R-CNN's
    results are shown, with the background). foreground: what the mask leaves of the photo, on white. foreground_pred:
    what the instances leave of it. raw: the photo. mask: the instances' colours on black.
    """
    match choose("prepare.view", view, VIEWS):
        case "overlay":
            return overlay(photo, instances)
        case "foreground":
            return on_white(photo, mask)
        case "foreground_pred":
            return on_white(photo, instances)
        case "mask":
            return palette(int(instances.max()))[instances]
    return photo


def on_white(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture where mask is not 0, white elsewhere."""
    return np.where(mask[..., None] != 0, picture, np.uint8(WHITE))


def overlay(photo: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """Half photo, half colour inside each instance, the colour alone at its edge; without instances the photo."""
    colours = palette(int(instances.max()))[instances]
    mixed = ((photo.astype(np.uint16) + colours + 1) // 2).astype(np.uint8)
    inside = instances != 0
    edge = np.zeros_like(inside)
    for k in range(1, int(instances.max()) + 1):
        own = instances == k
        edge |= own & ~ndimage.binary_erosion(own, np.ones((5, 5), bool))
    return np.where(edge[..., None], colours, np.where(inside[..., None], mixed, photo))


def palette(count: int) -> np.ndarray:
    """count + 1,3 uint8: black, then the colours of the instances; the largest is red, hue k is frac(0.618 k)."""
    hues = [colorsys.hsv_to_rgb(k * GOLDEN % 1, 1, 1) for k in range(count)]
    return np.rint(255 * np.array([(0, 0, 0), *hues])).astype(np.uint8)


def components(mask: np.ndarray) -> np.ndarray:
    """The instance map of a mask: its 8-connected parts of LEAST of the area or more, the largest first."""
    parts, count = ndimage.label(mask, EIGHT)
    areas = np.bincount(parts.ravel(), minlength=count + 1)
    areas[0] = 0  # label 0 is what is no part
    order = [k for k in np.argsort(-areas, kind="stable") if k and areas[k] >= LEAST * mask.size][:MOST]
    places = np.zeros(count + 1, np.uint8)
    places[order] = np.arange(1, len(order) + 1)
    return places[parts]


def stacked(masks: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """The instance map of H,W masks, one at least, that may overlap. An empty one counts for nothing."""
    shown = sorted((mask for mask in masks if mask.any()), key=lambda mask: -int(mask.sum()))
    instances = np.zeros(masks[0].shape, np.uint8)
    for k, mask in enumerate(shown[:MOST], 1):
        instances[mask != 0] = k
    return instances


def by_area(instances: np.ndarray) -> np.ndarray:
    """Any map of small whole numbers, 0 = background, with its instances numbered by decreasing area."""
    values, areas = np.unique(instances[instances != 0], return_counts=True)
    order = values[np.argsort(-areas, kind="stable")][:MOST]
    places = np.zeros(int(instances.max()) + 1, np.uint8)
    places[order] = np.arange(1, len(order) + 1)
    return places[instances]


def overlap(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = ((ours != 0) | (theirs != 0)).sum()
    return float(((ours != 0) & (theirs != 0)).sum() / union) if union else 1.0
