"""GGB's training: Eq. 1 to 9 and the three updates of a step, in the paper's own terms (Sec. 2).

B batch, S side of the image. x source photo, y target photo, c pose label map, x-hat^n the image of decoder level n.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from common.data.records import Sample
from common.errors import UserError
from common.losses import ADVERSARIAL, l1, weighted
from ggb.checkpoints import from_pix2pix, is_pix2pix
from ggb.networks import NORMS, TOP, Discriminator, Generator, GuidingBlocks, downsized, known_levels
from ggb.serving import PoseGAN

Weights = dict[str, dict[str, float | None]]
Scores = dict[int, tuple[Tensor, ...]]  # level -> logits of (real, fake), or of (fake,)


class GGB(PoseGAN):
    """A U-Net GAN with a guiding block at each of some decoder levels (Park, Kim and Ro, ICIP 2019).

    Without levels it is the plain U-Net of Table 2's first row: no heads, and Eq. 1, 2 and 4 alone.
    """

    generator: Generator
    discriminator: Discriminator

    # where each term of conf/loss/ggb.yaml comes from; `task=describe` prints it
    SOURCES: ClassVar[dict[str, str]] = {
        "d.image": "Eq. 1, -log D(y) - log(1 - D(x-hat))",
        "d.rapd": "Eq. 5 summed over levels, RAPD on f_y against f_x-hat",
        "d.nvtd": "Eq. 6 summed over levels, NVTD on f_y - f_x against f_x-hat - f_x",
        "g.adversarial": "Eq. 2, -log D(x-hat)",
        "g.rec": "Eq. 3 at level 7, |y - x-hat|",
        "ggb.rec": "Eq. 3 summed over levels, |y^n - x-hat^n|",
        "ggb.rapd": "Eq. 7 summed over levels, -log D_a(f_x-hat)",
        "ggb.nvtd": "Eq. 8 summed over levels, -log D_v(f_x-hat - f_x)",
        "g.ggb_rec": "Eq. 3 summed over levels, in one update with Eq. 4",
        "g.ggb_rapd": "Eq. 7 summed over levels, in one update with Eq. 4",
        "g.ggb_nvtd": "Eq. 8 summed over levels, in one update with Eq. 4",
    }
    KIND = "ggb"
    SERVED = ("image_size", "levels", "generator.ngf", "generator.norm", "pose_map", "pose_radius", "pose_sigma")
    TRAINED = ("blocks.rapd", "blocks.nvtd", "multirec", "discriminator", "d_cond")
    HEADS = "to_rgb"
    CHOICES: ClassVar[dict[str, Sequence[str]]] = PoseGAN.CHOICES | {
        "adversarial": tuple(ADVERSARIAL),
        "generator.norm": NORMS,
        "discriminator.norm": NORMS,
        "d_cond": ("none", "c", "xc"),
        "discriminator.head": ("patch", "linear"),
        "blocks.downsize": ("area", "bilinear_aa"),
        "g_update": ("sequential", "stale", "joint"),
    }
    RANGES: ClassVar[dict[str, str]] = PoseGAN.RANGES | {
        "generator.ngf": "int [1, inf)",
        "generator.dropout": "[0, 1)",
        "discriminator.ndf": "int [1, inf)",
        "average.statistics": "null or int [1, inf)",
    }

    def __init__(
        self,
        *,
        image_size: int,
        loss: Weights,
        levels: list[int],
        multirec: bool,
        g_update: str,
        generator: dict[str, Any],
        discriminator: dict[str, Any],
        blocks: dict[str, Any],
        sync_bn: bool,
        d_cond: str,
        adversarial: str,
        **shared: Any,
    ) -> None:
        """Plain values only; conf/model/ggb.yaml says where each comes from. shared: what `PoseGAN` takes.

        levels: those with a head, Eq. 3 and a guiding block; [] = the plain U-Net. A critic that is switched off, or
        whose weight is null, is absent with its terms. multirec: heads and Eq. 3 alone, no critics. g_update:
        sequential, the paper's order, draws again between G's two updates; stale takes both gradients from the first
        graph; joint has one Adam for the sum of Eq. 4 and 9. generator, discriminator, blocks: what the networks take
        besides the sizes that they share. sync_bn: on several GPUs G's BN is over the global batch; critics see their
        own device's batch. average.statistics: batches whose statistics the averaged G gets after each epoch, null =
        the average of the live G's.
        """
        super().__init__(**shared)
        self.save_hyperparameters()
        self.settle()
        self.clip["ggb"] = self.clip["g"]
        self.downsize, self.d_cond = blocks["downsize"], d_cond
        self.real, self.fake = ADVERSARIAL[adversarial]

        critics = {name: blocks[name] for name in ("rapd", "nvtd")}
        for name in critics:
            weights = (loss["d"].get(name), loss.get("ggb", {}).get(name))
            critics[name] &= bool(self.levels) and not multirec and None not in weights
        self.loss = active(loss, critics, levels=bool(self.levels), joint=self.g_update == "joint")

        channels = self.pose_channels
        self.generator = Generator(image_size=image_size, pose_channels=channels, levels=self.levels, **generator)
        behind = {"none": 0, "c": channels, "xc": 3 + channels}[d_cond]
        self.discriminator = Discriminator(image_size=image_size, condition_channels=behind, **discriminator)
        self.discriminator_ggb: GuidingBlocks | None = None
        if any(critics.values()):
            like_d = {name: discriminator[name] for name in ("ndf", "norm")}
            self.discriminator_ggb = GuidingBlocks(
                image_size=image_size, levels=self.levels, **like_d, **blocks | critics
            )
        self.average_generator()

    def settle(self) -> None:
        """Also which levels there are, and whether their updates can be."""
        super().settle()
        self.levels = known_levels(self.hparams["levels"])
        self.hparams["levels"] = list(self.levels)  # one spelling, for files are compared by it
        # without Eq. 9 there is one update anyway
        self.g_update: str = self.hparams["g_update"] if self.levels else "joint"
        if self.accumulate > 1 and self.g_update != "joint":
            raise UserError(
                f"model.accumulate={self.accumulate}: two updates of the same weights cannot share their gradients, "
                "set model.g_update=joint."
            )

    def examples(self) -> dict[str, tuple[Tensor, ...]]:
        """Inputs of each network for `task=describe`, on the device in force."""
        size = self.image_size
        x, c = torch.empty(2, 3, size, size), torch.empty(2, self.pose_channels, size, size)
        lower = downsized(x, self.levels)
        judged = {"none": (x,), "c": (x, c), "xc": (x, torch.cat([x, c], 1))}[self.d_cond]
        return {"generator": (x, c), "discriminator": judged, "discriminator_ggb": (x, x, *lower)}

    def coarse_names(self) -> list[str]:
        return [f"x-hat^{n}" for n in self.generator.to_rgb]

    # ---- one training step (Sec. 2.3): D and the blocks, then G by Eq. 9, then G by Eq. 4

    def training_step(self, batch: Sample, batch_idx: int) -> None:
        opt_g, *between, opt_d = self.counted_optimizers()
        x, y = batch["image"], batch["target"]
        c = self.pose(batch["target_joints"])
        *lower, image = self.generator(x, c)  # once: the critics and the first update of G read it

        with self.toggled_optimizer(
            opt_d
        ):  # Eq. 1, 5, 6 have no weight in common, so one update is the paper's several
            terms = self.d_terms(x, y, c, image.detach(), [small.detach() for small in lower])
            self.descend(opt_d, terms, self.loss["d"], "d", batch_idx)

        if self.g_update == "stale":
            self.descend_stale(opt_g, between[0], x, y, c, image, lower, batch_idx)
            return
        if self.g_update == "sequential":
            with self.toggled_optimizer(between[0]):
                terms = self.ggb_terms(x, y, lower)
                self.gradient_norms(terms, self.shared(), "ggb")
                self.descend(between[0], terms, self.loss["ggb"], "ggb", batch_idx)
            image = self.generator(x, c, heads=False)[-1]  # again, for the weights have moved
        with self.toggled_optimizer(opt_g):
            terms = self.g_terms(x, y, c, image)
            if self.levels and self.g_update == "joint":
                terms |= {f"ggb_{name}": term for name, term in self.ggb_terms(x, y, lower).items()}
            self.gradient_norms(terms, self.shared(), "g")
            self.descend(opt_g, terms, self.loss["g"], "g", batch_idx)

    def descend_stale(
        self,
        opt_g: LightningOptimizer,
        opt_low: LightningOptimizer,
        x: Tensor,
        y: Tensor,
        c: Tensor,
        image: Tensor,
        lower: Sequence[Tensor],
        batch_idx: int,
    ) -> None:
        """Eq. 4's gradient is kept while Eq. 9's descends, then steps: both are of the weights before either."""
        with self.toggled_optimizer(opt_g):
            opt_g.zero_grad(set_to_none=True)
            terms = self.g_terms(x, y, c, image)
            total = weighted(terms, self.loss["g"])
            self.manual_backward(total, retain_graph=True)
            kept = [(p, p.grad) for group in opt_g.param_groups for p in group["params"]]
        with self.toggled_optimizer(opt_low):
            self.descend(opt_low, self.ggb_terms(x, y, lower), self.loss["ggb"], "ggb", batch_idx)
        with self.toggled_optimizer(opt_g):
            for p, grad in kept:
                p.grad = grad
            self.move(opt_g, "g")
        self.note(terms, total.detach(), "g")

    def judge(self, image: Tensor, x: Tensor, c: Tensor) -> Tensor:
        """D of an image; Eq. 1 has no condition, `d_cond` lays c or x and c behind it."""
        condition = {"none": None, "c": c, "xc": torch.cat([x, c], 1)}[self.d_cond]
        return self.discriminator(image, condition)

    def d_terms(self, x: Tensor, y: Tensor, c: Tensor, image: Tensor, lower: Sequence[Tensor]) -> dict[str, Tensor]:
        """Eq. 1, 5 and 6, without the customary 1/2. image, lower: detached. Real and fake are never one BN batch."""
        scores = {"image": {TOP: (self.judge(y, x, c), self.judge(image, x, c))}} | self.block_scores(x, y, lower)
        costs = {
            name: {n: self.real(real) + self.fake(fake) for n, (real, fake) in levels.items()}
            for name, levels in scores.items()
        }
        for name, levels in scores.items():
            for n, (real, fake) in levels.items():
                right = (real > 0).float().mean() + (fake < 0).float().mean()
                self.to_log[f"train/d_{name}/{n}"] = costs[name][n].detach()
                self.to_log[f"train/accuracy_{name}/{n}"] = right.detach() / 2
        return summed(costs)

    def g_terms(self, x: Tensor, y: Tensor, c: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Eq. 4: Eq. 2 and Eq. 3 at level 7, a mean, as the L1 of PG2's code, whose ratio 1 / 50 is lambda_real."""
        return {"adversarial": self.real(self.judge(image, x, c)), "rec": l1(image, y)}

    def ggb_terms(self, x: Tensor, y: Tensor, lower: Sequence[Tensor]) -> dict[str, Tensor]:
        """Eq. 9: Eq. 3, 7 and 8, each summed over the levels. The blocks are those after their update, and frozen."""
        images = zip(self.levels, lower, downsized(y, self.levels, self.downsize), strict=True)
        costs = {"rec": {n: l1(fake, target) for n, fake, target in images}}
        for name, levels in self.block_scores(x, None, lower).items():
            costs[name] = {n: self.real(fake) for n, (fake,) in levels.items()}
        self.to_log |= {f"train/{name}/{n}": v.detach() for name, levels in costs.items() for n, v in levels.items()}
        return {name: term for name, term in summed(costs).items() if self.loss["ggb"][name] is not None}

    def block_scores(self, x: Tensor, y: Tensor | None, lower: Sequence[Tensor]) -> dict[str, Scores]:
        """Of RAPD, D_a(f_y) and D_a(f_x-hat), and of NVTD, D_v(f_y - f_x) and D_v(f_x-hat - f_x), at each level.

        Without y those of x-hat^n alone; a critic that is absent has none.
        """
        told = () if self.discriminator_ggb is None else self.discriminator_ggb(x, y, *lower)
        judged = dict(zip(self.levels, told, strict=False))
        return {
            "rapd": {n: each.appearance for n, each in judged.items() if each.appearance},
            "nvtd": {n: each.variation for n, each in judged.items() if each.variation},
        }

    # ---- files

    def take_foreign(self, content: Mapping[str, Any], path: str | Path) -> None:
        """pix2pix's `unet_128`, which has no heads."""
        if not is_pix2pix(content):
            super().take_foreign(content, path)
        self.fill(from_pix2pix(content, path), {}, path)

    # ---- whose weights are whose

    def shared(self) -> list[nn.Parameter]:
        """What both updates of G move: e1 to e7 and d1 to d6."""
        last = list(self.generator.dec)[-1]
        dec = [p for n, up in self.generator.dec.items() if n != last for p in up.parameters()]
        return [*self.generator.enc.parameters(), *dec]

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[LambdaLR]]:
        """Adam for G by Eq. 4 (all but the heads), for G by Eq. 9 (all but d7), and for D with all blocks.

        Two for G, so that the moments of two objectives of such different scale do not mix (not in the paper).
        """
        discriminators = [
            p for net in (self.discriminator, self.discriminator_ggb) if net is not None for p in net.parameters()
        ]
        if self.g_update == "joint":
            return self.scheduled(list(self.generator.parameters()), discriminators)
        *_, top = self.generator.dec.values()
        shared, heads = self.shared(), list(self.generator.to_rgb.parameters())
        return self.scheduled([*shared, *top.parameters()], [*shared, *heads], discriminators)


def summed(costs: dict[str, dict[int, Tensor]]) -> dict[str, Tensor]:
    """Each cost over its levels; one that has none is absent."""
    return {name: torch.stack([*levels.values()]).sum() for name, levels in costs.items() if levels}


def active(loss: Weights, critics: dict[str, bool], *, levels: bool, joint: bool) -> Weights:
    """The weights of the terms that a model has: null where a critic or all levels are absent. With one update for all
    of G, Eq. 9's stand beside Eq. 4's as ggb_*."""
    absent = {name for name, there in critics.items() if not there}
    found = {side: {k: None if k in absent else w for k, w in weights.items()} for side, weights in loss.items()}
    guided = found.get("ggb", {}) if levels else {}
    found["ggb"] = guided
    if joint:
        found["g"] = found["g"] | {f"ggb_{name}": weight for name, weight in guided.items()}
    return found
