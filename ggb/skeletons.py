"""Poses that no photo shows: drawn ones by a word, a walk, those between two others, and a pose moved onto a person.

Joints are ...,18,2 int64 in the frame of 256 x 256; negative = missing.
"""

from math import cos, pi, sin

import numpy as np

from common.data.poses import JOINTS, NAMED
from common.data.procedural.people import ARMS, LEGS, Pose
from common.data.records import FRAME

Limb = tuple[tuple[float, float], tuple[float, float]]  # as in people.ARMS: radians aside and forward, of both parts
SITTING: tuple[Limb, Limb] = ((0.14, 1.3), (0.02, -0.05)), ((0.2, 0.35), (0.05, 1.0))  # leg, arm
FRONT, SIDE, BACK = 0.0, 1.25, pi  # turns of the body
PLAIN = (LEGS["stand"], LEGS["stand"])


def standing(arms: tuple[Limb, Limb], legs: tuple[Limb, Limb] = PLAIN, turn: float = FRONT) -> np.ndarray:
    """18,2: someone of middling build with these arms and legs (right, left), whole in the frame."""
    points = np.zeros((len(JOINTS), 3))
    points[NAMED["neck"]] = 0, 0.2, 0
    for side, name, arm, leg in ((-1, "right", arms[0], legs[0]), (1, "left", arms[1], legs[1])):
        for chain, start, lengths, angles in (
            (("shoulder", "elbow", "wrist"), (side * 0.105, 0.205, 0.0), (0.155, 0.14), arm),
            (("hip", "knee", "ankle"), (side * 0.058, 0.52, 0.0), (0.22, 0.215), leg),
        ):
            at = points[NAMED[f"{name} {chain[0]}"]] = np.array(start)
            for joint, length, (out, forward) in zip(chain[1:], lengths, angles, strict=True):
                way = np.array((side * np.sin(out), np.cos(out), np.tan(forward)))
                at = points[NAMED[f"{name} {joint}"]] = at + length * way / np.linalg.norm(way)
    drop = 0.955 - points[[NAMED["right ankle"], NAMED["left ankle"]], 1].max()
    return Pose(points, turn, turn, 0.0, drop, 0.88, np.array((0.5, 0.06))).joints(FRAME)


def step(phase: float) -> np.ndarray:
    """18,2: a moment of a walk to the right of the picture, 2 pi a period; at pi / 2 the right foot is in front."""

    def leg(swing: float, lift: float) -> Limb:
        return (0.04, 0.45 * swing), (0.02, 0.4 * swing - 0.25 - 0.5 * max(0.0, lift))

    def arm(swing: float) -> Limb:
        return (0.15, 0.45 * swing), (0.08, 0.45 * swing + 0.3)

    swing, lift = sin(phase), cos(phase)
    return standing((arm(-swing), arm(swing)), (leg(swing, lift), leg(-swing, -lift)), SIDE)


def walk(count: int) -> np.ndarray:
    """T,18,2: one period."""
    return np.stack([step(2 * pi * t / count) for t in range(count)])


DRAWN = {  # word -> 18,2
    "stand": standing((ARMS["down"], ARMS["down"])),
    "hips": standing((ARMS["hip"], ARMS["hip"]), (LEGS["wide"], LEGS["wide"])),
    "wave": standing((ARMS["raised"], ARMS["loose"])),
    "cheer": standing((ARMS["raised"], ARMS["raised"]), (LEGS["wide"], LEGS["wide"])),
    "spread": standing((ARMS["out"], ARMS["out"]), (LEGS["wide"], LEGS["wide"])),
    "side": standing((ARMS["down"], ARMS["down"]), turn=SIDE),
    "back": standing((ARMS["down"], ARMS["down"]), turn=BACK),
    "sit": standing((SITTING[1], SITTING[1]), (SITTING[0], SITTING[0]), 0.7),
    "walk": step(pi / 2),
}


def between(poses: np.ndarray, count: int) -> np.ndarray:
    """P,18,2 -> T,18,2: joints move in straight lines from each pose to the next, both ends included.

    A joint that one end lacks stays where the other has it, and is seen on that one's half of the way.
    """
    frames = []
    for place in np.linspace(0, len(poses) - 1, count):
        start = min(int(place), len(poses) - 2)
        a, b, alpha = poses[start], poses[start + 1], place - start
        both = ((a >= 0) & (b >= 0)).all(-1, keepdims=True)
        frames.append(np.where(both, np.rint((1 - alpha) * a + alpha * b), a if alpha < 0.5 else b))
    return np.stack(frames).astype(np.int64)


def onto(poses: np.ndarray, person: np.ndarray | None) -> np.ndarray:
    """T,18,2 as the person 18,2 would take them: the first neck on theirs, trunks as long as theirs in the middle.

    What leaves the frame is missing. Without a neck and a hip of both they stay as they are.
    """
    trunks = [length for pose in poses if (length := trunk(pose))]
    mine = 0.0 if person is None else trunk(person)
    if person is None or not mine or not trunks:
        return poses
    neck = NAMED["neck"]
    first = next(pose[neck] for pose in poses if trunk(pose))
    moved = np.rint((poses - first) * (mine / np.median(trunks)) + person[neck]).astype(np.int64)
    inside = ((poses >= 0) & (moved >= 0) & (moved < FRAME)).all(-1, keepdims=True)
    return np.where(inside, moved, -1)


def trunk(pose: np.ndarray) -> float:
    """From the neck to the middle of the hips that are there, in pixels of the frame; 0 where that is not known."""
    hips = [hip for name in ("right hip", "left hip") if (hip := pose[NAMED[name]]).min() >= 0]
    neck = pose[NAMED["neck"]]
    return float(np.linalg.norm(np.mean(hips, 0) - neck)) if hips and neck.min() >= 0 else 0.0
