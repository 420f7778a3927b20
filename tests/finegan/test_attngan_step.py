"""Our step is AttnGAN's: losses and gradients as `attngan_step.PublicStep` has them, from the same weights and noise.

Parameters after a first step of Adam are not compared: it moves each by the rate, also where rounding decides the sign
of its gradient. Here both descend by SGD, so that G meets the same updated discriminators either way.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from common.data.records import Sample
from finegan.losses import sentence_loss, word_loss
from finegan.model import FineGAN
from tests.agree import agree
from tests.bench.bench_step import Case, Turns
from tests.peers.attngan_step import PublicStep, sentence_losses, word_losses
from tests.worlds.finegan_world import ATTNGAN, LOSS, SIDE, batch, make

pytestmark = pytest.mark.usefixtures("float64")

SAME, RATE = 1e-10, 0.05
WORLDS: dict[str, dict[str, Any]] = {
    "AttnGAN": {"loss": ATTNGAN, "masks": False, "legacy": True},
    "FineGAN": {"loss": LOSS},
    "FineGAN, random subsets": {"loss": LOSS, "subset_prob": 0.5},
}


def pairs() -> Sample:
    """Two of a class side by side, so that the neighbour's condition is no wrong one, and two of another apart."""
    return batch() | {"row": torch.tensor([0, 4, 1, 2, 3, 6]), "label": torch.tensor([0, 0, 1, 2, 3, 2])}  # type: ignore


def descent(parameters: Iterable[nn.Parameter], rate: float, seen: list[Tensor]) -> torch.optim.Optimizer:
    """SGD that notes the gradients of each step."""
    opt = torch.optim.SGD(parameters, lr=rate)
    (group,) = opt.param_groups
    opt.register_step_pre_hook(lambda *_: seen.extend(p.grad.clone() for p in group["params"]))
    return opt


class Both:
    """One step of either way from the model's weights: Turns compares the losses, this keeps the gradients."""

    def __init__(self, model: FineGAN, path: Path, rate: float = RATE, other: PublicStep | None = None) -> None:
        self.model, self.other = model, other or PublicStep(model)
        self.ours: dict[str, list[Tensor]] = {"g": [], "d": []}
        self.theirs: dict[str, list[Tensor]] = {"g": [], "d": []}
        discriminators = [*model.discriminator.parameters(), *(model.discriminator_fg or nn.ModuleList()).parameters()]
        sides = {"g": model.generator.parameters(), "d": discriminators}
        optimizers = [descent(parameters, rate, self.ours[side]) for side, parameters in sides.items()]
        model.configure_optimizers = lambda: optimizers  # type: ignore[method-assign, assignment]
        self.other.opt_g = descent(self.other.generator.parameters(), rate, self.theirs["g"])
        nets = [*self.other.discriminators, *self.other.fg_discriminators]
        self.other.opts_d = [descent(net.parameters(), rate, self.theirs["d"]) for net in nets]
        self.turns = Turns(Case(SIDE, 6, (), rounds=0), self.other, SAME)
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            callbacks=[self.turns],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=path,
        )
        trainer.fit(model, DataLoader([pairs()], batch_size=None))  # type: ignore[arg-type]

    def apart(self, side: str) -> float:
        """How far the gradients of the two ways are apart."""
        return apart(self.ours[side], self.theirs[side])


def apart(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """The largest difference of a tensor's gradients, relative to their length, or to a hundredth of the length of all
    where that is more: what adds up to the gradient of a bias may cancel."""
    least = 1e-2 * torch.cat([b.flatten() for b in theirs]).norm()
    return max(float((a - b).norm() / b.norm().maximum(least)) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("world", WORLDS)
def test_losses_and_gradients_are_those_of_the_public_step(tmp_path: Path, world: str) -> None:
    both = Both(make(mismatch="shift", **WORLDS[world]), tmp_path)
    assert both.turns.apart < SAME
    terms = {name for side in "dg" for name, weight in both.model.loss[side].items() if weight is not None}
    assert len(both.other.read) == (11 if "fg" in terms else 8)
    assert both.apart("d") < SAME
    assert both.apart("g") < SAME
    assert both.model.ema_generator is not None
    average = both.model.ema_generator.module.parameters()
    for ours, theirs in zip(average, both.other.average, strict=True):
        agree(ours, theirs)


def test_it_is_the_habits_that_differ(tmp_path: Path) -> None:
    """G's loss fills the gradients of the public step's discriminators and leaves ours alone."""
    both = Both(make(mismatch="shift"), tmp_path)
    sides = (both.model.discriminator, both.ours["d"]), (nn.ModuleList(both.other.discriminators), both.theirs["d"])
    for (net, seen), alone in zip(sides, (True, False), strict=True):
        kept = [torch.equal(p.grad, before) for p, before in zip(net.parameters(), seen, strict=False)]  # type: ignore
        assert all(kept) if alone else not any(kept)


def test_the_generator_meets_updated_discriminators(tmp_path: Path) -> None:
    """Otherwise agreement would say nothing about the order of the two updates."""
    moved, still = (Both(make(mismatch="shift"), tmp_path, rate) for rate in (RATE, 0.0))
    assert apart(moved.theirs["d"], still.theirs["d"]) == 0
    assert apart(moved.theirs["g"], still.theirs["g"]) > 1e-2


@pytest.mark.parametrize("change", [{"mismatch": "class"}, {"part_mode": "patch"}, {"gammas": [4.0, 5.0, 9.9]}])
def test_another_step_is_found_out(tmp_path: Path, change: dict[str, Any]) -> None:
    model = make(mismatch="shift")
    public = PublicStep(model)
    with pytest.raises(AssertionError, match="not the same step"):
        Both(make(**{"mismatch": "shift"} | change), tmp_path, other=public)


def test_damsm_for_one_condition_at_a_time() -> None:
    """The loop gives what all pairs at once give, for conditions of unequal lengths and a pair of one class."""
    torch.manual_seed(0)
    regions, code, sent = torch.randn(4, 16, 5, 5), torch.randn(4, 16), torch.randn(4, 16)
    words, lengths, labels = torch.randn(4, 16, 7), torch.tensor([7, 1, 4, 2]), torch.tensor([0, 1, 1, 2])
    pad = torch.arange(7) >= lengths[:, None]
    gammas = (4.0, 5.0, 10.0)
    at_once = word_loss(regions, words, pad, labels, gammas=gammas, length_norm=False)
    agree(at_once, word_losses(regions, words, lengths, labels, gammas))
    agree(sentence_loss(code, sent, labels, gamma=10.0), sentence_losses(code, sent, labels, 10.0))
