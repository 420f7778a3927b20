"""The generator of FineGAN and of AttnGAN, its baseline (Sec. 3.2, Fig. 6). No losses here.

B batch, L tokens of a condition, D width of its codes (256), S image side; stages draw S/4, S/2 and S. What the paper
leaves open, and all names of weights, are as in taoxugit/AttnGAN (AG), so that its files load; what neither has is
ours: docs/finegan.md.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from math import log2
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.blocks import upcast
from common.errors import UserError, check_ranges

SLOPE = 0.2  # LeakyReLU (AG model.py)


def initialise(module: nn.Module) -> None:
    """Orthogonal weights, zero biases of linear layers, BN gamma N(1, 0.02^2) and beta 0 (AG miscc/utils.py).

    Biases of convolutions, which only the logits have, stay as PyTorch draws them.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(layer.weight)
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Outside autocast, on the device of x; the meta device has no autocast to leave."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def doublings(side: int, what: str) -> int:
    """n of side = 4 * 2^n. UserError for another side."""
    n = log2(side / 4) if side >= 4 else -1.0
    if n != int(n) or n < 1:
        raise UserError(
            f"{what} needs a side of 4 times a power of two, and {side} is not: choose 16, 32, 64, 128, 256."
        )
    return int(n)


def conv3x3(before: int, after: int) -> nn.Conv2d:
    """B,C,s,s -> B,C',s,s, without bias."""
    return nn.Conv2d(before, after, 3, 1, 1, bias=False)


