"""The base of every GAN: honest step counts, the generator's average, accumulation, clipping, checkpoints."""

import os
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from common.blocks import Frozen
from common.errors import UserError
from common.gan import GANModule, paired_noise
from common.tasks.callbacks import SeedEachBatch
from common.tasks.trainer import AtomicCheckpoints
from tests.agree import agree
from tests.worlds.settings import QUIET

pytestmark = pytest.mark.usefixtures("float64")


class Rows(Dataset):
    """Eight fixed points in the plane."""

    def __init__(self, count: int = 8) -> None:
        self.x = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"image": self.x[row], "row": torch.tensor(row)}


class Tiny(GANModule):
    """Two linear networks and a frozen one."""

    def __init__(
        self, *, lr: float = 0.1, spoil: bool = False, decay_every: int = 2, still: str = "", **options: Any
    ) -> None:
        given: dict[str, Any] = {"average": {"decay": None}, "accumulate": 1, "clip": {"g": None, "d": None}}
        given |= {"optimizer": {"lr": lr, "betas": [0.5, 0.9], "fused": False}, "grad_norm_every": 500}
        super().__init__(**given | options)
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.generator, self.discriminator = nn.Linear(2, 2), nn.Linear(2, 1)
        self.features = Frozen(nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5)))
        self.lr, self.spoil, self.decay_every, self.still = lr, spoil, decay_every, still
        self.average_generator()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        opt_g, opt_d = self.counted_optimizers()
        fake = self.generator(self.features(batch["image"]))
        with self.toggled_optimizer(opt_d):
            terms = {"real": self.discriminator(batch["image"]).square().mean()}
            terms["fake"] = (self.discriminator(fake.detach()) - 1).square().mean()
            self.gradient_norms(terms, self.discriminator.parameters(), "d")
            self.descend(opt_d, terms, {"real": 1.0, "fake": 1.0}, "d", batch_idx)
        with self.toggled_optimizer(opt_g):
            cost = self.discriminator(fake).square().mean()
            cost = cost / 0 if self.spoil and self.current_epoch == 1 else cost
            self.descend(opt_g, {"adversarial": cost}, {"adversarial": 1.0}, "g", batch_idx)

    def configure_optimizers(self) -> tuple[list, list]:
        sides = {"g": self.generator, "d": self.discriminator}
        rates = {side: 0.0 if side == self.still else self.lr for side in sides}
        optimizers = [torch.optim.SGD(net.parameters(), lr=rates[side]) for side, net in sides.items()]
        return optimizers, [torch.optim.lr_scheduler.StepLR(o, self.decay_every, 0.5) for o in optimizers]


def fit(model: GANModule, path: Path, *, batch: int = 2, rows: int = 8, **options: object) -> pl.Trainer:
    trainer = pl.Trainer(
        default_root_dir=path,
        plugins=[AtomicCheckpoints()],
        callbacks=[SeedEachBatch(0)],
        **QUIET | options,
    )
    trainer.fit(model, DataLoader(Rows(rows), batch_size=batch))
    return trainer


def test_a_step_is_one_update_of_the_generator(tmp_path: Path) -> None:
    trainer = fit(Tiny(), tmp_path, max_epochs=3)
    assert trainer.global_step == 12  # 4 batches x 3 epochs, not 24
    limited = fit(Tiny(), tmp_path, max_steps=6, max_epochs=-1)
    assert limited.global_step == 6
    assert limited.fit_loop.epoch_loop.total_batch_idx + 1 == 6


def test_images_are_counted(tmp_path: Path) -> None:
    model = Tiny()
    fit(model, tmp_path, max_epochs=3)
    assert model.images_seen == 24


def test_schedulers_step_once_an_epoch(tmp_path: Path) -> None:
    model = Tiny(lr=0.04)
    seen = []
    model.on_train_epoch_start = lambda: seen.append([o.param_groups[0]["lr"] for o in model.optimizers()])  # type: ignore[method-assign]
    fit(model, tmp_path, max_epochs=5)
    assert seen == [[0.04, 0.04], [0.04, 0.04], [0.02, 0.02], [0.02, 0.02], [0.01, 0.01]]


