"""Small pose models and random pairs of photos with random poses, for the tests of GGB and PG2."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from common.data.records import Sample
from ggb.model import GGB
from ggb.pg2 import PG2
from ggb.serving import PoseGAN
from tests.worlds.settings import QUIET, settings

S = 64
LOSS: dict[str, dict[str, float | None]] = {
    "d": {"image": 1.0, "rapd": 1.0, "nvtd": 1.0},
    "g": {"adversarial": 0.02, "rec": 1.0},
    "ggb": {"rec": 1.0, "rapd": 0.01, "nvtd": 0.01},
}

PG2_LOSS: dict[str, dict[str, float | None]] = {
    "stage1": {"rec": 1.0, "body": 1.0},
    "d": {"real": 0.5, "fake": 0.5},
    "g": {"adversarial": 1.0, "rec": 50.0, "body": 50.0},
}


def make(**options: Any) -> GGB:
    """GGB with a sixteenth of its widths; levels 4, 5 and 6 are 8, 16 and 32 px."""
    torch.manual_seed(0)
    small: dict[str, Any] = {"image_size": S, "loss": LOSS, "ngf": 4, "ndf": 4, "lr": 1e-3, "grad_norm_every": 0}
    small |= {"pose_radius": 2.0, "statistics": None}  # which come from pairs of a data set
    return GGB(**settings("ggb", **small | options))


def make_pg2(**options: Any) -> PG2:
    torch.manual_seed(0)
    small: dict[str, Any] = {"image_size": S, "loss": PG2_LOSS, "width": 4, "ndf": 4, "code_dim": 4, "stage1_steps": 1}
    return PG2(**settings("pg2", **small | options))


def batch(count: int = 4, seed: int = 1) -> Sample:
    rng = torch.Generator().manual_seed(seed)
    photos = torch.rand(2, count, 3, S, S, generator=rng) * 2 - 1
    joints = torch.randint(-1, S, (2, count, 18, 2), generator=rng)
    rows = torch.arange(count)
    people = {"image": photos[0], "target": photos[1], "joints": joints[0], "target_joints": joints[1]}
    return {**people, "row": rows, "target_row": rows + 1}  # type: ignore[typeddict-item]


class Noise(pl.LightningDataModule):
    """Some batches, the same in every epoch, and none for validation."""

    name = "noise"
    records = SimpleNamespace(pose_pairs={})

    def __init__(self, batches: list[Sample]) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.batches, batch_size=None)  # type: ignore[arg-type]


def fit(
    model: PoseGAN,
    path: Path,
    steps: int = 1,
    epochs: int = 1,
    batches: list[Sample] | None = None,
    checkpoint: Path | None = None,
) -> pl.Trainer:
    """Trains on some batches of noise, or on these, by the real trainer."""
    trainer = pl.Trainer(max_epochs=epochs, default_root_dir=path, **QUIET)
    data = Noise(batches or [batch(seed=i) for i in range(steps)])
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer
