"""Body poses: 18 joints in OpenPose's order, their flips, and the maps that show a pose to a network.

B poses, S side of the map. Joints are B,18,2 integers: x to the right and y down in pixels; a negative one is missing.
All is drawn for the whole batch and all joints at once, on the device that holds the joints (PG2: Ma et al. 2017).
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.records import FRAME
from common.errors import choose

MASK_RADIUS = 4.0  # of PG2's pose mask, pixels of FRAME
JOINTS = (
    *("nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist"),
    *("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle"),
    *("right eye", "left eye", "right ear", "left ear"),
)
SWAPPED = (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)  # which joint a mirrored one is
NAMED = {name: joint for joint, name in enumerate(JOINTS)}
BODY = (  # what a skeleton is drawn from: shoulders, arms, trunk and legs, head
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
LIMBS = (*BODY, (2, 16), (5, 17))
MASK_LIMBS = (*BODY, (1, 16), (1, 17), (8, 11), (11, 5), (8, 2), (16, 17))  # PG2's: they close the trunk
CHANNELS = {"disk": 18, "gauss": 18, "stickman": 3}


def present(joints: Tensor) -> Tensor:
    """...,18 bool: which joints are not missing."""
    return (joints >= 0).all(-1)


def flipped(joints: Tensor, side: int, flip: Tensor | None = None) -> Tensor:
    """The poses of mirrored photos: x -> S - 1 - x, and left and right change names. flip: B bool, None = all."""
    mirrored = torch.stack([side - 1 - joints[..., 0], joints[..., 1]], -1)
    mirrored = torch.where(present(joints)[..., None], mirrored, joints)[..., SWAPPED, :]
    return mirrored if flip is None else torch.where(flip.view(-1, 1, 1), mirrored, joints)


def in_window(joints: np.ndarray, side: int, lefts: np.ndarray, tops: np.ndarray, size: int) -> np.ndarray:
    """Joints of whole photos, N,18,2 in a frame of FRAME, in windows of them: N,18,2 int64 in pixels of the window.

    The photos are `side` x `side`; the windows of `size` begin at lefts and tops. A joint outside is missing there.
    """
    start = np.stack([lefts, tops], 1)[:, None]
    inside = np.floor((joints + 0.5) * (side / FRAME)).astype(np.int64) - start
    seen = ((joints >= 0) & (inside >= 0) & (inside < size)).all(-1, keepdims=True)
    return np.where(seen, inside, -1)


def pose_maps(joints: Tensor, side: int, *, kind: str = "disk", radius: float = 4.0, sigma: float = 6.0) -> Tensor:
    """The pose label map c: B,CHANNELS[kind],S,S float32.

    disk:     channel k is 1 within `radius` pixels of joint k and -1 elsewhere (PG2)
    gauss:    exp(-d^2 / (2 sigma^2)) in [0, 1], d the distance from joint k (Deformable GAN, PATN)
    stickman: limbs `radius` pixels wide in colours of their own on black, in [-1, 1]
    A missing joint has an empty channel: -1, 0, and no limb. Raises UserError for another kind.
    """
    choose("model.pose_map", kind, CHANNELS)
    if kind == "stickman":
        return _stickman(joints, side, radius / 2)
    if kind == "disk":
        return _disks(joints, side, radius)
    x, y = (torch.exp(d.square() / (-2 * sigma**2)) for d in _offsets(joints, side))
    return (x * present(joints)[..., None])[:, :, None, :] * y[:, :, :, None]


def pose_mask(joints: Tensor, side: int, *, radius: float = 4.0) -> Tensor:
    """PG2's pose mask M: B,1,S,S float in {0, 1}, 1 on the body (Ma et al. 2017, Sec. 3.1: weight of the L1 loss).

    Bit by bit that of PG2's code at 256 px and a radius of 4: every limb whose ends are both there is a row of disks,
    apart by as many steps of at least `radius` as fit into it and cut down to whole pixels; then all is closed with a
    5 x 5 window.
    """
    start, end = (torch.tensor(ends, device=joints.device) for ends in zip(*MASK_LIMBS, strict=True))
    way, seen = joints[:, end] - joints[:, start], present(joints)  # B,L,2
    steps = (way.square().sum(-1).double().sqrt() / radius).long().clamp(min=1)[..., None]  # B,L,1
    step = torch.arange(int(2**0.5 * side / radius) + 1, device=joints.device).minimum(steps)  # B,L,N, the last again
    along = (way[:, :, None] * step[..., None]).div(steps[..., None], rounding_mode="floor")
    x, y = (joints[:, start][:, :, None] + along).unbind(-1)
    there = (seen[:, start] & seen[:, end])[..., None] & (x < side) & (y < side)
    cells = torch.where(there, y * side + x, side**2).flatten(1)  # one more than pixels, for what is not there
    centres = torch.zeros(len(joints), side**2 + 1, device=joints.device).scatter_(1, cells, 1.0)[:, :-1]
    reach = torch.arange(-int(radius), int(radius) + 1, device=joints.device)
    disk = (reach[:, None].square() + reach.square() <= radius**2).to(centres.dtype)[None, None]
    drawn = (F.conv2d(centres.unflatten(1, (1, side, side)), disk, padding=int(radius)) > 0.5).to(centres.dtype)
    widened = F.max_pool2d(drawn, 5, 1, 2)
    return -F.max_pool2d(-widened, 5, 1, 2)


def on_body(images: Tensor, mask: Tensor) -> Tensor:
    """Black where the pose mask is 0. images: uint8 B,3,H,W, mask: B,1,H,W in {0, 1}."""
    return images * mask.to(images.dtype)


def pose_distance(source: Tensor, target: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """How far two poses are apart: (mean displacement of the joints that both have, in sides; share of the joints that
    only one has), both B float. No common joint: displacement 0."""
    one, two = present(source), present(target)
    both, moved = (one & two).float(), (source - target).float().norm(dim=-1) / side
    return (moved * both).sum(-1) / both.sum(-1).clamp(min=1), (one ^ two).float().mean(-1)


def _offsets(joints: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Of every column from joint k, and of every row: two B,18,S."""
    grid = torch.arange(side, device=joints.device, dtype=torch.float32)
    return grid - joints[..., :1], grid - joints[..., 1:]


