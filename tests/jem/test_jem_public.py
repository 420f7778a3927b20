"""Our step is that of the public codes as `jem_step.PublicStep` writes it: the same losses and gradients from the same
weights and noise, where both are told to do the same, and the same of x and x-hat where ours shares more.

Both descend by SGD: a first step of Adam moves by the rate also where rounding decides a gradient's sign.
"""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tests.agree import agree
from tests.bench.bench_step import Case, Turns
from tests.jem.test_jem_step import N, batch, drawn, jem
from tests.peers.jem_step import HABITS, Habits, PublicStep, decoded
from tests.worlds.settings import QUIET

pytestmark = pytest.mark.usefixtures("float64")

SAME, RATE, B = 1e-10, 0.05, 4
LOSS = {"d": {"real": 1.0, "mismatch": 0.7, "fake": 0.4, "guide": None}, "g": {"adversarial": 1.0, "layout": None}}
TERMS = ["d/real", "d/mismatch", "d/fake", "g/adversarial"]


class Fed(pl.LightningDataModule):
    """One batch, of N photos with two sentences each."""

    name, batch_size, records = "drawn", B, SimpleNamespace(captions=[["", ""]] * N)

    def rows(self, split: str) -> np.ndarray:
        return np.arange(N)

    def train_dataloader(self) -> DataLoader:
        return DataLoader([batch(B)], batch_size=None)  # type: ignore[arg-type]


def descent(parameters: Iterable[nn.Parameter], seen: list[Tensor]) -> torch.optim.Optimizer:
    """SGD that notes the gradients of each step."""
    opt = torch.optim.SGD(parameters, lr=RATE)
    (group,) = opt.param_groups
    opt.register_step_pre_hook(lambda *_: seen.extend(p.grad.clone() for p in group["params"]))
    return opt


class Both:
    """One step of either way from the same weights: what Turns compares of the losses, and the gradients."""

    def __init__(self, path: Path, habits: Habits, **changes: Any) -> None:
        model = jem(loss=LOSS, **changes)
        other = PublicStep(model, habits)
        self.ours: dict[str, list[Tensor]] = {"g": [], "d": []}
        self.theirs: dict[str, list[Tensor]] = {"g": [], "d": []}
        sides = {"g": model.generator, "d": model.discriminator}
        optimizers = [descent(net.parameters(), self.ours[side]) for side, net in sides.items()]
        model.configure_optimizers = lambda: optimizers  # type: ignore[method-assign, assignment]
        other.opt_g = descent(other.generator.parameters(), self.theirs["g"])
        other.opt_d = descent(other.discriminator.parameters(), self.theirs["d"])
        turns = Turns(Case(32, B, (), rounds=0), other, SAME)
        trainer = pl.Trainer(max_epochs=1, callbacks=[turns], default_root_dir=path, **QUIET)
        trainer.fit(model, datamodule=Fed())
        self.apart, self.compared = turns.apart, other


def as_theirs(habits: Habits) -> dict[str, Any]:
    """Settings of ours that do the same."""
    return {"mismatch": "image", "g_updates": habits.g_updates, "resample_noise": habits.redraw}


@pytest.mark.parametrize("code", HABITS)
def test_losses_and_gradients_are_those_of_the_public_step(tmp_path: Path, code: str) -> None:
    both = Both(tmp_path, HABITS[code], **as_theirs(HABITS[code]))
    assert both.apart < SAME
    assert both.compared.same_terms
    assert list(both.compared.seen) == TERMS
    assert len(both.ours["g"]) == HABITS[code].g_updates * len(list(both.compared.generator.parameters()))
    agree(both.ours, both.theirs)


@pytest.mark.parametrize("code", HABITS)
def test_a_shared_trunk_judges_photo_and_picture_alike(tmp_path: Path, code: str) -> None:
    """Our own step, in which a wrong sentence stands for a wrong photo: what does not depend on that is the same."""
    both = Both(tmp_path, HABITS[code], g_updates=HABITS[code].g_updates)
    assert not both.compared.same_terms
    assert both.apart < SAME
    assert not torch.allclose(both.ours["d"][0], both.theirs["d"][0])


def test_another_noise_is_found_out(tmp_path: Path) -> None:
    """What is compared tells a step that redraws from one that does not."""
    habits = HABITS["[R]"]
    both = Both(tmp_path, habits, **as_theirs(habits) | {"resample_noise": False})
    agree(both.ours["d"], both.theirs["d"])
    assert not torch.allclose(both.ours["g"][0], both.theirs["g"][0])


def test_photos_are_those_on_disk(tmp_path: Path) -> None:
    pixels = (drawn(2, 8, 8, 3).sigmoid() * 255).byte().numpy()
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    for path, photo in zip(paths, pixels, strict=True):
        Image.fromarray(photo).save(path)
    here = torch.from_numpy(np.stack([pixels[0], pixels[1][:, ::-1]])).permute(0, 3, 1, 2)
    found = decoded(paths, [False, True], 8)
    assert found.shape == (2, 3, 8, 8)
    assert torch.equal(((found + 1) * 127.5).round(), here.float())
