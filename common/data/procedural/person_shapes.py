"""The polygons of a drawn person, in body heights about the axis: x to our right, y down from the crown.

The body is a stack of ellipses, so that what is worn lies on it from all sides: a pattern is drawn where its place on
the body is seen (`Surface.at`).
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from common.data.poses import NAMED
from common.data.procedural.canvas import Picture, Shape, clouded, ellipse, lines, paint, stroke, tinted
from common.data.procedural.people import (
    BOTTOM,
    LONG,
    PARTS,
    SHOES,
    SKIN,
    TOP,
    Cloth,
    Person,
    Pose,
)
from common.data.procedural.person_head import hair_shapes, head_shapes

OUTLINE = -0.22  # how much darker than its cloth the edge of a garment is
WAIST, CROTCH = 0.4, 0.57


def picture(person: Person, pose: Pose, side: int, oversample: int, rng: np.random.Generator) -> Picture:
    """One photo of side x side."""
    scale = pose.height * side
    return paint(
        studio(person, side, rng),
        [shape._replace(points=shape.points - (0, 0.5)) for shape in person_shapes(person, pose)],
        np.eye(2) * scale,
        pose.corner * side + (0, 0.5 * scale),
        rng,
        oversample=oversample,
        foreground=range(1, len(PARTS)),
    )


def studio(person: Person, side: int, rng: np.random.Generator) -> Image.Image:
    """A wall that darkens towards the floor."""
    ramp = np.linspace(6, -14, side, dtype=np.float32)[:, None, None]
    wall = person.wall.astype(np.float32) + ramp + 2 * clouded((side, side), rng, 4)[..., None]
    return Image.fromarray(wall.clip(0, 255).astype(np.uint8))


def person_shapes(person: Person, pose: Pose) -> list[Shape]:
    """All polygons, from the farthest to the nearest."""
    arms = {side: arm_shapes(person, pose, side) for side in ("right", "left")}
    hidden = [shape for side in arms if pose.behind(side) for shape in arms[side]]
    nearer = [shape for side in arms if not pose.behind(side) for shape in arms[side]]
    hair, face, faces = hair_shapes(person, pose), head_shapes(person, pose), np.cos(pose.look)
    trunk = leg_shapes(person, pose) + trunk_shapes(person, pose)
    if faces > 0.2:  # hair hangs down the back, which we do not see
        return hidden + hair + trunk + face + nearer
    return hidden + trunk + (face + hair if faces < -0.2 else hair + face) + nearer


@dataclass(frozen=True)
class Surface:
    """A part of the body or of what is worn: an ellipse, half `across` and half `deep`, at each height `down`."""

    pose: Pose
    down: np.ndarray
    across: np.ndarray
    deep: np.ndarray

    def widths(self, down: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Half the width across and half the depth at each height."""
        return np.interp(down, self.down, self.across), np.interp(down, self.down, self.deep)

    def at(self, angle: np.ndarray | float, down: np.ndarray | float) -> np.ndarray:
        """...,3: where an angle at a height is seen; the third is > 0 on the side towards us."""
        angle, down = np.broadcast_arrays(np.asarray(angle, float), np.asarray(down, float))
        across, deep = self.widths(down)
        return self.pose.seen(np.stack([across * np.sin(angle), down, deep * np.cos(angle)], -1))

    def edges(self, top: float, bottom: float, share: tuple[float, float] = (-1.0, 1.0), n: int = 9) -> np.ndarray:
        """The outline between two heights, of the strip between two shares of the half width: 2n,2."""
        down = np.linspace(top, bottom, n)
        across, deep = self.widths(down)
        half = np.hypot(across * np.cos(self.pose.turn), deep * np.sin(self.pose.turn))
        middle = self.pose.seen(np.stack([0 * down, down, 0 * down], -1))[:, :2]
        left, right = (middle + np.stack([half * s, 0 * half], 1) for s in share)
        return np.vstack([left, right[::-1]])


def clothed(surface: Surface, cloth: Cloth, top: float, bottom: float, part: int) -> list[Shape]:
    """A garment over a surface: its edge, its pattern, and the shade of the side away from the light."""
    body = surface.edges(top, bottom, n=14)
    middle = body.mean(0)
    shapes = [
        Shape((body - middle) * (1.04, 1.012) + middle, lines(cloth.tone, -OUTLINE), part),
        Shape(body, cloth.tone, part),
    ]
    shapes += patterned(surface, cloth, top, bottom, part)
    shade = surface.edges(top, bottom, (0.72, 1.0), 8)
    return [*shapes, Shape(shade, tinted(cloth.tone, -0.13), part)] if cloth.pattern == "solid" else shapes