def test_the_average_is_of_the_generator_alone(tmp_path: Path) -> None:
    model = Tiny(average={"decay": 0.9})
    start = model.generator.weight.detach().clone()
    fit(model, tmp_path, max_epochs=1, batch=8)
    assert model.ema_generator is not None
    averaged = model.ema_generator.module.weight.clone()
    agree(averaged, model.generator.weight)  # AveragedModel takes the first update as it is
    fit(model, tmp_path, max_epochs=1, batch=8)
    agree(model.ema_generator.module.weight, 0.9 * averaged + 0.1 * model.generator.weight)
    assert not torch.equal(start, model.generator.weight)
    assert {k.split(".")[0] for k in model.state_dict()} == {"generator", "discriminator", "features", "ema_generator"}
    assert model.serving is model.ema_generator.module


@pytest.mark.parametrize("still", ["g", "d"])
def test_accumulating_four_small_batches_equals_one_large(tmp_path: Path, still: str) -> None:
    # one side at a time: within a window the generator is judged by the discriminator of the window's start
    small, large = Tiny(accumulate=4, still=still), Tiny(still=still)
    fit(small, tmp_path, max_epochs=3, batch=2)
    trainer = fit(large, tmp_path, max_epochs=3, batch=8)
    assert trainer.global_step == 3
    for a, b in zip(small.parameters(), large.parameters(), strict=True):
        agree(a, b)
    assert not torch.equal(small.generator.weight, Tiny().generator.weight) or still == "g"


def test_the_last_short_window_steps_too(tmp_path: Path) -> None:
    model = Tiny(accumulate=3)
    trainer = fit(model, tmp_path, max_epochs=1, batch=2)  # windows of 3 and 1
    assert trainer.global_step == 2


def test_clipping_is_for_each_side(tmp_path: Path) -> None:
    for side, other in (("g", "d"), ("d", "g")):
        model = Tiny(lr=1.0, clip={side: 1e-4, other: None})
        nets = {"g": model.generator, "d": model.discriminator}
        before = {k: net.weight.detach().clone() for k, net in nets.items()}
        fit(model, tmp_path, max_epochs=1, batch=8)
        assert (nets[side].weight - before[side]).norm() <= 1.01e-4
        assert (nets[other].weight - before[other]).norm() > 1e-3


