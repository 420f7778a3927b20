"""PG2's networks: two stages and a discriminator (Ma et al., NIPS 2017). No losses here.

Sizes and quirks are those of the authors' 256 px code (charliememory/Pose-Guided-Person-Image-Generation). No norms but
in D, ReLU after each convolution but the last, linear output. B batch, S side of the image.
"""

from math import log2, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError

GRID = 8  # side of stage 1's smallest map
DETAIL_LEVELS = 4  # of stage 2


class Conv(nn.Conv2d):
    """Keeps or halves the side. tf_padding: halving pads as TensorFlow's SAME does, which its weights expect."""

    def __init__(self, before: int, after: int, kernel: int = 3, stride: int = 1, *, tf_padding: bool = False) -> None:
        self.tf_padding = tf_padding and stride == 2
        super().__init__(before, after, kernel, stride, 0 if self.tf_padding else kernel // 2)

    def forward(self, input: Tensor) -> Tensor:
        if self.tf_padding:
            first, last = (self.kernel_size[0] - 2) // 2, (self.kernel_size[0] - 1) // 2
            input = F.pad(input, (first, last, first, last))
        return super().forward(input)


def twice(before: int, after: int) -> nn.Sequential:
    """Two convolutions, each with ReLU."""
    return nn.Sequential(Conv(before, after), nn.ReLU(), Conv(after, after), nn.ReLU())


def initialise(module: nn.Module) -> None:
    """Xavier-uniform weights, zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class Stage1(nn.Module):
    """G1(x, c), pose integration: a first coarse image. 122,103,235 parameters at its code's sizes.

    x: B,3,S,S in [-1, 1], c: B,C,S,S pose label map -> B,3,S,S, unbounded. At 256 px six residual blocks of 128 to 768
    channels down to 8 x 8, a code of 64 numbers, and six up with the blocks' outputs as skips.
    """

    def __init__(self, *, image_size: int, pose_channels: int, width: int, code_dim: int, tf_padding: bool) -> None:
        super().__init__()
        count = log2(image_size / GRID) + 1
        if count != int(count) or count < 2:
            raise UserError(f"PG2 halves the image down to 8 x 8: data.image_size={image_size} must be 16, 32, 64, ...")
        widths = [width * (i + 1) for i in range(int(count))]
        self.start = Conv(3 + pose_channels, width)
        self.enc = nn.ModuleList(twice(w, w) for w in widths)
        self.down = nn.ModuleList(Conv(w, w + width, stride=2, tf_padding=tf_padding) for w in widths[:-1])
        self.to_code = nn.Linear(widths[-1] * GRID**2, code_dim)
        self.from_code = nn.Linear(code_dim, width * GRID**2)
        inner = [width + widths[-1], *(2 * w for w in reversed(widths[:-1]))]
        self.dec = nn.ModuleList(twice(w, w) for w in inner)
        self.up = nn.ModuleList(Conv(w, after, 1) for w, after in zip(inner[:-1], reversed(widths[:-1]), strict=True))
        self.out = Conv(inner[-1], 3)
        initialise(self)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = F.relu(self.start(torch.cat([x, c], 1)))
        skips = []
        for number, block in enumerate(self.enc):
            h = h + block(h)
            skips.append(h)
            if number < len(self.down):
                h = F.relu(self.down[number](h))
        h = self.from_code(self.to_code(h.flatten(1))).unflatten(1, (-1, GRID, GRID))
        for number, block in enumerate(self.dec):
            h = torch.cat([h, skips.pop()], 1)
            h = h + block(h)
            if number < len(self.up):
                h = F.relu(self.up[number](F.interpolate(h, scale_factor=2)))
        return self.out(h)


class Stage2(nn.Module):
    """G2(x-hat_1, x), image refinement: the difference map that is added to x-hat_1. 12,696,067 parameters.

    coarse, x: B,3,S,S -> B,3,S,S, unbounded.
    """

    def __init__(self, *, width: int, tf_padding: bool) -> None:
        super().__init__()
        widths = [width * (i + 1) for i in range(DETAIL_LEVELS)]
        self.start = Conv(6, width)
        self.enc = nn.ModuleList(twice(before, w) for before, w in zip([width, *widths], widths, strict=False))
        self.down = nn.ModuleList(Conv(w, w, stride=2, tf_padding=tf_padding) for w in widths[:-1])
        inner = [2 * widths[-1], *(width + w for w in reversed(widths[:-1]))]
        self.dec = nn.ModuleList(twice(w, width) for w in inner)
        self.out = Conv(width, 3)
        initialise(self)

    def forward(self, coarse: Tensor, x: Tensor) -> Tensor:
        h = F.relu(self.start(torch.cat([coarse, x], 1)))
        skips = []
        for number, block in enumerate(self.enc):
            h = block(h)
            skips.append(h)
            if number < len(self.down):
                h = F.relu(self.down[number](h))
        for block in self.dec:
            h = block(torch.cat([h, skips.pop()], 1))
            if skips:
                h = F.interpolate(h, scale_factor=2)
        return self.out(h)


class Generator(nn.Module):
    """Both stages: x-hat_2 = x-hat_1 + G2(x-hat_1, x). x: B,3,S,S, c: B,C,S,S -> (x-hat_1, x-hat_2), unbounded."""

    def __init__(self, *, image_size: int, pose_channels: int, width: int, code_dim: int, tf_padding: bool) -> None:
        super().__init__()
        self.stage1 = Stage1(
            image_size=image_size, pose_channels=pose_channels, width=width, code_dim=code_dim, tf_padding=tf_padding
        )
        self.stage2 = Stage2(width=width, tf_padding=tf_padding)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        coarse = self.stage1(x, c)
        return coarse, coarse + self.stage2(coarse, x)


class Discriminator(nn.Module):
    """Is it a photo? Five 5 x 5 convolutions of stride 2 and one linear layer; 10,896,257 parameters at 256 px.

    B,3,S,S -> B logits. Batches of target, fake and source go through at once, so they share BN's statistics.
    """

    def __init__(self, *, image_size: int, ndf: int, tf_padding: bool) -> None:
        super().__init__()
        widths = [3, ndf, 2 * ndf, 4 * ndf, 8 * ndf, 8 * ndf]
        layers: list[nn.Module] = []
        for number in range(5):
            layers.append(Conv(widths[number], widths[number + 1], 5, 2, tf_padding=tf_padding))
            layers += [nn.BatchNorm2d(widths[number + 1])] if number else []
            layers.append(nn.LeakyReLU(0.2))
        self.trunk = nn.Sequential(*layers)
        self.score = nn.Linear(8 * ndf * (image_size // 32) ** 2, 1)
        bound = 0.02 * sqrt(3)  # a uniform distribution of standard deviation 0.02
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.uniform_(layer.weight, -bound, bound)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        return self.score(self.trunk(images).flatten(1)).flatten()
