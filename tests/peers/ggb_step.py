"""GGB's training step with the habits of public code for moving people into other poses.

The paper has no public code. The habits are those of charliememory/Pose-Guided-Person-Image-Generation (PG2),
tengteng95/Pose-Transfer and AliaksandrSiarohin/pose-gan (Deformable GAN). The reference of a test and of a benchmark,
on the networks of `ggb`.
"""

from collections.abc import Iterable
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from skimage.morphology import dilation, erosion
from torch import Tensor, nn

from common.data.poses import CHANNELS, MASK_LIMBS
from common.data.records import Sample
from ggb.model import GGB
from ggb.networks import TOP, GuidingBlock


class PublicStep:
    """The paper's updates one after another: D, the block of each level, G by Eq. 9, G by Eq. 4 (Sec. 2.3).

    G draws anew for the critics, for Eq. 9 and for Eq. 4, all of it each time (PG2 runs its graph for each optimiser);
    D, the critics and E^n are not frozen while G descends, which fills their gradients too, and each loss is read at
    once (Pose-Transfer); E^n runs on x^n, y^n and x-hat^n one by one; D and each block have an Adam of their own; pose
    maps are drawn joint by joint on the CPU (Deformable GAN); float32, NCHW, plain Adam.
    """

    def __init__(self, model: GGB, *, ready: bool = False) -> None:
        """Takes copies of the networks as they are. For a model with conf/model/ggb.yaml's choices, but any levels.

        ready: the step is handed its pose maps, as if another process had drawn them or read them from disk.
        """
        assert model.discriminator_ggb is not None
        how = [model.g_update, model.d_cond, model.downsize, model.hparams["pose_map"], model.hparams["adversarial"]]
        assert how == ["sequential", "none", "area", "disk", "bce"]
        self.levels, self.weights, self.radius = model.levels, model.loss, model.hparams["pose_radius"]
        self.generator, self.judge = deepcopy(model.generator), deepcopy(model.discriminator)
        self.blocks: list[GuidingBlock] = [*deepcopy(model.discriminator_ggb).values()]  # type: ignore[list-item]

        def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
            return torch.optim.Adam(parameters, lr=model.adam_options["lr"], betas=model.adam_options["betas"])

        self.opts_d = [adam(net.parameters()) for net in (self.judge, *self.blocks)]
        named = list(self.generator.named_parameters())
        self.opt_low = adam([p for name, p in named if not name.startswith(f"dec.{TOP}.")])
        self.opt_g = adam([p for name, p in named if not name.startswith("to_rgb.")])
        self.ready = ready
        self.seen: dict[str, float] = {}

    def to(self, device: torch.device) -> "PublicStep":
        for net in (self.generator, self.judge, *self.blocks):
            net.to(device)  # in place, so the optimisers keep their parameters
        return self

    def given(self, batch: Sample) -> tuple[Tensor, ...]:
        """The pose maps, if they are ready."""
        return (self.pose(batch),) if self.ready else ()

    def pose(self, batch: Sample) -> Tensor:
        """c: B,18,S,S."""
        x = batch["image"]
        return joint_maps(batch["target_joints"], x.shape[-1], self.radius).to(x.device)

    def __call__(self, batch: Sample, c: Tensor | None = None) -> dict[str, float]:
        """c: if it is ready -> terms, summed over the levels."""
        self.seen = {}
        x, y = batch["image"], batch["target"]
        c = self.pose(batch) if c is None else c
        self.train_critics(x, y, c)
        self.train_generator(x, y, c)
        return self.seen

    def train_critics(self, x: Tensor, y: Tensor, c: Tensor) -> None:
        """Eq. 1, then Eq. 5 and 6 of each level."""
        *lower, image = self.generator(x, c)
        self.opts_d[0].zero_grad()
        cost = bce(self.judge(y), True) + bce(self.judge(image.detach()), False)
        self.add("d", "image", cost).backward()
        self.opts_d[0].step()
        for n, block, opt, fake in zip(self.levels, self.blocks, self.opts_d[1:], lower, strict=True):
            opt.zero_grad()
            f_x, f_y, f_fake = block.E(small(x, n)), block.E(small(y, n)), block.E(fake.detach())
            assert block.Da is not None
            assert block.Dv is not None
            rapd = bce(block.Da(f_y), True) + bce(block.Da(f_fake), False)
            nvtd = bce(block.Dv(f_y - f_x), True) + bce(block.Dv(f_fake - f_x), False)
            (self.add("d", "rapd", rapd) + self.add("d", "nvtd", nvtd)).backward()
            opt.step()

    def train_generator(self, x: Tensor, y: Tensor, c: Tensor) -> None:
        """Eq. 9, then Eq. 4."""
        self.opt_low.zero_grad()
        *lower, _ = self.generator(x, c)
        total = torch.zeros((), device=x.device)
        for n, block, fake in zip(self.levels, self.blocks, lower, strict=True):
            f_x, f_fake = block.E(small(x, n)), block.E(fake)
            assert block.Da is not None
            assert block.Dv is not None
            total = total + self.add("ggb", "rec", nn.L1Loss()(fake, small(y, n)))
            total = total + self.add("ggb", "rapd", bce(block.Da(f_fake), True))
            total = total + self.add("ggb", "nvtd", bce(block.Dv(f_fake - f_x), True))
        total.backward()
        self.opt_low.step()

        self.opt_g.zero_grad()
        *_, image = self.generator(x, c)
        total = self.add("g", "adversarial", bce(self.judge(image), True)) + self.add("g", "rec", nn.L1Loss()(image, y))
        total.backward()
        self.opt_g.step()

    def add(self, side: str, name: str, cost: Tensor) -> Tensor:
        """The weighted cost, read at once and added to those seen."""
        self.seen[f"{side}/{name}"] = self.seen.get(f"{side}/{name}", 0.0) + cost.item()
        return cost * (self.weights[side][name] or 0)


