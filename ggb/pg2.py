"""PG2, the first baseline of Table 1: pose guided person image generation (Ma et al., NIPS 2017).

Weights and steps are those of the authors' 256 px code (charliememory/Pose-Guided-Person-Image-Generation). x source
photo, y target photo, c pose label map, M pose mask of y, x-hat_1 and x-hat_2 the images of the two stages.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from common.data.poses import pose_mask
from common.data.records import Sample
from common.errors import UserError
from common.losses import ADVERSARIAL, l1
from common.weights import load_strict
from ggb.checkpoints import is_stage, read_tensorflow, read_torch
from ggb.pg2_networks import Discriminator, Generator
from ggb.serving import PoseGAN


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
        "g.adversarial": "PG2's code, BCE(D([x-hat_2; x]), 1); g_adversarial=generated: Sec. 3.2, BCE(D(x-hat_2), 1)",
        "g.rec": "PG2, Sec. 3.2, |x-hat_2 - y|",
        "g.body": "PG2, Sec. 3.2, |x-hat_2 - y| M",
    }
    KIND = "pg2"
    SERVED = ("image_size", "generator", "tf_padding", "pose_map", "pose_radius", "pose_sigma")
    TRAINED = ("discriminator",)
    CHOICES: ClassVar[dict[str, Sequence[str]]] = PoseGAN.CHOICES | {
        "g_adversarial": ("both", "generated"),
    }
    RANGES: ClassVar[dict[str, str]] = PoseGAN.RANGES | {
        "stage1_steps": "int [0, inf)",
        "generator.width": "int [1, inf)",
        "generator.code_dim": "int [1, inf)",
        "discriminator.ndf": "int [1, inf)",
    }

    def __init__(
        self,
        *,
        image_size: int,
        loss: dict[str, dict[str, float | None]],
        stage1_steps: int,
        g_adversarial: str,
        generator: dict[str, Any],
        discriminator: dict[str, Any],
        tf_padding: bool,
        **shared: Any,
    ) -> None:
        """Plain values only; conf/model/pg2.yaml says where each comes from. shared: what `PoseGAN` takes.

        g_adversarial: both, the authors' code, a mean over D(x-hat_2) and D(x), of which the latter reaches x-hat_2
        through D's norms alone; generated, the paper, over D(x-hat_2). tf_padding: for weights of the authors'
        TensorFlow code. pose_radius: of the disks, and of the limbs in M.
        """
        super().__init__(**shared)
        self.save_hyperparameters()
        self.settle()
        self.loss, self.stage1_steps, self.g_adversarial = loss, stage1_steps, g_adversarial
        self.real, self.fake = ADVERSARIAL["bce"]
        self.generator = Generator(
            image_size=image_size, pose_channels=self.pose_channels, tf_padding=tf_padding, **generator
        )
        self.discriminator = Discriminator(image_size=image_size, tf_padding=tf_padding, **discriminator)
        self.average_generator()

    def examples(self) -> dict[str, tuple[Tensor, ...]]:
        """Inputs of each network for `task=describe`, on the device in force."""
        x = torch.empty(2, 3, self.image_size, self.image_size)
        return {"generator": (x, x[:, :1].expand(-1, self.pose_channels, -1, -1)), "discriminator": (x,)}

    def coarse_names(self) -> list[str]:
        return ["x-hat_1"]

    # ---- files

    def restore(self, path: str | Path) -> None:
        """Also of PG2's public code: TensorFlow's variables as .npz, or a file or the folder of a PyTorch port."""
        if Path(path).suffix == ".npz" or Path(path).is_dir():
            self.take_published(path)
        else:
            super().restore(path)

    def take_foreign(self, content: Mapping[str, Any], path: str | Path) -> None:
        """A stage of a PyTorch port of PG2; anything else is refused."""
        if not is_stage(content):
            super().take_foreign(content, path)
        self.take_published(path)

    def take_published(self, path: str | Path) -> None:
        """Both stages, and D where the files have it."""
        of_tensorflow = Path(path).suffix == ".npz"
        if self.hparams["tf_padding"] != of_tensorflow:
            kind, word = ("TensorFlow", "true") if of_tensorflow else ("PyTorch", "false")
            raise UserError(f"{path} was trained with {kind}'s padding: add model.tf_padding={word} to the command.")
        state, judge = (read_tensorflow if of_tensorflow else read_torch)(path, self.generator)
        if judge:
            load_strict(self.discriminator, judge, source=path)  # the readers have fitted both stages
        self.fill(state, {}, path)

    # ---- one training step

    def training_step(self, batch: Sample, batch_idx: int) -> None:
        opt_g, opt_d = self.counted_optimizers()
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
        return {"rec": l1(image, y), "body": l1(image, y, mask)}

    def d_terms(self, x: Tensor, y: Tensor, fine: Tensor) -> dict[str, Tensor]:
        """PG2, Sec. 3.2, with the source photo as a fake too. fine: detached."""
        real, *fakes = self.discriminator(torch.cat([y, fine, x])).chunk(3)
        return {"real": self.real(real), "fake": self.fake(torch.cat(fakes))}

    def g_terms(self, x: Tensor, y: Tensor, mask: Tensor, fine: Tensor) -> dict[str, Tensor]:
        """PG2, Sec. 3.2. D reads the batch that it read in its own descent, for its statistics."""
        _, generated, source = self.discriminator(torch.cat([y, fine, x])).chunk(3)
        told = torch.cat([generated, source]) if self.g_adversarial == "both" else generated
        return {"adversarial": self.real(told)} | self.distances(fine, y, mask)

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[LambdaLR]]:
        return self.scheduled(list(self.generator.parameters()), list(self.discriminator.parameters()))
