"""PG2, the first baseline of Table 1: pose guided person image generation (Ma et al., NIPS 2017).

Sizes, weights and quirks are those of the authors' 256 px code (charliememory/Pose-Guided-Person-Image-Generation). No
norms but in D, ReLU after each convolution but the last, linear output. B batch, S side of the image.
"""

from collections.abc import Mapping, Sequence
from math import log2, sqrt
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from common.data.poses import pose_mask
from common.data.records import Sample
from common.errors import UserError
from common.losses import ADVERSARIAL
from common.weights import load_strict
from ggb.losses import body_reconstruction, reconstruction
from ggb.pg2_checkpoints import is_stage, read_tensorflow, read_torch
from ggb.serving import PoseGAN

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
    """G1(x, c), pose integration: a first coarse image. 122,103,235 parameters at the defaults.

    x: B,3,S,S in [-1, 1], c: B,C,S,S pose label map -> B,3,S,S, unbounded. At 256 px six residual blocks of 128 to 768
    channels down to 8 x 8, a code of 64 numbers, and six up with the blocks' outputs as skips.
    """

    def __init__(
        self,
        *,
        image_size: int = 256,
        pose_channels: int = 18,
        width: int = 128,
        code_dim: int = 64,
        tf_padding: bool = False,
    ) -> None:
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

    def __init__(self, *, width: int = 128, tf_padding: bool = False) -> None:
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

    def __init__(
        self,
        *,
        image_size: int = 256,
        pose_channels: int = 18,
        width: int = 128,
        code_dim: int = 64,
        tf_padding: bool = False,
    ) -> None:
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

    def __init__(self, *, image_size: int = 256, ndf: int = 64, tf_padding: bool = False) -> None:
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


