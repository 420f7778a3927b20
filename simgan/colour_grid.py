"""What `vse` sees an image by where no network has learnt to see: which colours lie where."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.classifier import PARTS, ImageClassifier, load_image_encoder
from common.weights import check_parts

NAME = "colours"  # in place of a file, as model.image_encoder
LEVELS, CELLS = 4, 8  # of each of R, G, B; along each side of the grid


class ColourGrid(torch.nn.Module):
    """A histogram of RGB colours in each cell of a grid (Swain and Ballard 1991); stands in for a network's features.

    LEVELS^3 colours, a pixel shared among the nearest by its distance on each axis, in CELLS^2 cells: 4,096 numbers, as
    many as fc7 has. The square roots (Hellinger's kernel), from which those of a histogram of all colours alike are
    taken. Nothing is learnt, so the hash is the name.
    """

    width, hash = LEVELS**3 * CELLS**2, NAME

    def features(self, images: Tensor) -> tuple[Tensor, None]:
        """Images B,3,H,W in [-1, 1], H and W divisible by CELLS -> B,4096 float32; no logits."""
        x = (images.float() + 1) * (LEVELS - 1) / 2
        level = torch.arange(LEVELS, device=x.device).view(1, LEVELS, 1, 1)
        r, g, b = ((1 - (x[:, c : c + 1] - level).abs()).clamp_min(0) for c in range(3))
        rg = (r[:, :, None] * g[:, None]).flatten(1, 2)
        shares = F.adaptive_avg_pool2d((rg[:, :, None] * b[:, None]).flatten(1, 2), CELLS)
        return (shares.sqrt() * LEVELS**1.5 - 1).flatten(1), None

    def export(self) -> dict[str, Any]:
        return {"arch": NAME}


ImageEncoder = ImageClassifier | ColourGrid


def image_encoder(file: str) -> ImageEncoder:
    """What model.image_encoder names: a file of a classifier's, or `colours`."""
    return ColourGrid() if file == NAME else load_image_encoder(file)


def exported_encoder(export: Mapping[str, Any], hash: str, path: str | Path) -> ImageEncoder:
    """From what its `export` gave, found in the file `path`."""
    if export.get("arch") == NAME:
        return ColourGrid()
    check_parts(export, PARTS, path, "image_encoder.")
    return ImageClassifier(export, hash, path)
