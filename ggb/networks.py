"""GGB's networks: the U-Net generator, the discriminator and the guiding blocks (Sec. 2). No losses here.

B batch, S side of the image (256 in the paper), C channels. Decoder level n draws S / 2^(7 - n) pixels, so at 256 px
levels 4, 5, 6 and 7 are 32, 64, 128 and 256 px (the paper's "6-th", "5-th and 6-th", ...); other sides count from the
output too. What the paper leaves open follows pix2pix (junyanz/pytorch-CycleGAN-and-pix2pix, `unet_128`).
"""

from collections.abc import Sequence
from itertools import pairwise
from math import log2
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.blocks import initialise
from common.errors import UserError

SLOPE = 0.2  # LeakyReLU; not in the paper: pix2pix
TOP = 7  # the decoder level that draws the image itself
LEVELS = (4, 5, 6)  # those that may have a guiding block (Sec. 2.2)
SMALLEST = 8  # pixels that a block can judge: the encoder leaves it 2 x 2
NORMS = ("batch", "instance", "none")


def depth_of(image_size: int) -> int:
    """How many times an image is halved down to 2 x 2. UserError for a side that is no power of two from 32 on."""
    depth = log2(image_size) - 1
    if depth != int(depth) or depth < 4:
        raise UserError(
            f"GGB's networks halve the image down to 2 x 2: data.image_size={image_size} must be 32, 64, ..."
        )
    return int(depth)


def known_levels(levels: Sequence[int]) -> tuple[int, ...]:
    """Ascending, each once. UserError for one that can have no block: at level 3 the fifth halving finds 1 x 1."""
    if unknown := sorted(set(levels) - set(LEVELS)):
        raise UserError(
            f"model.levels={list(levels)}: there is no guiding block of level {unknown[0]}, only of 4, 5, 6."
        )
    return tuple(sorted(set(levels)))


def normalisation(kind: str, channels: int) -> nn.Module:
    """One of NORMS. Convolutions before "batch" have no bias; before the two others they have one (pix2pix)."""
    kinds = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}
    return kinds[kind](channels) if kind in kinds else nn.Identity()


def downsized(image: Tensor, levels: Sequence[int], how: str = "area") -> tuple[Tensor, ...]:
    """y^n for each level n: B,3,S,S -> B,3,s,s with s = S / 2^(7 - n).

    how: "area", the mean of each square, which has no aliases and keeps the mean; or "bilinear_aa".
    """
    if how == "area":
        return tuple(F.avg_pool2d(image, 2 ** (TOP - n)) for n in levels)
    sides = [image.shape[-1] // 2 ** (TOP - n) for n in levels]
    return tuple(F.interpolate(image, size=(s, s), mode="bilinear", antialias=True) for s in sides)


# ---- generator


class Down(nn.Module):
    """LeakyReLU (not before the first), convolution 4 x 4 of stride 2, norm. B,C,s,s -> B,C',s/2,s/2."""

    def __init__(self, before: int, after: int, *, norm: str, first: bool, last: bool) -> None:
        super().__init__()
        self.act = nn.Identity() if first else nn.LeakyReLU(SLOPE)
        self.conv = nn.Conv2d(before, after, 4, 2, 1, bias=norm != "batch")
        self.bn = normalisation("none" if first or last else norm, after)

    def forward(self, h: Tensor) -> Tensor:
        return self.bn(self.conv(self.act(h)))


class Up(nn.Module):
    """ReLU, transposed convolution 4 x 4 of stride 2, norm and dropout, or tanh where it draws the image.

    B,C,s,s -> B,C',2s,2s.
    """

    def __init__(self, before: int, after: int, *, norm: str, dropout: float, last: bool) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(before, after, 4, 2, 1, bias=last or norm != "batch")
        self.bn = normalisation("none" if last else norm, after)
        self.act = nn.Tanh() if last else nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(F.relu(h))))


class Encoder(nn.ModuleDict):
    """e1, e2, ...: B,C,S,S -> [B,64,S/2,S/2, ..., B,512,2,2]. Skips carry values from before the LeakyReLU."""

    def forward(self, h: Tensor) -> list[Tensor]:
        features = []
        for down in self.values():
            h = down(h)
            features.append(h)
        return features