def test_gradient_norms_of_each_term(tmp_path: Path) -> None:
    model = Tiny(grad_norm_every=1)
    heard: dict[str, float] = {}
    model.log_dict = lambda values, **_: heard.update({k: float(v) for k, v in values.items()})  # type: ignore[method-assign, assignment]
    fit(model, tmp_path, max_epochs=1, batch=8, log_every_n_steps=1)
    torch.manual_seed(0)
    twin = Tiny()
    twin.discriminator(Rows().x).square().mean().backward()
    norm = torch.cat([p.grad.flatten() for p in twin.discriminator.parameters()]).norm()
    assert heard["train/d/grad_norm_real"] == pytest.approx(float(norm), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_before_the_checkpoint(tmp_path: Path) -> None:
    model = Tiny(spoil=True)
    with pytest.raises(UserError, match="NaN or infinite in epoch 1"):
        fit(model, tmp_path, max_epochs=3)


def test_checkpoints_hold_no_frozen_network_and_load_strictly(tmp_path: Path) -> None:
    model = Tiny(average={"decay": 0.9})
    trainer = fit(model, tmp_path, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert not [k for k in content["state_dict"] if k.startswith("features")]
    assert content["suite"] == {"format": 1, "model": "Tiny", "images_seen": 8, "g_steps": 4, "data": ""}
    assert len(content["optimizer_states"]) == 2
    twin = Tiny.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert twin.images_seen == 8


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    trainer = fit(Tiny(), tmp_path, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    content["suite"]["model"] = "GGB"
    torch.save(content, tmp_path / "b.ckpt")
    with pytest.raises(UserError, match="of GGB, not of Tiny"):
        fit_from(Tiny(), tmp_path / "b.ckpt", tmp_path)


def fit_from(model: GANModule, checkpoint: Path, path: Path) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, default_root_dir=path, max_epochs=2, barebones=False)
    trainer.fit(model, DataLoader(Rows(), batch_size=2), ckpt_path=checkpoint, weights_only=True)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    place = tmp_path / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({"a": torch.ones(3)}, place)
    with pytest.raises(Exception, match=r"pickle|local"):
        AtomicCheckpoints().save_checkpoint({"a": lambda: None}, place)
    assert torch.equal(torch.load(place, weights_only=True)["a"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_said_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    place = tmp_path / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({"a": torch.ones(3)}, place)
    (tmp_path / f"last.{os.getpid()}.part.ckpt").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"No space left on device.*the checkpoint before it is whole"):
        AtomicCheckpoints().save_checkpoint({"a": torch.ones(100_000)}, place)
    assert torch.equal(torch.load(place, weights_only=True)["a"], torch.ones(3))


def test_paired_noise_belongs_to_the_pair() -> None:
    a = paired_noise(torch.tensor([3, 5, 7]), 16)
    b = paired_noise(torch.tensor([7]), 16)
    assert torch.equal(a[2:], b)
    assert not torch.equal(a[0], a[1])
    assert paired_noise(torch.arange(2000), 16).std().item() == pytest.approx(1, abs=0.02)


class InParts(Tiny):
    """The same step, its terms in two sets, and G's backward pass in two halves: to the fakes, then through G."""

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        opt_g, opt_d = self.counted_optimizers()
        fake = self.generator(self.features(batch["image"]))
        with self.toggled_optimizer(opt_d):
            sets = (
                {"real": self.discriminator(batch["image"]).square().mean()},
                {"fake": (self.discriminator(fake.detach()) - 1).square().mean()},
            )
            self.descend(opt_d, iter(sets), {"real": 1.0, "fake": 1.0}, "d", batch_idx)
        with self.toggled_optimizer(opt_g):
            leaf = fake.detach().requires_grad_()
            halves = ({"adversarial": 0.5 * self.discriminator(leaf).square().mean()} for _ in range(2))
            self.descend(opt_g, halves, {"adversarial": 1.0}, "g", batch_idx, [(fake, leaf)])


def test_a_step_in_parts_equals_the_step_at_once(tmp_path: Path) -> None:
    at_once, parts = Tiny(average={"decay": 0.9}), InParts(average={"decay": 0.9})
    for model in (at_once, parts):
        fit(model, tmp_path, max_epochs=3)
    for name, value in at_once.state_dict().items():
        agree(parts.state_dict()[name], value, name)
    assert float(parts.to_log.get("train/g/adversarial", 0)) == float(at_once.to_log.get("train/g/adversarial", 0))


def test_parts_must_hold_every_term_that_has_a_weight(tmp_path: Path) -> None:
    class Forgetful(InParts):
        def descend(self, opt, terms, weights, *rest) -> None:  # type: ignore[no-untyped-def]
            super().descend(opt, terms, {**weights, "forgotten": 1.0}, *rest)

    with pytest.raises(KeyError, match="forgotten"):
        fit(Forgetful(), tmp_path, max_epochs=1)


def test_an_average_from_the_start_counts_the_initial_weights(tmp_path: Path) -> None:
    class FromStart(Tiny):
        def average_generator(self, **options: bool) -> None:
            super().average_generator(buffers=False, from_start=True)

    model = FromStart(average={"decay": 0.9})
    start = model.generator.weight.detach().clone()
    fit(model, tmp_path, max_epochs=1, batch=8)
    assert model.ema_generator is not None
    expected = 0.9 * start + 0.1 * model.generator.weight
    agree(model.ema_generator.module.weight, expected)


def test_statistics_of_the_average_are_those_of_its_own_activations() -> None:
    """Not those of the live weights, no running average: the mean over the batches given. Nothing else moves."""
    model = Tiny(average={"decay": 0.9})
    torch.manual_seed(1)
    norm = nn.BatchNorm1d(2)
    model.generator = nn.Sequential(nn.Linear(2, 2), norm, nn.Dropout(0.5))
    model.average_generator()
    assert model.ema_generator is not None
    linear, measured, _ = average = model.ema_generator.module.train()
    nn.init.constant_(linear.weight, 3.0)  # as if the weights had come from elsewhere
    batches = [torch.randn(4, 2), torch.randn(4, 2)]
    model.measure_statistics((batch,) for batch in batches)
    seen = torch.stack([linear(batch).mean(0) for batch in batches]).mean(0)
    agree(measured.running_mean, seen)
    spread = torch.stack([linear(batch).var(0) for batch in batches]).mean(0)
    agree(measured.running_var, spread)
    assert torch.equal(norm.running_mean, torch.zeros(2))
    assert measured.momentum == 0.1
    assert average.training
    assert average[2].training