class ConditioningAugmentation(nn.Module):
    """sent: B,D -> mu, logvar: B,c_dim each. The GLU over the statistics is AG's (CA_NET)."""

    def __init__(self, *, code_dim: int, c_dim: int) -> None:
        super().__init__()
        self.fc = nn.Linear(code_dim, 4 * c_dim)
        self.glu = nn.GLU(1)

    def forward(self, sent: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = upcast(self.glu(self.fc(sent))).chunk(2, 1)  # float32, so that noise is the same in any precision
        return mu, logvar


class Upsample(nn.Sequential):
    """h: B,C,s,s, and the mask's features at 2s where they enter: B,F,2s,2s -> B,C',2s,2s (AG upBlock; Fig. 6)."""

    def __init__(self, before: int, after: int) -> None:
        """before: C + F."""
        super().__init__(
            nn.Upsample(scale_factor=2, mode="nearest"),
            conv3x3(before, 2 * after),
            nn.BatchNorm2d(2 * after),
            nn.GLU(1),
        )

    def forward(self, h: Tensor, skip: Tensor | None = None) -> Tensor:
        double, conv, norm, glu = self
        h = double(h)
        return glu(norm(conv(h if skip is None else torch.cat([h, skip], 1))))


class ResidualUnit(nn.Module):
    """conv-BN-GLU-conv-BN plus identity (AG ResBlock). B,C,s,s -> B,C,s,s."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            conv3x3(channels, 2 * channels),
            nn.BatchNorm2d(2 * channels),
            nn.GLU(1),
            conv3x3(channels, channels),
            nn.BatchNorm2d(channels),
        )

    def forward(self, h: Tensor) -> Tensor:
        return h + self.block(h)


class Attention(nn.Module):
    """Each place of h looks at the words: keys and values are one projection of them, scores unscaled (AG)."""

    def __init__(self, *, channels: int, code_dim: int, legacy: bool) -> None:
        super().__init__()
        self.conv_context = nn.Conv2d(code_dim, channels, 1, bias=False)
        self.legacy = legacy

    def forward(self, h: Tensor, words: Tensor, pad: Tensor) -> tuple[Tensor, Tensor]:
        """h: B,C,s,s, words: B,D,L, pad: B,L -> context B,C,s,s, attention B,L,s,s, which sums to 1 over L. Float32."""
        keys = upcast(self.conv_context(words[..., None]).squeeze(3))  # B,C,L
        with full_precision(h):
            queries = upcast(h).flatten(2).transpose(1, 2)  # B,Q,C
            scores = torch.bmm(queries, keys).masked_fill(self.hidden(pad, queries.shape[1]), -torch.inf)
            attention = scores.softmax(2)  # B,Q,L
            context = torch.bmm(attention, keys.transpose(1, 2))  # B,Q,C
        place = h.shape[2:]
        context, attention = (value.transpose(1, 2).unflatten(2, place) for value in (context, attention))
        return context.to(h.dtype), attention

    def hidden(self, pad: Tensor, queries: int) -> Tensor:
        """B,Q or 1,L: the words no query may look at.

        legacy: as the published code lays them out, (query, sample) over scores that are (sample, query): query q of
        sample b is given the padding of sample (bQ + q) mod B. Released weights were trained and scored so.
        """
        if not self.legacy:
            return pad[:, None]
        samples = len(pad)
        return pad[torch.arange(samples * queries, device=pad.device) % samples].unflatten(0, (samples, queries))


class MaskEncoder(nn.Module):
    """The contracting arm of Fig. 6's U-Net; the generator is the expanding arm. Widths are ours (docs/finegan.md).

    mask: B,1,S,S in {0, 1} -> side -> features B,F,side,side at each of `levels`. `widths` says F of each.
    """

    def __init__(self, *, image_size: int, levels: list[int] | None, channels: int, channels_max: int) -> None:
        super().__init__()
        sides = [image_size >> i for i in range(doublings(image_size, "the mask encoder") + 1)]
        self.levels = set(levels or sides)
        if unknown := sorted(self.levels - set(sides)):
            raise UserError(
                f"model.generator.mask_levels has {unknown[0]}, where no mask enters: choose among {sides}."
            )
        before = 1
        self.widths: dict[int, int] = {}
        for i, side in enumerate(side for side in sides if side >= min(self.levels)):
            after = min(channels << i, channels_max)
            conv = nn.Conv2d(before, after, 4 if i else 3, 2 if i else 1, 1, bias=False)
            block = nn.Sequential(conv, nn.BatchNorm2d(after), nn.LeakyReLU(SLOPE, inplace=True))
            self.add_module(f"down{side}", block)
            if side in self.levels:
                self.widths[side] = after
            before = after

    def forward(self, mask: Tensor) -> dict[int, Tensor]:
        h, features = 2 * mask - 1, {}
        for block in self.children():
            h = block(h)
            if h.shape[-1] in self.levels:
                features[h.shape[-1]] = h
        return features


class FirstStage(nn.Module):
    """c, z -> h: B,ngf,S/4,S/4 (AG INIT_STAGE_G). The mask's features enter from 4 x 4 on."""

    def __init__(self, *, side: int, ngf: int, in_dim: int, skips: Mapping[int, int]) -> None:
        super().__init__()
        self.ups = doublings(side, "the first stage")
        self.width = ngf << self.ups
        self.fc = nn.Sequential(
            nn.Linear(in_dim, 2 * 16 * self.width, bias=False), nn.BatchNorm1d(2 * 16 * self.width), nn.GLU(1)
        )
        for i in range(1, self.ups + 1):
            entering = skips.get(4 << i, 0) + (skips.get(4, 0) if i == 1 else 0)
            width = self.width >> (i - 1)
            self.add_module(f"upsample{i}", Upsample(width + entering, width // 2))

    def forward(self, c: Tensor, z: Tensor, skips: Mapping[int, Tensor]) -> Tensor:
        h = self.fc(torch.cat([c, z], 1)).unflatten(1, (self.width, 4, 4))
        if 4 in skips:
            h = torch.cat([h, skips[4]], 1)
        for i in range(1, self.ups + 1):
            h = getattr(self, f"upsample{i}")(h, skips.get(4 << i))
        return h


class NextStage(nn.Module):
    """h: B,ngf,s,s and the words -> B,ngf,2s,2s and the attention B,L,s,s (AG NEXT_STAGE_G)."""

    def __init__(self, *, ngf: int, code_dim: int, residual_blocks: int, skip: int, legacy: bool) -> None:
        super().__init__()
        self.att = Attention(channels=ngf, code_dim=code_dim, legacy=legacy)
        self.residual = nn.Sequential(*(ResidualUnit(2 * ngf) for _ in range(residual_blocks)))
        self.upsample = Upsample(2 * ngf + skip, ngf)

    def forward(self, h: Tensor, words: Tensor, pad: Tensor, skip: Tensor | None) -> tuple[Tensor, Tensor]:
        context, attention = self.att(h, words, pad)
        return self.upsample(self.residual(torch.cat([h, context], 1)), skip), attention


class ImageHead(nn.Module):
    """h: B,C,s,s -> image B,3,s,s in (-1, 1), float32: bfloat16 has fewer than 8 bits there (AG GET_IMAGE_G)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.img = nn.Sequential(conv3x3(channels, 3))

    def forward(self, h: Tensor) -> Tensor:
        return upcast(self.img(h)).tanh()


class Generated(NamedTuple):
    """What one pass of the generator gives."""

    images: tuple[Tensor, ...]  # S/4, S/2, S: B,3,s,s each in (-1, 1)
    attention: tuple[Tensor, ...]  # of stages 2 and 3: B,L,S/4,S/4 and B,L,S/2,S/2, summing to 1 over L
    mu: Tensor  # B,c_dim
    logvar: Tensor  # B,c_dim


class Generator(nn.Module):
    """G(z, c, m) in three stages (Sec. 3.2, Fig. 6): 7,084,592 parameters as AttnGAN, 8,168,168 with masks."""

    def __init__(
        self,
        *,
        image_size: int,
        code_dim: int,
        legacy: bool,
        ngf: int,
        z_dim: int,
        c_dim: int,
        residual_blocks: int,
        masks: bool,
        mask_levels: list[int] | None,
        mask_channels: int,
        mask_channels_max: int,
    ) -> None:
        """mask_levels: sides at which the mask enters, None = all from S to 4; smaller ones than listed are not built.

        legacy: padding of the attention as in the published code, see `Attention.hidden`.
        """
        super().__init__()
        sizes = {"ngf": ngf, "z_dim": z_dim, "c_dim": c_dim, "residual_blocks": residual_blocks}
        sizes |= {"mask_channels": mask_channels, "mask_channels_max": mask_channels_max}
        check_ranges(
            "model.generator", sizes, dict.fromkeys(sizes, "int [1, inf)") | {"residual_blocks": "int [0, inf)"}
        )
        small = image_size // 4
        self.ca_net = ConditioningAugmentation(code_dim=code_dim, c_dim=c_dim)
        self.mask_net = None
        skips: Mapping[int, int] = {}
        if masks:
            self.mask_net = MaskEncoder(
                image_size=image_size, levels=mask_levels, channels=mask_channels, channels_max=mask_channels_max
            )
            skips = self.mask_net.widths
        self.sides = (small, 2 * small, image_size)

        def following(side: int) -> NextStage:
            return NextStage(
                ngf=ngf, code_dim=code_dim, residual_blocks=residual_blocks, skip=skips.get(side, 0), legacy=legacy
            )

        self.h_net1 = FirstStage(side=small, ngf=ngf, in_dim=c_dim + z_dim, skips=skips)
        self.img_net1 = ImageHead(ngf)
        self.h_net2, self.img_net2 = following(2 * small), ImageHead(ngf)
        self.h_net3, self.img_net3 = following(image_size), ImageHead(ngf)

    def forward(
        self,
        z: Tensor,
        sent: Tensor,
        words: Tensor,
        pad: Tensor,
        mask: Tensor | None = None,
        eps: Tensor | None = None,
    ) -> Generated:
        """z: B,z_dim, sent: B,D, words: B,D,L, pad: B,L bool (True = padding), mask: B,1,S,S in {0, 1}.

        eps: B,c_dim, the noise of c = mu + eps * exp(logvar / 2), sampled when None. ValueError when masks are read and
        none is given, or the other way round.
        """
        if (mask is None) == (self.mask_net is not None):
            raise ValueError("a generator with masks=True needs a mask, and one without takes none")
        mu, logvar = self.ca_net(sent)
        c = mu + (0.5 * logvar).exp() * (torch.randn_like(mu) if eps is None else eps)
        skips: dict[int, Tensor] = {} if mask is None or self.mask_net is None else self.mask_net(mask)
        h1 = self.h_net1(c, z, skips)
        h2, attention2 = self.h_net2(h1, words, pad, skips.get(self.sides[1]))
        h3, attention3 = self.h_net3(h2, words, pad, skips.get(self.sides[2]))
        images = (self.img_net1(h1), self.img_net2(h2), self.img_net3(h3))
        return Generated(images, (attention2, attention3), mu, logvar)


def warm_start(generator: Generator, state: Mapping[str, Tensor]) -> None:
    """Weights of a generator without masks in one with masks, which then draws the same images whatever the mask.

    Features of the mask enter last, so the first input channels of each convolution are given their weights and the
    added ones 0. `mask_net` stays as it is. UserError for weights of another architecture.
    """
    mine = generator.state_dict()
    fitted = {}
    for key, value in state.items():
        room = mine.get(key)
        if room is None:
            raise UserError(
                f"the weights have {key}, which this generator has not: give those of an AttnGAN of its size."
            )
        wider = value.ndim == 4 == room.ndim and value.shape[1] < room.shape[1]
        if wider and (value.shape[0], value.shape[2:]) == (room.shape[0], room.shape[2:]):
            fitted[key] = torch.zeros_like(room)
            fitted[key][:, : value.shape[1]] = value
        elif value.shape == room.shape:
            fitted[key] = value
        else:
            sizes = f"{tuple(value.shape)} where {tuple(room.shape)} is wanted"
            raise UserError(f"{key} is {sizes}: build the generator with the ngf and sizes of these weights.")
    missing = [k for k in mine if not (k in fitted or k.startswith("mask_net.") or k.endswith("num_batches_tracked"))]
    if missing:
        raise UserError(f"the weights lack {missing[0]} and {len(missing) - 1} more: give a whole AttnGAN generator.")
    generator.load_state_dict(mine | fitted)
