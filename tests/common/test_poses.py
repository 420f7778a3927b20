"""Pose maps, flips and masks: the numbers of papers/ggb.md, Sec. 9, check 10, and what else a joint may be."""

import numpy as np
import pytest
import torch

from common.data.poses import (
    BODY,
    CHANNELS,
    JOINTS,
    LIMBS,
    MASK_LIMBS,
    NAMED,
    SWAPPED,
    flipped,
    pose_distance,
    pose_maps,
    pose_mask,
)
from common.errors import UserError


def alone(x: int, y: int, joint: int = 0) -> torch.Tensor:
    joints = torch.full((1, 18, 2), -1)
    joints[0, joint] = torch.tensor([x, y])
    return joints


def some(count: int = 5, side: int = 256, missing: float = 0.2) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    joints = torch.randint(0, side, (count, 18, 2), generator=rng)
    joints[torch.rand(count, 18, generator=rng) < missing] = -1
    return joints


def test_disks_of_radius_four():
    """(row, column) = (128, 100): 49 pixels; the corner: 17; a missing joint: none."""
    inside, corner = pose_maps(alone(100, 128), 256), pose_maps(alone(0, 0), 256)
    assert inside.shape == (1, 18, 256, 256)
    assert inside.dtype == torch.float32
    assert set(inside.unique().tolist()) == {-1.0, 1.0}
    assert (inside[0, 0] == 1).sum() == 49
    assert inside[0, 0, 128, 100] == inside[0, 0, 132, 100] == inside[0, 0, 128, 104] == 1
    assert inside[0, 0, 133, 100] == inside[0, 0, 100, 128] == -1
    assert (corner[0, 0] == 1).sum() == 17
    assert (inside[0, 1:] == -1).all()


def test_gauss():
    drawn = pose_maps(alone(100, 128, joint=3), 256, kind="gauss")
    assert drawn[0, 3, 128, 100] == 1
    assert drawn[0, 3, 128, 106].item() == pytest.approx(0.60653, abs=1e-5)
    assert drawn[0, 3, 134, 100].item() == pytest.approx(0.60653, abs=1e-5)
    assert drawn[0, 3, 132, 103].item() == pytest.approx(np.exp(-25 / 72), abs=1e-6)
    assert drawn[0, 3].sum().item() == pytest.approx(2 * np.pi * 36, rel=1e-4)
    others = [joint for joint in range(18) if joint != 3]
    assert (drawn[0, others] == 0).all()


@pytest.mark.parametrize("kind", list(CHANNELS))
def test_a_batch_is_its_poses_one_by_one(kind: str):
    joints = some(side=48)
    drawn = pose_maps(joints, 48, kind=kind)
    assert drawn.shape == (5, CHANNELS[kind], 48, 48)
    for one, pose in zip(drawn, joints, strict=True):
        assert torch.allclose(one, pose_maps(pose[None], 48, kind=kind)[0], atol=1e-6)
    if kind != "stickman":
        x, y = np.meshgrid(np.arange(48), np.arange(48))
        for b, k in ((0, 3), (1, 17), (4, 9)):
            jx, jy = joints[b, k].tolist()
            squared = (x - jx) ** 2 + (y - jy) ** 2
            wanted = np.where(squared <= 16, 1.0, -1.0) if kind == "disk" else np.exp(-squared / 72)
            empty = -1.0 if kind == "disk" else 0.0
            assert np.allclose(drawn[b, k], wanted if jx >= 0 else np.full_like(wanted, empty), atol=1e-6)


def test_a_flip_swaps_left_and_right():
    """Twice is nothing; joint 2 (right shoulder) comes to be the left one in channel 5."""
    joints = some()
    assert torch.equal(flipped(flipped(joints, 256), 256), joints)
    one = flipped(alone(30, 70, joint=2), 256)
    assert one[0, 5].tolist() == [225, 70]
    assert (one[0, [k for k in range(18) if k != 5]] == -1).all()
    for a, b in enumerate(SWAPPED):
        assert JOINTS[a].replace("right", "left") == JOINTS[b].replace("right", "left")
        assert SWAPPED[b] == a
        assert (a == b) == (JOINTS[a] in ("nose", "neck"))


