"""The discriminators of FineGAN and of AttnGAN (Sec. 3.2, 3.3, Fig. 7): whole image, condition, 2 x 2 parts.

B batch, s image side, D width of the condition's code, C = 8 ndf. Layers and names of weights are those of
taoxugit/AttnGAN (AG) with logits in place of its sigmoids; the head of the parts is ours (docs/finegan.md).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from common.blocks import upcast
from common.errors import check_ranges, choose
from finegan.networks import SLOPE, conv3x3, doublings, full_precision

MODES = ("crop", "patch")


def quadrants(x: Tensor) -> Tensor:
    """B,3,H,W -> 4B,3,H/2,W/2: top left of all, then all top right, bottom left, bottom right (x_j of Eq. 4)."""
    h, w = x.shape[2] // 2, x.shape[3] // 2
    return torch.cat([x[:, :, :h, :w], x[:, :, :h, w:], x[:, :, h:, :w], x[:, :, h:, w:]])


def down(before: int, after: int) -> list[nn.Module]:
    """B,C,s,s -> B,C',s/2,s/2: convolution 4 x 4 of stride 2, BN, LeakyReLU."""
    return [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(SLOPE, inplace=True)]


def joint(before: int, after: int) -> nn.Sequential:
    """B,C,s,s -> B,C',s,s: convolution 3 x 3, BN, LeakyReLU."""
    return nn.Sequential(conv3x3(before, after), nn.BatchNorm2d(after), nn.LeakyReLU(SLOPE, inplace=True))


class Logits(nn.Module):
    """code: B,C,k,k (and sent: B,D) -> B,1,k/kernel,k/kernel logits in float32 (AG D_GET_LOGITS)."""

    def __init__(self, channels: int, *, kernel: int = 4, code_dim: int = 0) -> None:
        super().__init__()
        self.jointConv = joint(channels + code_dim, channels) if code_dim else None
        self.outlogits = nn.Sequential(nn.Conv2d(channels, 1, kernel, kernel))

    def forward(self, code: Tensor, sent: Tensor | None = None) -> Tensor:
        if self.jointConv is not None:
            assert sent is not None
            grid = sent.to(code.dtype)[:, :, None, None].expand(-1, -1, *code.shape[2:])
            code = self.jointConv(torch.cat([code, grid], 1))
        with full_precision(code):
            return self.outlogits(upcast(code))


class Discriminator(nn.Module):
    """D at one stage; 6,313,730 / 19,424,002 / 71,858,946 parameters at 64 / 128 / 256 px, 2,049 more with parts.

    Heads read a shared code, so one pass of the trunk serves whole image, condition and mismatched condition. Batch
    norm makes each call of `trunk`, `cond` and `part` a batch of its own.
    """

    def __init__(
        self,
        *,
        side: int,
        code_dim: int,
        ndf: int,
        part_mode: str,
        conditional: bool,
        parts: bool,
    ) -> None:
        """conditional=False: the foreground discriminator of Sec. 3.2, which judges x (*) m without its condition.

        part_mode: how Eq. 4 judges the region x_j. "crop": D of the quadrant itself, by the same trunk. "patch": the
        quadrants of the whole image's code (the head of HDGAN, Zhang et al. 2018); cheap, but each sees nearly all.
        """
        super().__init__()
        check_ranges("model.discriminator", {"ndf": ndf}, {"ndf": "int [1, inf)"})
        choose("model.discriminator.part_mode", part_mode, MODES)
        halvings, channels = doublings(side, "a discriminator"), 8 * ndf
        plain = min(halvings, 4)  # AG's 64 px trunk; below that its last widths, above it wider blocks and back
        widths = [channels >> i for i in reversed(range(plain))]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, 1, bias=False), nn.LeakyReLU(SLOPE, inplace=True)]
        for before, after in pairwise(widths):
            layers += down(before, after)
        self.img_code_s16 = nn.Sequential(*layers)
        extra = halvings - plain
        for i in range(1, extra + 1):
            self.add_module(f"img_code_s{16 << i}", nn.Sequential(*down(channels << (i - 1), channels << i)))
        for i in range(1, extra + 1):
            wide = channels << (extra - i + 1)
            self.add_module(f"img_code_s{16 << extra}_{i}", joint(wide, wide // 2))
        self.UNCOND_DNET = Logits(channels)
        self.COND_DNET = Logits(channels, code_dim=code_dim) if conditional else None
        self.PART_DNET = Logits(channels, kernel=2) if parts else None
        self.part_mode = part_mode

    def trunk(self, x: Tensor) -> Tensor:
        """B,3,s,s -> code B,C,4,4; a quadrant's is B,C,2,2."""
        for name, block in self.named_children():
            if name.startswith("img_code"):
                x = block(x)
        return x

    def uncond(self, code: Tensor) -> Tensor:
        """u: is this a photo? B,C,4,4 -> B."""
        return self.UNCOND_DNET(code).flatten()

    def cond(self, code: Tensor, sent: Tensor) -> Tensor:
        """k: is this a photo of what the condition says? B,C,4,4, B,D -> B."""
        assert self.COND_DNET is not None, "a foreground discriminator has no condition"
        return self.COND_DNET(code, sent).flatten()

    def part(self, x: Tensor, code: Tensor) -> Tensor:
        """p_j of Eq. 4: x B,3,s,s and its code -> B,4 logits of top left, top right, bottom left, bottom right."""
        assert self.PART_DNET is not None, "this discriminator was built without parts"
        if self.part_mode == "patch":
            return self.PART_DNET(code).flatten(1)
        return self.PART_DNET(self.trunk(quadrants(x))).view(4, len(x)).T

    def forward(self, x: Tensor, sent: Tensor | None = None) -> tuple[Tensor, ...]:
        """All logits there are: u, then k (with a condition), then p."""
        code = self.trunk(x)
        logits = [self.uncond(code)]
        if self.COND_DNET is not None and sent is not None:
            logits.append(self.cond(code, sent))
        if self.PART_DNET is not None:
            logits.append(self.part(x, code))
        return tuple(logits)
