"""The networks of JEM (our reading of Sec. 3, docs/jem.md): DCGAN's, as paarthneekhara/text-to-image ([P]) has them,
with the guide injected at every stage. Without a guide they are GAN-CLS.

B batch, S side of an image, T length of a sentence vector, C channels. Images are in [-1, 1]; t is a sentence vector
B,T, v a guide B,F (fc7) or B,F,H,W (conv5), z noise B,Z.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.blocks import initialise
from common.errors import UserError, check_ranges, choose

INJECT = ("all", "input", "maps", "none")
KERNELS = (5, 4)
STRIDES = 16  # of the four stages together: the first map has S / 16 pixels a side


class ConvSame(nn.Conv2d):
    """5x5, stride 2, padded as TensorFlow's SAME pads an even side: 1 before and 2 behind. H -> H / 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 5, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 2, 1, 2)))


class DeconvSame(nn.ConvTranspose2d):
    """The transpose of `ConvSame`: H -> 2 H + 1, of which the last row and column go."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 5, stride=2, padding=1)

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        return super().forward(x)[..., :-1, :-1]


def down(inputs: int, outputs: int, kernel: int) -> nn.Module:
    """Half the side. kernel: 5 as [P], 4 as [R] (stride 2, padding 1)."""
    return ConvSame(inputs, outputs) if kernel == 5 else nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)


def up(inputs: int, outputs: int, kernel: int) -> nn.Module:
    """Twice the side."""
    return DeconvSame(inputs, outputs) if kernel == 5 else nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)


def initialise_as_tensorflow(net: nn.Module) -> None:
    """[P]: convolutions N(0, 0.02^2) cut at two sigma, all else as DCGAN has it."""
    initialise(net)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)


def projection(inputs: int, outputs: int) -> nn.Sequential:
    """A vector as the networks take it in: Linear, leaky ReLU, no BN."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.LeakyReLU(0.2))


class CodeMaps(nn.Module):
    """An fc7 code at every stage: a layout of grid x grid cells for each, as coarse as its own 4x4 start can use."""

    def __init__(self, *, code: int, width: int, channels: Sequence[int], grid: int) -> None:
        """code: F. width: of e_g. channels: of the map of each stage. grid: g; 1 = the same everywhere."""
        super().__init__()
        self.grid = grid
        self.embed = projection(code, width)
        self.to_maps = nn.ModuleList(nn.Linear(width, count * grid**2) for count in channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels)

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """v B,F -> e_g B,width, and what the maps are made of, the same."""
        embedded = self.embed(v)
        return embedded, embedded

    def map(self, stage: int, embedded: Tensor, side: int) -> Tensor:
        """B,C,side,side. BN before cells are repeated, each equally often: the statistics are the same."""
        cells = self.to_maps[stage](embedded).unflatten(1, (-1, self.grid, self.grid))
        return F.interpolate(F.relu(self.norms[stage](cells)), (side, side), mode="nearest")


class FeatureMaps(nn.Module):
    """A conv5 code at every stage: it has a layout of its own."""

    def __init__(self, *, code: int, width: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Conv2d(code, width, 1), nn.LeakyReLU(0.2))
        self.to_maps = nn.ModuleList(nn.Conv2d(width, count, 1) for count in channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels)

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """v B,F,H,W -> e_g B,width, the mean over the positions of M B,width,H,W, and M."""
        m = self.embed(v)
        return m.mean((2, 3)), m

    def map(self, stage: int, m: Tensor, side: int) -> Tensor:
        """B,C,side,side: M pooled down to the side, or stretched to it."""
        pooled = F.adaptive_avg_pool2d(m, min(side, m.shape[-1]))
        if pooled.shape[-1] < side:
            pooled = F.interpolate(pooled, (side, side), mode="bilinear", align_corners=False)
        return F.relu(self.norms[stage](self.to_maps[stage](pooled)))


def guide_maps(code: Sequence[int], width: int, channels: Sequence[int], grid: int) -> CodeMaps | FeatureMaps:
    """What brings a guide of this shape to every stage."""
    if len(code) == 1:
        return CodeMaps(code=code[0], width=width, channels=channels, grid=grid)
    return FeatureMaps(code=code[0], width=width, channels=channels)


def start_of(image_size: int) -> int:
    """Side of the first map. UserError for an image that the four stages do not reach from a whole number."""
    if image_size % STRIDES:
        raise UserError(f"data.image_size={image_size} is no multiple of {STRIDES}: set data.image_size=64.")
    return image_size // STRIDES