def test_flip_of_joints_is_the_flip_of_their_maps():
    joints, flip = some(), torch.tensor([True, False, True, True, False])
    assert torch.equal(pose_maps(flipped(joints, 256), 256), pose_maps(joints, 256).flip(3)[:, list(SWAPPED)])
    chosen = flipped(joints, 256, flip)
    assert torch.equal(chosen[flip], flipped(joints[flip], 256))
    assert torch.equal(chosen[~flip], joints[~flip])


def test_limbs_are_those_of_the_line_of_work():
    assert (len(BODY), len(LIMBS), len(MASK_LIMBS)) == (17, 19, 23)
    assert LIMBS[-2:] == ((2, 16), (5, 17))
    for a, b in LIMBS:  # what is joined is on one side, or touches the middle
        sides = {JOINTS[k].split()[0] for k in (a, b)} - {"neck", "nose"}
        assert len(sides) <= 1, (a, b)
    assert (NAMED["left wrist"], NAMED["right ear"]) == (7, 16)


def test_mask_is_disks_along_the_limbs():
    """One limb of 40 pixels: eleven disks of 2 * 4 + 1, 4 apart and closed; limbs with one end give nothing."""
    joints = torch.full((2, 18, 2), -1)
    joints[0, 2], joints[0, 3] = torch.tensor([100, 60]), torch.tensor([140, 60])
    joints[1, 4] = torch.tensor([100, 60])
    mask = pose_mask(joints, 256)
    assert mask.shape == (2, 1, 256, 256)
    assert mask[1].sum() == 0
    assert mask[0].sum() == 40 * 9 + 49  # the closing fills what is between the disks
    assert mask[0, 0, 56:65, 120].tolist() == [1.0] * 9
    assert mask[0, 0, 55, 120] == mask[0, 0, 65, 120] == 0
    whole = pose_mask(some(1, missing=0.0), 256)
    assert whole.sum() > 3000


def test_a_limb_of_one_pixel_is_a_disk():
    joints = torch.full((1, 18, 2), -1)
    joints[0, 1] = joints[0, 5] = torch.tensor([30, 20])
    assert pose_mask(joints, 64).sum() == pytest.approx(49, abs=8)  # closed with a 5 x 5 window
    drawn = (pose_maps(joints, 64, kind="stickman", radius=2.0) > -1).any(1)
    assert 5 <= drawn.sum() <= 9
    assert drawn[0, 20, 30]


def test_stickman_shows_limbs_in_their_own_colours():
    joints = torch.full((1, 18, 2), -1)
    for joint, x, y in ((2, 20, 20), (3, 60, 20), (5, 20, 80), (6, 60, 80)):
        joints[0, joint] = torch.tensor([x, y])
    drawn = pose_maps(joints, 96, kind="stickman")
    assert drawn.shape == (1, 3, 96, 96)
    assert -1 <= drawn.min() < drawn.max() <= 1
    assert (drawn[0, :, 50, 40] == -1).all()
    right, left = drawn[0, :, 20, 40], drawn[0, :, 80, 40]
    assert right.max() == pytest.approx(1, abs=1e-5)
    assert (right - left).abs().max() > 0.3


def test_distance_of_poses():
    source, target = alone(100, 100), alone(103, 104)
    target[0, 1] = 7
    moved, changed = pose_distance(source, target, 256)
    assert moved.item() == pytest.approx(5 / 256)
    assert changed.item() == pytest.approx(1 / 18)
    assert pose_distance(source, alone(3, 4, joint=5), 256)[0].item() == 0
    assert pose_distance(some(), some(), 256)[0].abs().max() == 0


def test_another_kind_is_refused():
    with pytest.raises(UserError, match=r"pose_map=disc is not known: did you mean disk\?"):
        pose_maps(some(), 64, kind="disc")


@pytest.mark.gpu
def test_on_the_device():
    joints = some()
    for kind in CHANNELS:
        assert torch.allclose(
            pose_maps(joints.cuda(), 256, kind=kind).cpu(), pose_maps(joints, 256, kind=kind), atol=1e-5
        )
    assert torch.equal(pose_mask(joints.cuda(), 256).cpu(), pose_mask(joints, 256))