class Decoder(nn.ModuleDict):
    """d1, ..., d7: the encoder's features -> [g^1, ..., g^6, x-hat], the generative features of each level."""

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        *skips, h = features
        generated = []
        for number, up in enumerate(self.values()):
            h = up(torch.cat([skips.pop(), h], 1) if number else h)  # skip first, as in pix2pix
            generated.append(h)
        return generated


class Generator(nn.Module):
    """G(x, c): the person of the photo x in the pose c; 41,859,532 parameters at the paper's sizes (Sec. 2.1).

    x: B,3,S,S in [-1, 1], c: B,C,S,S pose label map. Seven convolutions down and seven up at 256 px. levels: those with
    a head ReLU-Conv3x3-tanh that draws x-hat^n from g^n. The paper names no layer for it; it belongs to G, for with the
    critics it would learn fakes that are easy to reject. dropout: after d1, d2, d3, as pix2pix in Lua has it.
    """

    def __init__(
        self,
        *,
        image_size: int,
        pose_channels: int,
        ngf: int,
        levels: Sequence[int],
        norm: str,
        dropout: float,
    ) -> None:
        super().__init__()
        depth = depth_of(image_size)
        self.levels = known_levels(levels)
        widths = [3 + pose_channels, *(ngf * min(2**k, 8) for k in range(depth))]
        self.enc = Encoder()
        for k, (before, after) in enumerate(pairwise(widths), 1):
            self.enc[str(k)] = Down(before, after, norm=norm, first=k == 1, last=k == depth)
        self.dec, self.to_rgb = Decoder(), nn.ModuleDict()
        for k in range(depth, 0, -1):  # level n mirrors e_k
            n, before, after = TOP + 1 - k, widths[k] * (1 if k == depth else 2), 3 if k == 1 else widths[k - 1]
            self.dec[str(n)] = Up(before, after, norm=norm, dropout=dropout if depth - k < 3 else 0.0, last=k == 1)
            if n in self.levels:
                self.to_rgb[str(n)] = nn.Sequential(nn.ReLU(), nn.Conv2d(after, 3, 3, 1, 1), nn.Tanh())
        initialise(self)

    def forward(self, x: Tensor, c: Tensor, *, heads: bool = True) -> tuple[Tensor, ...]:
        """x-hat^n of each level, the smallest first, and x-hat last, all in (-1, 1). heads=False: x-hat alone."""
        generated = self.dec(self.enc(torch.cat([x, c], 1)))
        lower = [head(generated[int(n) - TOP - 1]) for n, head in self.to_rgb.items()] if heads else []
        return (*lower, generated[-1])


# ---- discriminator


def strided(before: int, after: int, norm: str, stride: int = 2) -> list[nn.Module]:
    """Convolution 4 x 4 of stride 2 (or 3 x 3 of stride 1), norm, LeakyReLU."""
    conv = nn.Conv2d(before, after, 2 + stride, stride, 1, bias=norm != "batch")
    return [conv, normalisation(norm, after), nn.LeakyReLU(SLOPE, inplace=True)]


