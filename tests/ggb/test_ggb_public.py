"""Our step is GGB's as `ggb_step.PublicStep` writes it: the same losses and the same descent from the same weights."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.data.poses import pose_maps, pose_mask
from ggb.model import GGB
from tests.agree import agree
from tests.peers.ggb_step import PublicStep, body_mask, joint_maps
from tests.worlds.tiny_pairs import S, batch, fit, make

descent = partial(torch.optim.SGD, lr=0.1)  # a first step of Adam moves by the rate also where rounding decides a sign


def public(model: GGB, *, ready: bool = False) -> PublicStep:
    """Their step on copies of the networks, by plain descent."""
    step = PublicStep(model, ready=ready)
    step.opts_d = [descent(opt.param_groups[0]["params"]) for opt in step.opts_d]
    step.opt_low, step.opt_g = (descent(opt.param_groups[0]["params"]) for opt in (step.opt_low, step.opt_g))
    return step


def ours(model: GGB, path: Path) -> dict[str, float]:
    """The terms of one step in a Trainer, by plain descent too."""
    seen: dict[str, float] = {}
    note = model.note
    model.adam = lambda *sides: [descent(side) for side in sides]  # type: ignore[method-assign, assignment]

    def noted(terms: Any, total: Tensor, side: str) -> None:
        seen.update({f"{side}/{name}": term.item() for name, term in terms.items()})
        note(terms, total, side)

    model.note = noted  # type: ignore[method-assign]
    fit(model, path, batches=[batch()])
    return seen


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("levels", [[4, 5, 6], [6]])
def test_losses_are_those_of_the_public_step(levels: list[int], tmp_path: Path) -> None:
    model = make(levels=levels)
    other = public(model, ready=True)
    theirs = public(model)(batch())
    assert other(batch(), *other.given(batch())) == theirs
    assert len(theirs) == 8
    agree(ours(model, tmp_path), theirs)


@pytest.mark.usefixtures("float64")
def test_another_order_of_updates_is_found_out(tmp_path: Path) -> None:
    """Without a new drawing between G's two updates: what is compared tells the difference."""
    found, theirs = ours(make(g_update="stale"), tmp_path), public(make())(batch())
    assert found.keys() == theirs.keys()
    assert max(abs(found[name] - theirs[name]) for name in theirs) > 1e-4


@pytest.mark.usefixtures("float64")
def test_both_arrive_at_the_same_weights(tmp_path: Path) -> None:
    model = make()
    other, before = public(model), [p.detach().clone() for p in model.parameters()]
    ours(model, tmp_path)
    other(batch())
    nets = (other.generator, other.judge, *other.blocks)
    theirs = [p for net in nets for p in net.parameters()]
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    for (name, mine), p in zip(model.named_parameters(), theirs, strict=True):
        agree(mine, p, name)


def test_pose_maps_are_those_drawn_joint_by_joint() -> None:
    joints = batch(8)["target_joints"]
    joints[0, :4] = torch.tensor([[0, 0], [S - 1, 0], [-1, -1], [3, -1]])
    assert torch.equal(joint_maps(joints, S, 4.0), pose_maps(joints, S, radius=4.0))


@pytest.mark.parametrize(("side", "radius", "people"), [(256, 4, 6), (256, 8, 2), (64, 1, 6), (64, 3, 6)])
def test_pose_masks_are_those_stamped_disk_by_disk(side: int, radius: int, people: int) -> None:
    """To the bit, also at the border, with joints that are missing, far, near or in one place."""
    joints = torch.randint(-side // 4, side, (people, 18, 2), generator=torch.Generator().manual_seed(side + radius))
    joints[joints.amin(-1) < 0] = -1
    joints[0, :4] = torch.tensor([[0, 0], [side - 1, 0], [side - 1, side - 1], [0, side - 1]])
    joints[1, 8:11] = torch.tensor([[20, 30], [20, 30], [21, 31]])
    assert torch.equal(pose_mask(joints, side, radius=float(radius)), body_mask(joints, side, radius))