def _disks(joints: Tensor, side: int, radius: float) -> Tensor:
    """B,18,S,S: -1 throughout, then 1 on the few pixels of each disk, all at once.

    Each map has one cell more than pixels, where those outside and the disks of missing joints are put.
    """
    reach = torch.arange(-int(radius), int(radius) + 1, device=joints.device)
    around = torch.cartesian_prod(reach, reach)
    around = around[around.square().sum(1) <= radius**2]
    pixels = joints[:, :, None] + around  # B,18,K,2
    inside = ((pixels >= 0) & (pixels < side)).all(-1) & present(joints)[..., None]
    cells = torch.where(inside, pixels[..., 1] * side + pixels[..., 0], side**2)
    maps = torch.full((*joints.shape[:2], side**2 + 1), -1.0, device=joints.device)
    return maps.scatter_(2, cells, 1.0)[..., :-1].unflatten(2, (side, side))


def _limb_distances(joints: Tensor, side: int) -> Tensor:
    """Squared, of every pixel from each of LIMBS: B,L,S,S, infinite where an end is missing."""
    start, end = (torch.tensor(ends, device=joints.device) for ends in zip(*LIMBS, strict=True))
    dx, dy = _offsets(joints, side)
    x, y = dx[:, start][:, :, None, :], dy[:, start][:, :, :, None]
    way = (joints[:, end] - joints[:, start]).float()
    length = way.norm(dim=-1, keepdim=True)
    way[..., 0] += (length == 0)[..., 0]  # ends on one pixel: any direction does, none would be near everything
    ux, uy = (way / length.clamp(min=1))[..., None, None].unbind(2)
    along, across = x * ux + y * uy, x * uy - y * ux
    beyond = along - along.clamp(torch.zeros_like(length)[..., None], length[..., None])  # past either end
    seen = present(joints)
    squared = across.square_().addcmul_(beyond, beyond)
    return squared.masked_fill_(~(seen[:, start] & seen[:, end])[..., None, None], torch.inf)


def _stickman(joints: Tensor, side: int, half_width: float) -> Tensor:
    """B,3,S,S in [-1, 1]; where limbs cross, the later one of LIMBS is seen; edges fade over a pixel."""
    cover = (half_width + 0.5 - _limb_distances(joints, side).sqrt()).clamp(0, 1)  # B,L,S,S
    below = torch.flip(torch.cumprod(torch.flip(1 - cover, [1]), 1), [1])  # what limb l and the later ones let through
    weight = cover * F.pad(below[:, 1:], (0, 0, 0, 0, 0, 1), value=1.0)
    return torch.einsum("blhw,lc->bchw", weight, _colours(len(LIMBS), joints.device)) * 2 - 1


def _colours(count: int, device: torch.device) -> Tensor:
    """count,3 in [0, 1]: hues round the circle, all of full saturation."""
    hue = torch.arange(count, device=device)[:, None] / count + torch.tensor([0.0, 2 / 3, 1 / 3], device=device)
    return ((6 * (hue % 1) - 3).abs() - 1).clamp(0, 1)