def patterned(surface: Surface, cloth: Cloth, top: float, bottom: float, part: int) -> list[Shape]:
    """Stripes round the body, pinstripes along it, both as checks, or dots."""
    marks: list[np.ndarray] = []
    step = cloth.scale
    thin = cloth.pattern == "checks"
    if cloth.pattern in ("stripes", "checks"):
        for down in np.arange(top + 0.6 * step, bottom - 0.2 * step, step):
            marks.append(surface.edges(down, min(bottom, down + (0.3 if thin else 0.5) * step), n=2))
    if cloth.pattern in ("pinstripes", "checks"):
        down = np.linspace(top, bottom, 8)
        for angle in np.linspace(-np.pi, np.pi, 14, endpoint=False):
            line = surface.at(angle, down)
            if line[:, 2].mean() > 0.01:
                marks.append(stroke(line[:, :2], 0.008 if thin else 0.012))
    if cloth.pattern == "dots":
        for row, down in enumerate(np.arange(top + 0.5 * step, bottom - 0.3 * step, 0.8 * step)):
            spots = surface.at(np.linspace(-np.pi, np.pi, 12, endpoint=False) + 0.26 * (row % 2), down)
            marks += [ellipse(spot[:2], 0.011, 0.011, n=8) for spot in spots if spot[2] > 0.015]
    return [Shape(mark, cloth.mark, part) for mark in marks]


def trunk_surface(person: Person, pose: Pose, loose: float) -> Surface:
    """Shoulders to crotch, `loose` off the skin."""
    s, w, h = person.shoulders, person.waist, person.hips
    down = np.array((0.155, 0.18, 0.194, 0.216, 0.28, 0.4, 0.47, 0.53, 0.58))
    across = np.array((0.03, 0.042, 0.72 * s, s + 0.01, 0.94 * s, w, 0.5 * (w + h), h + 0.006, h - 0.002))
    deep = np.array((0.03, 0.036, 0.045, 0.054, 0.066, 0.055, 0.062, 0.07, 0.06))
    return Surface(pose, down, across + loose * (down > 0.2), deep + loose * (down > 0.2))


def skirt_surface(person: Person, pose: Pose, hem: float) -> Surface:
    """A skirt from the waist to the hem, as wide there as the knees are apart."""
    knees = pose.seen(pose.points[[NAMED["right knee"], NAMED["left knee"]]])
    flare = 0.05 + 0.45 * abs(knees[0, 0] - knees[1, 0]) + 0.05 * (hem - 0.6)
    down = np.array((WAIST, 0.53, hem))
    return Surface(
        pose,
        down,
        np.array((person.waist + 0.004, person.hips + 0.016, person.hips + flare)),
        np.array((0.06, 0.082, 0.08 + flare)),
    )


def trunk_shapes(person: Person, pose: Pose) -> list[Shape]:
    """Neck, the trunk and what is worn on it."""
    cut, bare = person.cut, trunk_surface(person, pose, 0.0)
    worn = trunk_surface(person, pose, cut.loose)
    hem = 0.56 if cut.whole and not cut.skirt else max(person.hem, WAIST + 0.05)
    shapes = [Shape(bare.edges(0.15, 0.24), tinted(person.skin, -0.08), SKIN)]
    below = person.top if cut.whole else person.bottom
    part = TOP if cut.whole else BOTTOM
    if not cut.skirt:
        plain = below if cut.whole else replace(below, pattern="solid")
        shapes += clothed(trunk_surface(person, pose, 0.004), plain, WAIST, CROTCH, part)
    skirt = []
    if cut.skirt:
        end = 0.52 + person.leg * 0.44
        skirt = clothed(skirt_surface(person, pose, end), below, WAIST, end, part)
    if not cut.whole and cut.skirt and person.hem < 0.5:  # tucked in
        return shapes + top_shapes(person, worn, 0.46) + skirt
    return shapes + skirt + top_shapes(person, worn, WAIST + 0.03 if cut.whole and cut.skirt else hem)


