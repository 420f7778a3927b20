"""A small FineGAN with real, untrained encoders over sixteen birds of four classes, for the tests of its steps."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from common.blocks import Frozen
from common.data.records import Records, Sample
from finegan.checkpoints import Encoders
from finegan.conditions import Conditions, attribute_sequences
from finegan.encoders import ImageEncoder, RNNEncoder
from finegan.model import FineGAN
from tests.worlds.settings import QUIET, settings

SIDE, D, ROWS, CLASSES = 64, 16, 16, 4
COLOURS = ("blue", "red", "white", "black", "yellow", "green")
NAMES = tuple(f"has_{part}_color::{colour}" for part in ("wing", "belly") for colour in COLOURS)
LOSS: dict[str, dict[str, float | None]] = {
    "d": {"real": 0.5, "cond_real": 0.5}
    | dict.fromkeys(("fake", "cond_fake", "mismatch"), 1 / 3)
    | dict.fromkeys(("part", "fg", "fg_part"), 1.0),
    "g": dict.fromkeys(("uncond", "cond", "part", "fg", "fg_part", "kl"), 1.0) | {"damsm": 5.0},
}
ATTNGAN = {side: terms | dict.fromkeys(("part", "fg", "fg_part")) for side, terms in LOSS.items()}


def without(*names: str) -> dict[str, dict[str, float | None]]:
    """LOSS with these terms absent from both sides."""
    return {side: {k: None if k in names else v for k, v in terms.items()} for side, terms in LOSS.items()}


def records() -> Records:
    rng = np.random.default_rng(0)
    present = (rng.random((ROWS, len(NAMES))) < 0.4).astype(np.uint8)
    present[:, 0] = 1
    return Records(
        name="cub",
        root=Path(),
        keys=tuple(f"{row % CLASSES:03d}.Bird/Bird_{row}" for row in range(ROWS)),
        images=(),
        labels=np.arange(ROWS) % CLASSES,
        classes=tuple(f"{k:03d}.Bird" for k in range(CLASSES)),
        test=np.arange(ROWS) % CLASSES == 0,
        attributes=present,
        certainty=np.full((ROWS, len(NAMES)), 3, np.uint8),
        attribute_names=NAMES,
        procedural=True,
    )


class Fed(FineGAN):
    """The conditions are given, so nothing is read before the fit."""

    def setup(self, stage: str) -> None:
        pass


def make(**options: Any) -> FineGAN:
    """A FineGAN of 64 px with a fraction of the widths; its conditions are those of `records`."""
    torch.manual_seed(0)
    sizes = {"image_size": SIDE, "ngf": 4, "ndf": 4, "code_dim": D, "z_dim": 8, "c_dim": 8}
    told = {"loss": LOSS, "inputs": "raw", "subset_prob": 0.0, "grad_norm_every": 0, "lr": 1e-3, "fused": False}
    model = Fed(**settings("finegan", **sizes | told | options))
    text = RNNEncoder(tokens=len(NAMES) + 1, word_dim=8, code_dim=D, dropout=0.5)
    image = ImageEncoder(trunk="conv", code_dim=D, image_size=SIDE, bn_train=True)
    model.take_encoders(
        Encoders(Frozen(text), Frozen(image), NAMES, model.inputs, "00000000", {"code_dim": D, "word_dim": 8})
    )
    assert model.text_encoder is not None
    percentages = np.full((CLASSES, len(NAMES)), 50.0)
    model.conditions = Conditions(
        encoder=model.text_encoder,
        sequences=attribute_sequences(records(), inputs="raw", denoised=None, percentages=percentages),
        max_len_train=64,
        max_len_eval=64,
        subset_prob=model.hparams["conditions"]["subset_prob"],
    )
    return model


def batch(count: int = 6) -> Sample:
    """Photos with an upright oval as mask; classes 0 to 3 in turn, so that some are there twice."""
    rng = torch.Generator().manual_seed(1)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, SIDE),) * 2, indexing="ij")
    mask = ((x / 0.5) ** 2 + (y / 0.8) ** 2 < 1).to(torch.get_default_dtype())
    return {
        "image": torch.rand(count, 3, SIDE, SIDE, generator=rng) * 2 - 1,
        "mask": mask.expand(count, 1, -1, -1).clone(),
        "row": torch.arange(count),
        "label": torch.arange(count) % CLASSES,
    }


def trained(model: FineGAN, path: Path, steps: int = 1, **options: Any) -> FineGAN:
    """The model after some steps on one batch, by the real trainer."""
    trainer = pl.Trainer(max_epochs=1, default_root_dir=path, **QUIET | options)
    trainer.fit(model, DataLoader([batch()] * steps, batch_size=None))
    return model
