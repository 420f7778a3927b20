"""SISGAN's networks, the 64-pixel baseline of Table 1: semantic image synthesis via adversarial learning
(Dong et al., ICCV 2017).

Read off the PyTorch port, woozzu/dong_iccv_2017; its names are kept, so its released weights load
(`simgan.checkpoints.load_sisgan`). B batch, S side of the image (64 in the paper), D width of phi (300).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.blocks import Frozen, initialise
from common.errors import UserError
from simgan.networks import SLOPE, ResidualUnit

CA_DIM = 128
VGG_INPUT = {  # mean and standard deviation taken from and divided out of [0, 1] images
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
VGG_WIDTHS = (64, 64, None, 128, 128, None, 256, 256, 256, 512, 512, 512)  # conv1_1 to conv4_3, None a pooling


def vgg_encoder() -> nn.Sequential:
    """VGG-16 with BN up to conv4_3 without its third pooling, untrained: B,3,S,S -> B,512,S/4,S/4.

    No dilation makes up for the lost pooling: the port sets it on three BatchNorms, where it does nothing, and
    its weights were trained like that.
    """
    layers: list[nn.Module] = []
    before = 3
    for width in VGG_WIDTHS:
        if width is None:
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(before, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            before = width
    return nn.Sequential(*layers)


def conv_encoder() -> nn.Sequential:
    """The encoder trained from scratch: B,3,S,S -> B,512,S/4,S/4."""
    return nn.Sequential(
        nn.Conv2d(3, 128, 3, 1, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(128, 256, 4, 2, 1, bias=False),
        nn.BatchNorm2d(256),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 512, 4, 2, 1, bias=False),
        nn.BatchNorm2d(512),
        nn.ReLU(inplace=True),
    )


class ResidualBlock(nn.Module):
    """SIMGAN's residual unit under the port's name for its branch. B,C,H,W -> B,C,H,W."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = ResidualUnit(channels, post_relu=True).branch

    def forward(self, h: Tensor) -> Tensor:
        return F.relu(h + self.encoder(h))


class SISGANGenerator(nn.Module):
    """G(x, phi) with the call of SIMGAN's generator. x: B,3,S,S in [-1, 1], S divisible by 4; phi: B,D -> B,3,S,S.

    encoder: "conv" is trained with the rest, 26,014,851 parameters; "vgg" is frozen (7,640,640) before 23,388,291
        trained ones. Its weights come from a file: untrained and frozen it would be noise.
    vgg_input: what the VGG sees, plain [0, 1] ("unit") or ImageNet statistics ("imagenet"). The port meant the latter
        but normalised three images of each batch, so its weights expect "unit".
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        encoder: str = "conv",
        vgg_input: str = "imagenet",
        phi_dim: int = 300,
    ) -> None:
        super().__init__()
        if encoder not in ("conv", "vgg") or vgg_input not in VGG_INPUT:
            raise UserError(
                f"SISGAN has encoder=conv or vgg and vgg_input=unit or imagenet, not {encoder} with {vgg_input}."
            )
        self.encoder = Frozen(vgg_encoder()) if encoder == "vgg" else conv_encoder()
        self.residual_blocks = nn.Sequential(
            nn.Conv2d(512 + CA_DIM, 512, 3, 1, 1, bias=False),
            nn.BatchNorm2d(512),
            *(ResidualBlock(512) for _ in range(4)),
        )
        self.decoder = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(512, 256, 3, 1, 1, bias=False),
            nn.BatchNorm2d(256),
            nn.ReLU(inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(256, 128, 3, 1, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(inplace=True),
            nn.Conv2d(128, 3, 3, 1, 1),
            nn.Tanh(),
        )
        self.mu = nn.Sequential(nn.Linear(phi_dim, CA_DIM, bias=False), nn.LeakyReLU(SLOPE))
        self.log_sigma = nn.Sequential(nn.Linear(phi_dim, CA_DIM, bias=False), nn.LeakyReLU(SLOPE))
        initialise(self)

        mean, std = VGG_INPUT[vgg_input]
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, x: Tensor, phi: Tensor, eps: Tensor | None = None, mode: str = "sample") -> Tensor:
        """eps: B,128, used as it is; None draws it. mode "mean" takes c = mu; the port always samples."""
        return self.edit(x, self.condition(phi, eps, mode)[0])

    def condition(self, phi: Tensor, eps: Tensor | None = None, mode: str = "sample") -> tuple[Tensor, Tensor, Tensor]:
        """c = mu + sigma * eps, mu, log sigma: B,128 each. phi: B,D. log sigma is not a log variance."""
        mu, log_sigma = self.mu(phi), self.log_sigma(phi)
        if mode == "mean":
            return mu, mu, log_sigma
        if eps is None:
            eps = torch.randn_like(mu)
        return mu + log_sigma.exp() * eps, mu, log_sigma

    def edit(self, x: Tensor, c: Tensor) -> Tensor:
        """x: B,3,S,S, c: B,128 -> B,3,S,S."""
        if isinstance(self.encoder, Frozen):
            x = ((x + 1) / 2 - self.mean) / self.std
        h = self.encoder(x)  # B,512,S/4,S/4
        h = torch.cat([h, c[:, :, None, None].expand(-1, -1, *h.shape[2:])], 1)  # B,640,S/4,S/4
        return self.decoder(self.residual_blocks(h))


class SISGANDiscriminator(nn.Module):
    """D(x, phi): does the photo fit the sentence? 3,937,217 parameters, 64 px only.

    x: B,3,64,64 in [-1, 1], phi: B,D -> B logits. The text enters after `trunk`, which thus serves several sentences.
    """

    def __init__(self, *, image_size: int = 64, phi_dim: int = 300) -> None:
        super().__init__()
        if image_size != 64:
            raise UserError(f"SISGAN's discriminator reads 64 px images, not {image_size} px: set data.image_size=64.")
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 64, 4, 2, 1),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(64, 128, 4, 2, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(128, 256, 4, 2, 1, bias=False),
            nn.BatchNorm2d(256),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(256, 512, 4, 2, 1, bias=False),
            nn.BatchNorm2d(512),
        )  # -> B,512,4,4
        self.residual_branch = nn.Sequential(
            nn.Conv2d(512, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(128, 128, 3, 1, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(128, 512, 3, 1, 1, bias=False),
            nn.BatchNorm2d(512),
        )
        self.compression = nn.Sequential(nn.Linear(phi_dim, 128), nn.LeakyReLU(SLOPE))
        self.classifier = nn.Sequential(
            nn.Conv2d(512 + 128, 512, 1, bias=False),
            nn.BatchNorm2d(512),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(512, 1, 4),
        )
        initialise(self)

    def forward(self, x: Tensor, phi: Tensor) -> Tensor:
        return self.head(self.trunk(x), phi)

    def trunk(self, x: Tensor) -> Tensor:
        """x: B,3,64,64 -> B,512,4,4."""
        h = self.encoder(x)
        return F.leaky_relu(h + self.residual_branch(h), SLOPE)

    def head(self, h: Tensor, phi: Tensor) -> Tensor:
        """h: B,512,4,4 from `trunk`, phi: B,D -> B logits. Each call is a batch of its own for BatchNorm."""
        text = self.compression(phi)[:, :, None, None].expand(-1, -1, *h.shape[2:])
        return self.classifier(torch.cat([h, text], 1)).flatten()