class Discriminator(nn.Module):
    """D(y): is it a photo? Five convolutions of stride 2, 2,765,633 parameters at the paper's sizes (Sec. 2.1, Eq. 1).

    image: B,3,S,S -> B,1,S/32,S/32 logits, each of a patch of 94 px. condition_channels: of what is laid behind the
    image; Eq. 1 has none. head: "patch", or "linear" for one score B,1 from the whole map.
    """

    def __init__(self, *, image_size: int, ndf: int, norm: str, condition_channels: int, head: str) -> None:
        super().__init__()
        depth_of(image_size)
        self.trunk = nn.Sequential(
            nn.Conv2d(3 + condition_channels, ndf, 4, 2, 1),
            nn.LeakyReLU(SLOPE, inplace=True),
            *strided(ndf, 2 * ndf, norm),
            *strided(2 * ndf, 4 * ndf, norm),
            *strided(4 * ndf, 8 * ndf, norm),
            nn.Conv2d(8 * ndf, 1, 4, 2, 1),
        )
        whole = nn.Sequential(nn.Flatten(), nn.Linear((image_size // 32) ** 2, 1))
        self.head = whole if head == "linear" else nn.Identity()
        initialise(self)

    def forward(self, image: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.head(self.trunk(image if condition is None else torch.cat([image, condition], 1)))


# ---- generative guiding blocks (Sec. 2.2, Fig. 2)


class Critic(nn.Module):
    """The form of RAPD and NVTD: three convolutions, B,C,s,s features -> B,1,s/8,s/8 logits (2,631,169 parameters).

    Where the features are smaller than 8 x 8, as in images of less than 256 px, the first ones have stride 1.
    """

    def __init__(self, *, side: int, ndf: int, norm: str) -> None:
        super().__init__()
        still = max(0, 3 - int(log2(side)))
        first, second, third = [1] * still + [2] * (3 - still)
        self.layers = nn.Sequential(
            *strided(2 * ndf, 4 * ndf, norm, first),
            *strided(4 * ndf, 8 * ndf, norm, second),
            nn.Conv2d(8 * ndf, 1, 2 + third, third, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


class Judged(NamedTuple):
    """Logits of a block: (real, fake), or (fake,) where no target was given; () where the critic is absent."""

    appearance: tuple[Tensor, ...]  # of RAPD
    variation: tuple[Tensor, ...]  # of NVTD


class GuidingBlock(nn.Module):
    """Two critics of one resolution that read the features of one encoder E (5,396,674 parameters).

    RAPD, D_a: is the appearance real? Reads f = E(image). NVTD, D_v: is the change from the source real? Reads the
    residual f - f_x, with its sign. E has no norm, or each batch would be centred by itself and the residual lose the
    shift that it is to show. e_trainable=False: E stays as it was drawn.
    """

    def __init__(self, *, side: int, ndf: int, rapd: bool, nvtd: bool, norm: str, e_trainable: bool) -> None:
        super().__init__()
        if side < SMALLEST:
            raise UserError(
                f"a guiding block cannot judge images of {side} px: set data.image_size=64 or more, or leave "
                "the lowest of model.levels out."
            )
        self.E = nn.Sequential(
            nn.Conv2d(3, ndf, 4, 2, 1),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(ndf, 2 * ndf, 4, 2, 1),
            nn.LeakyReLU(SLOPE, inplace=True),
        )
        self.Da = Critic(side=side // 4, ndf=ndf, norm=norm) if rapd else None
        self.Dv = Critic(side=side // 4, ndf=ndf, norm=norm) if nvtd else None
        initialise(self)
        self.E.requires_grad_(e_trainable)

    def forward(self, x: Tensor, fake: Tensor, y: Tensor | None = None) -> Judged:
        """x^n, x-hat^n and y^n: B,3,s,s each. Without y^n, as in G's descent, x^n gets no gradient either."""
        if y is None:
            with torch.no_grad():
                source = self.E(x)
            judged = (self.E(fake),)
        else:  # at once, which is the same since E has no norm; real and fake stay batches of their own for the critics
            source, *judged = self.E(torch.cat([x, y, fake])).chunk(3)  # type: ignore[assignment]
        return Judged(
            appearance=() if self.Da is None else tuple(self.Da(f) for f in judged),
            variation=() if self.Dv is None else tuple(self.Dv(f - source) for f in judged),
        )


class GuidingBlocks(nn.ModuleDict):
    """A block for each level: 16,190,022 parameters for three (Sec. 2.2). Used in training only."""

    def __init__(
        self,
        *,
        image_size: int,
        levels: Sequence[int],
        ndf: int,
        norm: str,
        downsize: str,
        **block: Any,
    ) -> None:
        """block: which critics there are, and whether E learns (`GuidingBlock`)."""
        super().__init__()
        self.levels, self.downsize = known_levels(levels), downsize
        for n in self.levels:
            side = image_size // 2 ** (TOP - n)
            self[str(n)] = GuidingBlock(side=side, ndf=ndf, norm=norm, **block)

    def forward(self, x: Tensor, y: Tensor | None, *lower: Tensor) -> tuple[Judged, ...]:
        """x, y: B,3,S,S; lower: x-hat^n of each level -> what each block says, in their order."""
        sources = downsized(x, self.levels, self.downsize)
        targets = [None] * len(sources) if y is None else downsized(y, self.levels, self.downsize)
        told = zip(self.values(), sources, lower, targets, strict=True)
        return tuple(block(source, fake, target) for block, source, fake, target in told)
