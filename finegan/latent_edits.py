"""What the figures change and point at: attributes, masks, sentence codes, and the tokens that a picture attends to.

L tokens, D width of a code, S side. Nothing here draws: see finegan/figures.py.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from finegan.conditions import Codes


def replaced(ids: Iterable[int], new: Iterable[int], groups: Mapping[str, Sequence[int]]) -> list[int]:
    """Attribute ids with those of `new` in place of all others of their groups, ascending (Sec. 4.3)."""
    new = set(new)
    gone = {one for group in groups.values() if new & set(group) for one in group}
    return sorted((set(ids) - gone) | new)


def mask_between(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """From mask a (alpha 0) to mask b (alpha 1) by their signed distances: S,S in {0, 1} each, with foreground."""
    distance = (1 - alpha) * signed_distance(a) + alpha * signed_distance(b)
    return torch.from_numpy(distance > 0).to(a)


def signed_distance(mask: Tensor) -> np.ndarray:
    """Pixels to the border, positive inside: S,S in {0, 1} -> S,S. All that lies beyond the picture is background."""
    inside = np.pad(mask.cpu().numpy() > 0.5, 1)
    return (distance_transform_edt(inside) - distance_transform_edt(~inside))[1:-1, 1:-1]


def between(a: Codes, b: Codes, alpha: float) -> Codes:
    """The sentence code from a (alpha 0) to b (alpha 1); the words stay a's, as lists of words have no middle."""
    return a._replace(sent=(1 - alpha) * a.sent + alpha * b.sent)


def take(codes: Codes, index: Sequence[int]) -> Codes:
    """The conditions of these places, in this order."""
    return Codes(*(part[list(index)] for part in codes))


def strongest(attention: Tensor, tokens: int, count: int) -> list[int]:
    """The `count` tokens that most of the picture attends to, the first one most: L,s,s -> indices below `tokens`.

    By the share of places that give a token more than twice an equal share, 2 / L [AttnGAN miscc/utils.py]; then by its
    mean.
    """
    maps = attention[:tokens].flatten(1)
    order = zip((maps > 2 / tokens).float().mean(1).tolist(), maps.mean(1).tolist(), range(tokens), strict=True)
    return [token for _, _, token in sorted(order, key=lambda each: (-each[0], -each[1], each[2]))[:count]]


def spotlight(image: Tensor, attention: Tensor) -> Tensor:
    """The image as it is where it is attended to, dark grey elsewhere: 3,S,S in [-1, 1] and s,s -> 3,S,S.

    The attention is stretched over its range, so that the brightest place is its largest value, whatever that is.
    """
    weight = F.interpolate(attention[None, None], image.shape[-2:], mode="bilinear", align_corners=False)[0]
    low, high = weight.aminmax()
    weight = (weight - low) / (high - low).clamp_min(1e-12)
    dark = 0.25 * (image.mean(0, keepdim=True) + 1) - 1
    return torch.lerp(dark.expand_as(image), image, weight)