class Generator(nn.Module):
    """G(z, t, v): [z, t, e_g] to a map of S/16 pixels, then four deconvolutions, each fed the guide's map too."""

    def __init__(
        self,
        *,
        image_size: int,
        text_dim: int,
        code: Sequence[int] | None,
        ngf: int,
        z_dim: int,
        text_width: int,
        kernel: int,
        inject: str = "none",
        grid: int = 1,
        guide_width: int = 0,
    ) -> None:
        """code: shape of a guide, None where there is none. ngf: channels of the last map. kernel: 5 = [P], 4 = [R].

        inject: where the guide enters, `INJECT`. grid: cells along a side of an fc7 code's maps. guide_width: of e_g.
        """
        super().__init__()
        choose("model.generator.inject", inject, INJECT)
        choose("model.generator.kernel", kernel, KERNELS)
        sizes = {"ngf": ngf, "z_dim": z_dim, "text_width": text_width}
        check_ranges("model.generator", sizes, dict.fromkeys(sizes, "int [1, inf)"))
        if inject != "none" and code is None:
            raise UserError(
                f"model.generator.inject={inject} and there is no guide: model=jem has one, model=gan_cls injects none."
            )
        start = start_of(image_size)
        if inject in ("all", "maps") and start % grid:
            raise UserError(
                f"model.generator.grid={grid} does not divide the {start} pixels of the first map: set it to 4, 2 or 1."
            )
        self.z_dim, self.inject, self.start = z_dim, inject, start
        channels = [8 * ngf, 4 * ngf, 2 * ngf, ngf]
        maps = [count // 4 for count in channels] if inject in ("all", "maps") else [0] * 4  # a fifth of what comes in
        self.text = projection(text_dim, text_width)
        self.guide = (
            None if code is None or inject == "none" else guide_maps(code, guide_width, [m for m in maps if m], grid)
        )
        vector = z_dim + text_width + (guide_width if inject in ("all", "input") else 0)
        self.first = nn.Linear(vector, channels[0] * start**2)
        self.first_norm = nn.BatchNorm2d(channels[0])
        self.deconvs = nn.ModuleList(
            up(c + m, out, kernel) for c, m, out in zip(channels, maps, [*channels[1:], 3], strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels[1:])
        initialise_as_tensorflow(self)

    def forward(self, z: Tensor, t: Tensor, v: Tensor | None = None) -> Tensor:
        """-> B,3,S,S in (-1, 1)."""
        inputs = [z, self.text(t)]
        source = t  # of the guide's maps, where there is a guide
        if self.guide is not None:
            embedded, source = self.guide(v)
            if self.inject != "maps":
                inputs.append(embedded)
        h = self.first(torch.cat(inputs, 1)).unflatten(1, (-1, self.start, self.start))
        h = F.relu(self.first_norm(h))
        for stage, deconv in enumerate(self.deconvs):
            if self.guide is not None and self.inject != "input":
                h = torch.cat([h, self.guide.map(stage, source, h.shape[-1])], 1)
            h = deconv(h)
            if stage < len(self.norms):
                h = F.relu(self.norms[stage](h))
        return torch.tanh(h)


class TrunkAndHead(nn.Module):
    """What every discriminator here does: looks at the image alone (`trunk`), then joins the conditions in (`head`)."""

    def __init__(self, *, unit: bool) -> None:
        """unit: the first convolution sees images, and its padding, in [0, 1], as [P]'s does."""
        super().__init__()
        self.unit = unit

    def look(self, x: Tensor) -> Tensor:
        """`trunk` of an image in the range that the first convolution sees."""
        raise NotImplementedError

    def head(self, h: Tensor, t: Tensor) -> Tensor:
        """-> B logits."""
        raise NotImplementedError

    def trunk(self, x: Tensor) -> Tensor:
        """What D makes of the image alone: B,3,S,S -> B,C,S/16,S/16."""
        return self.look((x + 1) / 2 if self.unit else x)

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """x and what `head` takes -> B logits."""
        return self.head(self.trunk(x), *conditions)


class Discriminator(TrunkAndHead):
    """D(x, t): four convolutions of the image (`trunk`), then the sentence joins in (`head`), which is [P]'s."""

    def __init__(
        self,
        *,
        image_size: int,
        text_dim: int,
        ndf: int,
        text_width: int,
        kernel: int,
        unit: bool = False,
        guide_width: int = 0,
    ) -> None:
        """ndf: channels of the first map. kernel: 5 = [P], 4 = [R]. guide_width: of what a subclass adds to `joint`."""
        super().__init__(unit=unit)
        choose("model.discriminator.kernel", kernel, KERNELS)
        widths = {"ndf": ndf, "text_width": text_width}
        check_ranges("model.discriminator", widths, dict.fromkeys(widths, "int [1, inf)"))
        channels = [ndf, 2 * ndf, 4 * ndf, 8 * ndf]
        self.convs = nn.ModuleList(down(i, o, kernel) for i, o in zip([3, *channels], channels, strict=False))
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in channels[1:])
        self.text = projection(text_dim, text_width)
        self.joint = nn.Conv2d(channels[3] + text_width + guide_width, channels[3], 1)
        self.joint_norm = nn.BatchNorm2d(channels[3])
        self.last = nn.Linear(channels[3] * start_of(image_size) ** 2, 1)
        initialise_as_tensorflow(self)

    def look(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.convs[0](x), 0.2)
        for conv, norm in zip(list(self.convs)[1:], self.norms, strict=True):
            h = F.leaky_relu(norm(conv(h)), 0.2)
        return h

    def head(self, h: Tensor, t: Tensor) -> Tensor:
        """-> B logits."""
        return self.judge(h, self.text(t))

    def judge(self, h: Tensor, *vectors: Tensor) -> Tensor:
        """The vectors at every position beside the map -> B logits."""
        seen = torch.cat([h, *(tiled(vector, h) for vector in vectors)], 1)
        return self.last(F.leaky_relu(self.joint_norm(self.joint(seen)), 0.2).flatten(1)).squeeze(1)


class GuidedDiscriminator(Discriminator):
    """D(x, t, v), which the paper's is not: it can tell an image that does not follow its guide (the preset `plus`)."""

    def __init__(self, *, code: Sequence[int], guide_width: int, **more: Any) -> None:
        super().__init__(guide_width=guide_width, **more)
        self.guide = projection(code[0], guide_width)
        initialise_as_tensorflow(self)

    def head(self, h: Tensor, t: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        """v: B,F, or B,F,H,W of which the mean over positions counts -> B logits."""
        return self.judge(h, self.text(t), self.guide(v if v.ndim == 2 else v.mean((2, 3))))


def tiled(vector: Tensor, h: Tensor) -> Tensor:
    """A vector B,C at every position of a map: B,C,H,W."""
    return vector[:, :, None, None].expand(-1, -1, *h.shape[-2:])