def top_shapes(person: Person, worn: Surface, hem: float) -> list[Shape]:
    """The garment of the trunk, with its neckline and what is on its front."""
    cut, faces = person.cut, np.cos(worn.pose.turn)
    begin = 0.185 if person.sleeve > 0 else 0.2
    shapes = clothed(worn, person.top, begin, hem, TOP)
    if person.sleeve == 0:  # straps: bare shoulders
        for share in ((-1.02, -0.66), (0.66, 1.02)):
            shapes.append(Shape(worn.edges(0.185, 0.225, share, 4), person.skin, SKIN))
    trim = lines(person.top.tone, 0.35)
    angles = np.linspace(-0.34, 0.34, 5)
    if cut.front == "open" and faces > -0.3:
        strip = np.vstack([worn.at(-0.42, np.linspace(begin, hem, 8)), worn.at(0.42, np.linspace(hem, begin, 8))])
        if strip[:, 2].mean() > 0:
            shapes.append(Shape(strip[:, :2], person.inner.tone, TOP))
            for angle in (-0.42, 0.42):
                shapes.append(Shape(stroke(worn.at(angle, np.linspace(begin, hem, 8))[:, :2], 0.01), trim, TOP))
    if cut.front == "buttons" and faces > 0.1:
        shapes.append(Shape(stroke(worn.at(0.0, np.linspace(begin, hem, 8))[:, :2], 0.006), trim, TOP))
        spots = worn.at(0.0, np.linspace(0.26, hem - 0.03, 5))
        shapes += [Shape(ellipse(spot[:2], 0.009, 0.009, n=8), person.top.mark, TOP) for spot in spots]
    if cut.front == "print" and faces > 0.1:
        outer = np.vstack([worn.at(angles * 1.9, 0.27), worn.at(angles[::-1] * 1.9, 0.37)])
        inner = np.vstack([worn.at(angles, 0.3), worn.at(angles[::-1], 0.34)])
        shapes.append(Shape(outer[:, :2], person.top.mark, TOP))
        shapes.append(Shape(inner[:, :2], person.inner.tone, TOP))
    if cut.front == "hood":
        shapes.append(Shape(worn.edges(0.165, 0.225, (-0.75, 0.75), 4), lines(person.top.tone, 0.3), TOP))
        if faces > 0.1:
            pocket = np.vstack([worn.at(angles * 1.8, hem - 0.11), worn.at(angles[::-1] * 2.4, hem - 0.03)])
            shapes.append(Shape(pocket[:, :2], lines(person.top.tone, 0.14), TOP))
    if faces > 0:  # the neckline
        throat = np.vstack([worn.at(angles * 2.6, 0.186), [worn.at(0.0, 0.24 if person.sleeve < 0.5 else 0.222)]])
        shapes.append(Shape(throat[:, :2], person.skin, SKIN))
    return shapes


def limb(points: np.ndarray, widths: tuple[float, ...], begin: float = 0.0, end: float = 1.0) -> np.ndarray:
    """The strip along a bent limb between two shares of its length. points: 3,2, widths at them."""
    share = np.linspace(2 * begin, 2 * end, 9)
    curve = np.stack([np.interp(share, (0, 1, 2), points[:, axis]) for axis in (0, 1)], 1)
    return stroke(curve, np.interp(share, (0, 1, 2), widths))


def sleeved(cloth: Cloth, points: np.ndarray, widths: tuple[float, ...], end: float, part: int) -> list[Shape]:
    """Cloth along a limb from its beginning to a share of its length, with an edge and stripes or dots across."""
    edge = tuple(width + 0.012 for width in widths)
    shapes = [
        Shape(ellipse(points[0], widths[0] / 2, widths[0] / 2, n=12), cloth.tone, part),
        Shape(limb(points, edge, 0.06, end + 0.008), lines(cloth.tone, -OUTLINE), part),
        Shape(limb(points, widths, 0.0, end), cloth.tone, part),
    ]
    if end > 0.55:
        shapes.append(Shape(ellipse(points[1], widths[1] / 2, widths[1] / 2, n=12), cloth.tone, part))
    length = 0.3 if part == TOP else 0.43
    step = cloth.scale / length
    if cloth.pattern in ("stripes", "checks"):
        wide = (0.3 if cloth.pattern == "checks" else 0.5) * step
        shapes += [
            Shape(limb(points, widths, at, min(end, at + wide)), cloth.mark, part)
            for at in np.arange(0.4 * step, end - 0.2 * step, step)
        ]
    if cloth.pattern in ("pinstripes", "checks"):
        shapes.append(Shape(limb(points, (0.01, 0.01, 0.01), 0.02, end), cloth.mark, part))
    if cloth.pattern == "dots":
        for k, at in enumerate(np.arange(0.5 * step, end - 0.2 * step, 0.6 * step)):
            spot = [np.interp(2 * at, (0, 1, 2), points[:, axis]) for axis in (0, 1)]
            spot[0] += 0.3 * widths[1] * (-1) ** k
            shapes.append(Shape(ellipse(spot, 0.011, 0.011, n=8), cloth.mark, part))
    return shapes


