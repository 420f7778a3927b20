"""The switches that are for speed or memory leave the losses as they are."""

import csv
from pathlib import Path

import pytest
import torch

from tests.worlds.tiny import call, make_world, words

LOSSES = ("train/loss_d", "train/loss_g", "train/g/cycle", "train/d/real")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    return root


def losses(root: Path, patch: pytest.MonkeyPatch, name: str, *more: str) -> torch.Tensor:
    """steps,terms of three steps under these words."""
    fixed = ("evaluate=false", "trainer.limit_train_batches=3", "trainer.grid_every=9", "model.grad_norm_every=0")
    assert call(patch, words(root, *fixed, f"name={name}", *more)) == 0
    (path,) = (root / "runs").rglob(f"{name}-s0-*/metrics.csv")
    with path.open(newline="") as file:
        return torch.tensor([[float(row[term]) for term in LOSSES] for row in csv.DictReader(file)])


@pytest.fixture(scope="module")
def plain(world: Path) -> torch.Tensor:
    switches = (
        "trainer.channels_last=false",
        "trainer.compile=false",
        "model.optimizer.fused=false",
        "model.generator.recompute=false",
    )
    with pytest.MonkeyPatch.context() as patch:
        found = losses(world, patch, "plain", *switches)
    assert found.shape == (3, 4)
    assert (found[1:] - found[:1]).abs().min() > 1e-4  # the steps differ: agreement is not for want of movement
    return found


@pytest.mark.parametrize(
    ("switch", "tolerance"),
    [
        ("trainer.channels_last=true", 1e-4),
        ("model.optimizer.fused=true", 1e-4),
        ("model.generator.recompute=true", 1e-4),
        ("trainer.precision=bf16-mixed", 0.1),
        pytest.param("trainer.compile=default", 1e-3, marks=pytest.mark.slow),
    ],
)
def test_losses_agree(
    switch: str, tolerance: float, world: Path, plain: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = switch.partition("=")[0].rpartition(".")[2]
    off = [word for word in ("trainer.channels_last=false", "model.optimizer.fused=false") if name not in word]
    found = losses(world, monkeypatch, name, *off, switch)
    torch.testing.assert_close(found, plain, rtol=tolerance, atol=tolerance / 10)
    assert torch.equal(found, plain) or name != "recompute"
    assert not torch.equal(found, plain) or name != "precision"
    kept, first = (torch.load(checkpoint(world, of), weights_only=True)["state_dict"] for of in (name, "plain"))
    assert kept.keys() == first.keys()  # compiled networks keep their names


def checkpoint(root: Path, name: str) -> Path:
    (path,) = (root / "runs").rglob(f"{name}-s0-*/checkpoints/last.ckpt")
    return path
