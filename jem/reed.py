"""Networks of public GAN-CLS: Reed et al.'s own ([R], reedscot/icml2016, main_cls_int.lua) and those of its port to
PyTorch (aelnouby/Text-to-Image-Synthesis). Both draw and read 64 pixels and are called as those of `jem.networks`.

B batch, T length of a sentence vector, Z of the noise. Images are in [-1, 1].
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from common.blocks import initialise
from common.errors import UserError, check_ranges
from jem.networks import TrunkAndHead, projection, tiled

SIDE = 64  # of their images


def check_sizes(network: str, image_size: int, kernel: int, code: Sequence[int] | None = None, **sizes: int) -> None:
    """UserError unless images are of 64 pixels, kernels of 4, sizes positive, and there is no guide.

    network: generator or discriminator.
    """
    if image_size != SIDE:
        raise UserError(f"this {network} is for 64 px, not for data.image_size={image_size}: set data.image_size=64.")
    if kernel != 4:
        raise UserError(f"this {network} has kernels of 4, not of {kernel}: set model.{network}.kernel=4.")
    if code is not None:
        raise UserError(f"this {network} takes no guide: set model.generator.arch=dcgan.")
    check_ranges(f"model.{network}", sizes, dict.fromkeys(sizes, "int [1, inf)"))


def initialise_as_torch(net: nn.Module) -> None:
    """[R]: convolutions and BN as DCGAN has them; linear layers U(-1/sqrt(n), 1/sqrt(n)) of n inputs, as made."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            initialise(layer)
        elif isinstance(layer, nn.BatchNorm1d):
            nn.init.normal_(layer.weight, 1.0, 0.02)


def normed_projection(inputs: int, outputs: int) -> nn.Sequential:
    """`projection` with BN."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.LeakyReLU(0.2))


class Residual(nn.Module):
    """h + a bottleneck of h, then the activation: B,C,H,W -> B,C,H,W."""

    def __init__(self, channels: int, width: int, activation: Callable[[], nn.Module], *, bias: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=bias),
            nn.BatchNorm2d(width),
            activation(),
            nn.Conv2d(width, width, 3, padding=1, bias=bias),
            nn.BatchNorm2d(width),
            activation(),
            nn.Conv2d(width, channels, 3, padding=1, bias=bias),
            nn.BatchNorm2d(channels),
        )
        self.activation = activation()

    def forward(self, h: Tensor) -> Tensor:
        return self.activation(h + self.branch(h))


class ReedGenerator(nn.Module):
    """G(z, t) of [R], 18,905,472 parameters. No activation stands between a deconvolution's BN and a residual block."""

    def __init__(
        self,
        *,
        image_size: int,
        text_dim: int,
        ngf: int,
        z_dim: int,
        text_width: int,
        kernel: int = 4,
        code: Sequence[int] | None = None,
        conv_bias: bool = False,
    ) -> None:
        """ngf: channels of the last map. code: None, as there is no guide.

        conv_bias: [R] sets the biases of convolutions to 0 before each update, so there are none; its files still hold
        what the last update made of them.
        """
        super().__init__()
        check_sizes("generator", image_size, kernel, code, ngf=ngf, z_dim=z_dim, text_width=text_width)
        self.z_dim = z_dim

        def up(inputs: int, outputs: int) -> nn.Module:
            return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=conv_bias)

        self.text = projection(text_dim, text_width)
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(z_dim + text_width, 8 * ngf, 4, bias=conv_bias),
            nn.BatchNorm2d(8 * ngf),
            Residual(8 * ngf, 2 * ngf, nn.ReLU, bias=conv_bias),  # 4 x 4
            up(8 * ngf, 4 * ngf),
            nn.BatchNorm2d(4 * ngf),
            Residual(4 * ngf, ngf, nn.ReLU, bias=conv_bias),  # 8 x 8
            up(4 * ngf, 2 * ngf),
            nn.BatchNorm2d(2 * ngf),
            nn.ReLU(),
            up(2 * ngf, ngf),
            nn.BatchNorm2d(ngf),
            nn.ReLU(),
            up(ngf, 3),
            nn.Tanh(),
        )
        initialise_as_torch(self)

    def forward(self, z: Tensor, t: Tensor, v: Tensor | None = None) -> Tensor:
        """z: B,Z, t: B,T -> B,3,64,64 in (-1, 1). v: nothing is made of it."""
        return self.layers(torch.cat([z, self.text(t)], 1)[:, :, None, None])