def arm_shapes(person: Person, pose: Pose, side: str) -> list[Shape]:
    """One arm with hand and sleeve."""
    points = pose.seen(pose.points[[NAMED[f"{side} {joint}"] for joint in ("shoulder", "elbow", "wrist")]])[:, :2]
    points[0, 1] += 0.012  # the arm hangs from under the joint
    skin, rim = person.skin, tinted(person.skin, OUTLINE)
    way = points[2] - points[1]
    hand = points[2] + 0.022 * way / max(0.04, np.hypot(*way))
    angle = np.arctan2(way[1], way[0])
    shapes = [
        Shape(ellipse(points[0], 0.022, 0.022, n=12), skin, SKIN),
        Shape(limb(points, (0.056, 0.048, 0.038), 0.1, 1.0), rim, SKIN),
        Shape(ellipse(hand, 0.034, 0.024, angle, 14), rim, SKIN),
        Shape(limb(points, (0.046, 0.038, 0.028)), skin, SKIN),
        Shape(ellipse(points[1], 0.019, 0.019, n=10), skin, SKIN),
        Shape(ellipse(hand, 0.029, 0.019, angle, 14), skin, SKIN),
    ]
    if person.sleeve > 0:
        loose = 2 * person.cut.loose
        end = min(person.sleeve, 0.97)
        shapes += sleeved(person.top, points, (0.05 + 0.8 * loose, 0.046 + loose, 0.038 + 0.5 * loose), end, TOP)
        if person.sleeve >= LONG:
            shapes.append(
                Shape(limb(points, (0.04, 0.04, 0.044 + 0.5 * loose), 0.92, 0.98), lines(person.top.tone), TOP)
            )
    return shapes


def leg_shapes(person: Person, pose: Pose) -> list[Shape]:
    """Both legs, the farther first, with trousers and shoes."""
    shapes: list[Shape] = []
    chains = {side: [NAMED[f"{side} {joint}"] for joint in ("hip", "knee", "ankle")] for side in ("right", "left")}
    placed = {side: pose.seen(pose.points[chain]) for side, chain in chains.items()}
    ahead = np.array((np.sin(pose.turn), 0.30 + 0.25 * max(0.0, np.cos(pose.turn))))
    for order, side in enumerate(sorted(placed, key=lambda side: placed[side][:, 2].mean())):
        points, tint = placed[side][:, :2], -0.1 * (1 - order)
        skin, rim = tinted(person.skin, tint), tinted(person.skin, OUTLINE + tint)
        heel = points[2] + (0, 0.012)
        toe = heel + 0.062 * ahead + (0, 0.008)
        foot = stroke(np.stack([heel - (0.2 * (toe - heel)), heel, toe]), np.array((0.036, 0.042, 0.036)))
        shapes += [
            Shape(limb(points, (0.094, 0.07, 0.048)), rim, SKIN),
            Shape(limb(points, (0.084, 0.06, 0.038)), skin, SKIN),
            Shape(ellipse(points[1], 0.03, 0.03, n=10), skin, SKIN),
            Shape(foot, tinted(person.shoes, tint), SHOES),
            Shape(ellipse(toe, 0.022, 0.017, n=12), tinted(person.shoes, tint), SHOES),
        ]
        if not person.cut.skirt:
            cloth, part = (person.top, TOP) if person.cut.whole else (person.bottom, BOTTOM)
            dim = replace(cloth, tone=tinted(cloth.tone, tint))
            wide = person.cut.wide
            shapes += sleeved(dim, points, (0.094 * min(wide, 1.15), 0.064 * wide, 0.046 * wide), person.leg, part)
    return shapes
