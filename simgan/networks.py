"""SIMGAN's generator and discriminator (Sec. 2, Fig. 2). No losses here.

B batch, S side of the image (256 in the paper), C channels, D = 300 width of the sentence vector phi.
Origins of what the paper leaves open are in docs/simgan.md; each such choice is an argument.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import pairwise
from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.blocks import initialise, upcast
from common.errors import UserError, check_ranges, choose

SLOPE = 0.2  # LeakyReLU (Sec. 3.1); the slope is not in the paper: SISGAN
Context = AbstractContextManager[None]


def pair(first: Context, second: Context) -> tuple[Context, Context]:
    """The two contexts that a recomputed call asks for: of its forward pass and of the second one."""
    return first, second


@contextmanager
def still_statistics(module: nn.Module) -> Iterator[None]:
    """Normalise by batch statistics and leave the running buffers alone (all three of each BatchNorm)."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [m.track_running_stats for m in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, tracked in zip(norms, before, strict=True):
            norm.track_running_stats = tracked


@contextmanager
def idle_statistics(module: nn.Module) -> Iterator[None]:
    """Run BatchNorm as in training but move no running statistics: for a forward pass that is run a second time."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(m.momentum, m.num_batches_tracked.clone()) for m in norms if m.num_batches_tracked is not None]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, seen) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(seen)  # type: ignore[union-attr]


class Standardise(nn.Module):
    """Sentence vectors B,D -> B,D whose coordinates have mean 0 and variance 1 over those that `measure` saw.

    The raw ones of a small encoder differ by a fifth, and weights that begin at 0.02 make nothing of that for long.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def measure(self, phi: Tensor) -> None:
        """phi: M,D."""
        self.mean.copy_(phi.mean(0))
        self.std.copy_(phi.std(0).clamp_min(1e-6))  # a coordinate that never changes stays 0

    def forward(self, phi: Tensor) -> Tensor:
        return (phi - self.mean) / self.std