class PG2(PoseGAN):
    """Two stages, one after the other: G1 for `stage1_steps` updates, then G2 and D in turn with G1 as it is.

    One Adam holds both stages' weights: those without a gradient stay, and a step is an update of either. In the
    authors' code G2 descends first and D then reads another batch; here D is first and both read one.
    """

    generator: Generator
    discriminator: Discriminator

    # where each term of conf/loss/pg2.yaml comes from; `task=describe` prints it
    SOURCES: ClassVar[dict[str, str]] = {
        "stage1.rec": "PG2, Sec. 3.1, |x-hat_1 - y|",
        "stage1.body": "PG2, Sec. 3.1, |x-hat_1 - y| M",
        "d.real": "PG2, Sec. 3.2, BCE(D(y), 1)",
        "d.fake": "PG2's code, BCE(D([x-hat_2; x]), 0): the source photo is a second kind of fake",
        "g.adversarial": "PG2's code, BCE(D([x-hat_2; x]), 1); g_adversarial=drawn: PG2, Sec. 3.2, BCE(D(x-hat_2), 1)",
        "g.rec": "PG2, Sec. 3.2, |x-hat_2 - y|",
        "g.body": "PG2, Sec. 3.2, |x-hat_2 - y| M",
    }
    KIND = "pg2"
    SERVED = ("image_size", "width", "code_dim", "tf_padding", "pose_map", "pose_radius", "pose_sigma")
    TRAINED = ("ndf",)
    CHOICES: ClassVar[dict[str, Sequence[str]]] = PoseGAN.CHOICES | {
        "g_adversarial": ("both", "drawn"),
        "lr_decay": ("none", "linear"),
    }

    def __init__(
        self,
        *,
        image_size: int,
        loss: dict[str, dict[str, float | None]],
        stage1_steps: int = 22_000,
        g_adversarial: str = "both",
        width: int = 128,
        code_dim: int = 64,
        ndf: int = 64,
        tf_padding: bool = False,
        pose_map: str = "disk",
        pose_radius: float = 4.0,
        pose_sigma: float = 6.0,
        lr: float = 2e-5,
        betas: list[float] | None = None,
        lr_decay: str = "none",
        fused: bool = True,
        ema_decay: float | None = None,
        accumulate: int = 1,
        clip_g: float | None = None,
        clip_d: float | None = None,
        grad_norm_every: int = 500,
    ) -> None:
        """Plain values only; conf/model/pg2.yaml says where each comes from.

        g_adversarial: both, the authors' code, a mean over D(x-hat_2) and D(x), of which the latter reaches x-hat_2
        through D's norms alone; drawn, the paper, over D(x-hat_2). tf_padding: for weights of the authors' TensorFlow
        code. pose_radius: of the disks, and of the limbs in M.
        """
        super().__init__(
            ema_decay=ema_decay, accumulate=accumulate, clip_g=clip_g, clip_d=clip_d, grad_norm_every=grad_norm_every
        )
        self.save_hyperparameters()
        self.settle()
        self.loss, self.stage1_steps, self.pose_radius = loss, stage1_steps, pose_radius
        self.g_adversarial = g_adversarial
        self.lr, self.betas, self.lr_decay, self.fused = lr, betas or [0.5, 0.999], lr_decay, fused
        self.real, self.fake = ADVERSARIAL["bce"]
        self.generator = Generator(
            image_size=image_size,
            pose_channels=self.pose_channels,
            width=width,
            code_dim=code_dim,
            tf_padding=tf_padding,
        )
        self.discriminator = Discriminator(image_size=image_size, ndf=ndf, tf_padding=tf_padding)
        self.average_generator()

    def examples(self) -> dict[str, tuple[Tensor, ...]]:
        """Inputs of each network for `task=describe`, on the device in force."""
        x = torch.empty(2, 3, self.image_size, self.image_size)
        return {"generator": (x, x[:, :1].expand(-1, self.pose_channels, -1, -1)), "discriminator": (x,)}

    def names_of_drawn(self) -> list[str]:
        return ["x-hat_1"]

    # ---- files

    def restore(self, path: str | Path) -> None:
        """Also of PG2's public code: TensorFlow's variables as .npz, or a file or the folder of a PyTorch port."""
        if Path(path).suffix == ".npz" or Path(path).is_dir():
            self.fill(self.read_published(path), path)
        else:
            super().restore(path)

    def published(self, content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor] | None:
        return self.read_published(path) if is_stage(content) else None

    def read_published(self, path: str | Path) -> dict[str, Tensor]:
        """The state of both stages; D's weights are taken over at once where the files have them."""
        of_tensorflow = Path(path).suffix == ".npz"
        if self.hparams["tf_padding"] != of_tensorflow:
            kind, word = ("TensorFlow", "true") if of_tensorflow else ("PyTorch", "false")
            raise UserError(f"{path} was trained with {kind}'s padding: add model.tf_padding={word} to the command.")
        state, judge = (read_tensorflow if of_tensorflow else read_torch)(path, self.generator)
        if judge:
            load_strict(self.discriminator, judge, source=path)
        return state

    # ---- one training step

    def training_step(self, batch: Sample, batch_idx: int) -> None:
        opt_g, opt_d = self.opts()
        x, y = batch["image"], batch["target"]
        c, mask = (
            self.pose(batch["target_joints"]),
            pose_mask(batch["target_joints"], self.image_size, radius=self.pose_radius),
        )
        if self.trainer.global_step < self.stage1_steps:
            with self.toggled_optimizer(opt_g):
                terms = self.distances(self.generator.stage1(x, c), y, mask)
                self.descend(opt_g, terms, self.loss["stage1"], "g", batch_idx)
            return
        with torch.no_grad():
            coarse = self.generator.stage1(x, c)
        fine = coarse + self.generator.stage2(coarse, x)  # once: both updates read it
        with self.toggled_optimizer(opt_d):
            terms = self.d_terms(x, y, fine.detach())
            self.descend(opt_d, terms, self.loss["d"], "d", batch_idx)
        with self.toggled_optimizer(opt_g):
            terms = self.g_terms(x, y, mask, fine)
            self.gradient_norms(terms, self.generator.stage2.parameters(), "g")
            self.descend(opt_g, terms, self.loss["g"], "g", batch_idx)

    def distances(self, image: Tensor, y: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """PG2, Sec. 3.1, the pose mask loss: the whole photo, and the body once more."""
        return {"rec": reconstruction(image, y), "body": body_reconstruction(image, y, mask)}

    def d_terms(self, x: Tensor, y: Tensor, fine: Tensor) -> dict[str, Tensor]:
        """PG2, Sec. 3.2, with the source photo as a fake too. fine: detached."""
        real, *fakes = self.discriminator(torch.cat([y, fine, x])).chunk(3)
        return {"real": self.real(real), "fake": self.fake(torch.cat(fakes))}

    def g_terms(self, x: Tensor, y: Tensor, mask: Tensor, fine: Tensor) -> dict[str, Tensor]:
        """PG2, Sec. 3.2. D reads the batch that it read in its own descent, for its statistics."""
        _, drawn, source = self.discriminator(torch.cat([y, fine, x])).chunk(3)
        told = torch.cat([drawn, source]) if self.g_adversarial == "both" else drawn
        return {"adversarial": self.real(told)} | self.distances(fine, y, mask)

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[LambdaLR]]:
        return self.adam(list(self.generator.parameters()), list(self.discriminator.parameters()))