class ReedDiscriminator(TrunkAndHead):
    """D(x, t) of [R], 4,030,080 parameters. Its third and fourth convolution have BN and no activation behind them."""

    def __init__(
        self,
        *,
        image_size: int,
        text_dim: int,
        ndf: int,
        text_width: int,
        kernel: int = 4,
        unit: bool = False,
        conv_bias: bool = False,
    ) -> None:
        """ndf: channels of the first map. conv_bias: see `ReedGenerator`."""
        super().__init__(unit=unit)
        check_sizes("discriminator", image_size, kernel, ndf=ndf, text_width=text_width)

        def down(inputs: int, outputs: int) -> nn.Module:
            return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=conv_bias)

        self.convs = nn.Sequential(
            down(3, ndf),
            nn.LeakyReLU(0.2),
            down(ndf, 2 * ndf),
            nn.BatchNorm2d(2 * ndf),
            nn.LeakyReLU(0.2),
            down(2 * ndf, 4 * ndf),
            nn.BatchNorm2d(4 * ndf),
            down(4 * ndf, 8 * ndf),
            nn.BatchNorm2d(8 * ndf),
            Residual(8 * ndf, 2 * ndf, lambda: nn.LeakyReLU(0.2), bias=conv_bias),
        )
        self.text = normed_projection(text_dim, text_width)
        self.joint = nn.Sequential(
            nn.Conv2d(8 * ndf + text_width, 8 * ndf, 1, bias=conv_bias),
            nn.BatchNorm2d(8 * ndf),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8 * ndf, 1, 4, bias=conv_bias),
        )
        initialise_as_torch(self)

    def look(self, x: Tensor) -> Tensor:
        return self.convs(x)

    def head(self, h: Tensor, t: Tensor) -> Tensor:
        """-> B logits."""
        return self.joint(torch.cat([h, tiled(self.text(t), h)], 1)).flatten()


# ---- the port, whose names are kept


class PortGenerator(nn.Module):
    """G(z, t) of aelnouby's port: DCGAN's, with the sentence in front of the noise."""

    def __init__(
        self,
        *,
        image_size: int,
        text_dim: int,
        ngf: int,
        z_dim: int,
        text_width: int,
        kernel: int = 4,
        code: Sequence[int] | None = None,
        conv_bias: bool = False,
    ) -> None:
        """As `ReedGenerator`."""
        super().__init__()
        check_sizes("generator", image_size, kernel, code, ngf=ngf, z_dim=z_dim, text_width=text_width)
        self.z_dim = z_dim
        self.projection = normed_projection(text_dim, text_width)
        layers: list[nn.Module] = []
        widths = (z_dim + text_width, 8 * ngf, 4 * ngf, 2 * ngf, ngf)
        for k, (inputs, outputs) in enumerate(pairwise(widths)):
            stride, padding = (2, 1) if k else (1, 0)
            layers.append(nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=conv_bias))
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        self.netG = nn.Sequential(*layers, nn.ConvTranspose2d(ngf, 3, 4, 2, 1, bias=conv_bias), nn.Tanh())
        initialise_as_torch(self)

    def forward(self, z: Tensor, t: Tensor, v: Tensor | None = None) -> Tensor:
        """As `ReedGenerator`."""
        return self.netG(torch.cat([self.projection(t), z], 1)[:, :, None, None])


class PortDiscriminator(TrunkAndHead):
    """D(x, t) of aelnouby's port, as logits: it ends in their sigmoid there."""

    def __init__(
        self,
        *,
        image_size: int,
        text_dim: int,
        ndf: int,
        text_width: int,
        kernel: int = 4,
        unit: bool = False,
        conv_bias: bool = False,
    ) -> None:
        """As `ReedDiscriminator`."""
        super().__init__(unit=unit)
        check_sizes("discriminator", image_size, kernel, ndf=ndf, text_width=text_width)
        layers: list[nn.Module] = [nn.Conv2d(3, ndf, 4, 2, 1, bias=conv_bias), nn.LeakyReLU(0.2)]
        for inputs, outputs in pairwise((ndf, 2 * ndf, 4 * ndf, 8 * ndf)):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=conv_bias), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
        self.netD_1 = nn.Sequential(*layers)
        self.projector = nn.ModuleDict({"projection": normed_projection(text_dim, text_width)})
        self.netD_2 = nn.Sequential(nn.Conv2d(8 * ndf + text_width, 1, 4, bias=conv_bias))
        initialise_as_torch(self)

    def look(self, x: Tensor) -> Tensor:
        return self.netD_1(x)

    def head(self, h: Tensor, t: Tensor) -> Tensor:
        """-> B logits."""
        return self.netD_2(torch.cat([h, tiled(self.projector["projection"](t), h)], 1)).flatten()