class ConditioningAugmentation(nn.Module):
    """phi: B,D -> mu, log sigma: B,ca_dim each (Sec. 2.3; no bias as in SISGAN). log sigma is not a log variance."""

    def __init__(self, *, phi_dim: int, ca_dim: int, bias: bool) -> None:
        super().__init__()
        self.mu = nn.Sequential(nn.Linear(phi_dim, ca_dim, bias=bias), nn.LeakyReLU(SLOPE))
        self.log_sigma = nn.Sequential(nn.Linear(phi_dim, ca_dim, bias=bias), nn.LeakyReLU(SLOPE))

    def forward(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        return self.mu(phi), self.log_sigma(phi)


class ResidualUnit(nn.Module):
    """conv-BN-ReLU-conv-BN plus identity, then ReLU (ResNet v1, reference [19] of the paper). B,C,H,W -> B,C,H,W."""

    def __init__(self, channels: int, *, post_relu: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.post = nn.ReLU() if post_relu else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        return self.post(h + self.branch(h))


class Generator(nn.Module):
    """G(x, phi): the photo x edited to fit the sentence phi; 21,168,195 parameters at the paper's sizes (Sec. 3.1).

    x: B,3,S,S in [-1, 1], S divisible by 4; phi: B,D -> B,3,S,S in (-1, 1).
    """

    def __init__(
        self,
        *,
        phi_dim: int,
        standardise: bool,
        ngf: int,
        n_res: int,
        first_kernel: int,
        res_post_relu: bool,
        trunk_skip: bool,
        image_skip: bool,
        ca_dim: int,
        ca_bias: bool,
        recompute: bool,
    ) -> None:
        """image_skip: the decoder says where the photo is painted over, and with what (Pumarola et al. 2018)."""
        super().__init__()
        sizes = {"ngf": ngf, "n_res": n_res, "first_kernel": first_kernel, "ca_dim": ca_dim}
        check_ranges("model.generator", sizes, dict.fromkeys(sizes, "int [1, inf)") | {"n_res": "int [0, inf)"})
        self.ca_dim, self.trunk_skip, self.image_skip, self.recompute = ca_dim, trunk_skip, image_skip, recompute
        self.standardise = Standardise(phi_dim) if standardise else nn.Identity()
        self.augment = ConditioningAugmentation(phi_dim=phi_dim, ca_dim=ca_dim, bias=ca_bias)
        self.encoder = nn.Sequential(
            nn.Conv2d(3, ngf, first_kernel, 1, first_kernel // 2),
            nn.ReLU(inplace=True),
            nn.Conv2d(ngf, 2 * ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * ngf),
            nn.ReLU(inplace=True),
            nn.Conv2d(2 * ngf, 4 * ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(4 * ngf),
            nn.ReLU(inplace=True),
        )
        self.joint = nn.Sequential(
            nn.Conv2d(4 * ngf + ca_dim, 4 * ngf, 3, 1, 1, bias=False), nn.BatchNorm2d(4 * ngf), nn.ReLU(inplace=True)
        )
        self.residual = nn.Sequential(*(ResidualUnit(4 * ngf, post_relu=res_post_relu) for _ in range(n_res)))
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(4 * ngf, 2 * ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * ngf),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(2 * ngf, ngf, 4, 2, 1, bias=False),
            nn.BatchNorm2d(ngf),
            nn.ReLU(inplace=True),
            nn.Conv2d(ngf, 4 if image_skip else 3, 3, 1, 1),
            nn.Tanh(),
        )
        initialise(self)

    def forward(self, x: Tensor, phi: Tensor, eps: Tensor | None = None, mode: str = "sample") -> Tensor:
        """eps: B,ca_dim, used as it is; None draws it. mode "mean" takes c = mu and draws nothing."""
        return self.edit(x, self.condition(phi, eps, mode)[0])

    def condition(self, phi: Tensor, eps: Tensor | None = None, mode: str = "sample") -> tuple[Tensor, Tensor, Tensor]:
        """c = mu + sigma * eps, mu, log sigma: B,ca_dim each (Sec. 2.3). phi: B,D."""
        # upcast, so that noise is the same in any precision
        mu, log_sigma = (upcast(value) for value in self.augment(self.standardise(phi)))
        if mode == "mean":
            return mu, mu, log_sigma
        if eps is None:
            eps = torch.randn_like(mu)
        return mu + log_sigma.exp() * eps, mu, log_sigma

    def edit(self, x: Tensor, c: Tensor) -> Tensor:
        """x: B,3,S,S, c: B,ca_dim -> B,3,S,S. The code is laid over the S/4 grid after the encoder (Fig. 2)."""
        h = self.encoder(x)
        code = c.to(h.dtype)[:, :, None, None].expand(-1, -1, *h.shape[2:])
        h = self.joint(torch.cat([h, code], 1))  # B,4ngf+ca,S/4,S/4
        trunk = self.recomputed(h) if self.recompute and torch.is_grad_enabled() else self.residual(h)
        h = h + trunk if self.trunk_skip else trunk
        if not self.image_skip:
            return self.decoder(h)
        *layers, squash = self.decoder
        for layer in layers:
            h = layer(h)
        paint, mask = squash(h[:, :3]), h[:, 3:].sigmoid()
        return torch.lerp(x, paint, mask)

    def recomputed(self, h: Tensor) -> Tensor:
        """The trunk with its activations computed again on the way back, which halves what a step stores."""
        for unit in self.residual:
            tracked = unit.branch[1].track_running_stats  # type: ignore[union-attr, index]
            again = idle_statistics(unit) if tracked else still_statistics(unit)
            h = checkpoint(unit, h, use_reentrant=False, context_fn=partial(pair, nullcontext(), again))
        return h


class Discriminator(nn.Module):
    """D(x, phi): does the photo fit the sentence? Eight convolutions, 11,523,521 parameters at 256 px (Sec. 3.1).

    x: B,3,S,S, phi: B,D -> B scores, raw: least squares wants no sigmoid. The text enters after the strided
    convolutions, so `look(x)` serves several sentences.
    """

    def __init__(
        self,
        *,
        image_size: int,
        phi_dim: int,
        standardise: bool,
        ndf: int,
        d_max: int | None,
        text_dim: int,
        joint_norm: str,
    ) -> None:
        """joint_norm: batch, or none where text and image meet, so that each pair is judged by itself."""
        super().__init__()
        sizes = {"ndf": ndf, "d_max": d_max, "text_dim": text_dim}
        check_ranges(
            "model.discriminator", sizes, dict.fromkeys(sizes, "int [1, inf)") | {"d_max": "null or int [1, inf)"}
        )
        choose("model.discriminator.joint_norm", joint_norm, ("batch", "none"))
        depth = log2(image_size / 4)
        if depth != int(depth) or depth < 1:
            raise UserError(
                f"SIMGAN's discriminator needs an image side of 4 x a power of two, and {image_size} is not"
            )
        widths = [ndf * 2**i if d_max is None else min(ndf * 2**i, d_max) for i in range(int(depth))]
        layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 4, 2, 1), nn.LeakyReLU(SLOPE, inplace=True)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after)]
            layers += [nn.LeakyReLU(SLOPE, inplace=True)]
        self.trunk = nn.Sequential(*layers)  # -> B,C,4,4
        joint = 8 * ndf if d_max is None else min(8 * ndf, d_max)
        self.standardise = Standardise(phi_dim) if standardise else nn.Identity()
        self.text = nn.Sequential(nn.Linear(phi_dim, text_dim), nn.LeakyReLU(SLOPE))
        self.joint = nn.Sequential(
            nn.Conv2d(widths[-1] + text_dim, joint, 1, bias=False),
            nn.BatchNorm2d(joint) if joint_norm == "batch" else nn.Identity(),
            nn.LeakyReLU(SLOPE, inplace=True),
        )
        self.score = nn.Conv2d(joint, 1, 4)
        initialise(self)

    def forward(self, x: Tensor, phi: Tensor) -> Tensor:
        return self.head(self.look(x), phi)

    def look(self, x: Tensor) -> Tensor:
        """All that no sentence changes: B,C,4,4, the image's share of the 1x1 convolution over image and text."""
        h = self.trunk(x)
        return F.conv2d(h, self.joint[0].weight[:, : h.shape[1]])  # type: ignore[index]

    def head(self, seen: Tensor, phi: Tensor) -> Tensor:
        """seen: B,C,4,4 from `look`, phi: B,D -> B scores. Each call is a batch of its own for BatchNorm."""
        text = self.text(self.standardise(phi))  # the same at all 4x4 places, so its share is too
        told = F.linear(text, self.joint[0].weight[:, -text.shape[1] :, 0, 0])  # type: ignore[index]
        return self.score(self.joint[1:](seen + told[:, :, None, None])).flatten()