def bce(logits: Tensor, real: bool) -> Tensor:
    return nn.BCEWithLogitsLoss()(logits, torch.full_like(logits, float(real)))


def small(image: Tensor, level: int) -> Tensor:
    """x^n: B,3,S,S -> B,3,s,s with s = S / 2^(7 - n)."""
    return F.interpolate(image, scale_factor=1 / 2 ** (TOP - level), mode="area")


def joint_maps(joints: Tensor, side: int, radius: float) -> Tensor:
    """Disks of the joints, B,18,2, one after another over the whole map: B,18,S,S float32 in {-1, 1} on the CPU."""
    maps = np.full((len(joints), CHANNELS["disk"], side, side), -1, np.float32)
    for person, points in zip(maps, joints.tolist(), strict=True):
        for channel, (x, y) in zip(person, points, strict=True):
            if x < 0 or y < 0:
                continue
            columns, rows = np.meshgrid(np.arange(side), np.arange(side))
            channel[(columns - x) ** 2 + (rows - y) ** 2 <= radius**2] = 1
    return torch.from_numpy(maps)


def body_mask(joints: Tensor, side: int, radius: int = 4) -> Tensor:
    """PG2's `_getPoseMask` (datasets/convert_DF.py), disk by disk: joints B,18,2 -> B,1,S,S float32 in {0, 1}.

    A limb of `length` pixels is cut into int(length / radius) parts; a disk of whole pixels lies at each end and at
    each cut, whose coordinates lose what is behind the point. Then scikit-image's dilation and erosion, a square of 5.
    """
    masks = np.zeros((len(joints), 1, side, side), np.float32)
    for person, points in zip(masks, joints.tolist(), strict=True):
        for one, other in MASK_LIMBS:
            (x0, y0), (x1, y1) = points[one], points[other]
            if min(x0, y0, x1, y1) < 0:
                continue
            parts = int(np.sqrt((y0 - y1) ** 2 + (x0 - x1) ** 2) / radius)
            stamp(person[0], x0, y0, radius)
            stamp(person[0], x1, y1, radius)
            for part in range(1, parts):
                stamp(person[0], x0 + (x1 - x0) * part / parts, y0 + (y1 - y0) * part / parts, radius)
        person[0] = erosion(dilation(person[0], np.ones((5, 5))), np.ones((5, 5)))
    return torch.from_numpy(masks)


def stamp(mask: np.ndarray, x: float, y: float, radius: int) -> None:
    """1 on the pixels of a disk, as far as they are in the mask."""
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            row, column = int(y) + down, int(x) + right
            if np.hypot(down, right) <= radius and 0 <= row < len(mask) and 0 <= column < len(mask):
                mask[row, column] = 1
