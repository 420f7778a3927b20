"""The polygons of a drawn bird.

They lie in a unit frame: the bird looks to the right, its body lies on the x axis from -0.5 to 0.45, y points down.
"""

import numpy as np

from common.data.procedural.birds import (
    BELLY,
    BILL,
    BODY,
    BRANCH,
    CROWN,
    CURVED,
    EYE,
    LEG,
    LONG,
    PARTS,
    ROCK,
    SAME,
    SHORT,
    TAIL,
    WATER,
    WING,
    WINGS,
    Pose,
    Species,
)
from common.data.procedural.canvas import (
    Picture,
    Shape,
    backdrop,
    ellipse,
    lines,
    paint,
    smooth,
    stroke,
    tinted,
    turned,
    varied,
)

Tones = dict[str, np.ndarray]  # part -> this bird's RGB


def picture(species: Species, pose: Pose, size: tuple[int, int], oversample: int, rng: np.random.Generator) -> Picture:
    """One photo of size (width, height); the whole bird is inside, in the middle part that a test-time crop keeps."""
    bird = bird_shapes(species, pose, rng)
    points = np.vstack([shape.points for shape in bird])
    low, high = points.min(0), points.max(0)
    scale = rng.uniform(0.7, 0.8) * min(size) / (high - low).max()
    mirror = np.array([-1.0 if pose.left else 1.0, 1.0])
    centre = np.array(size) * 0.5 + rng.uniform(-0.02, 0.02, 2) * min(size)
    shapes = seat(species, pose, rng) + bird + (ripples(species, rng) if pose.place == WATER else [])
    return paint(
        backdrop(pose.scene, size, rng),
        shapes,
        np.diag(scale * mirror),
        centre - scale * mirror * (low + high) / 2,
        rng,
        oversample=oversample,
        foreground=range(1, len(PARTS)),
    )


def bird_shapes(species: Species, pose: Pose, rng: np.random.Generator) -> list[Shape]:
    """All polygons of the bird, from the farthest to the nearest."""
    tone = {part: pose.tones[name] for part, name in species.colours.items()}
    trunk = tail_shapes(species, tone) + trunk_shapes(species, tone, rng)
    wing = raised_wing(species, tone, 0.0) if pose.raised else folded_wing(species, tone, rng)
    far = raised_wing(species, {"wing": tinted(tone["wing"], -0.08)}, 0.35) if pose.raised else []

    def tilted(shapes: list[Shape]) -> list[Shape]:
        return [shape._replace(points=turned(shape.points, pose.tilt)) for shape in shapes]

    legs = [] if pose.place in ("air", WATER) else leg_shapes(species, pose, tone["leg"])
    return tilted(far) + legs + tilted(trunk) + head_shapes(species, pose, tone) + tilted(wing)


def outline(depth: float, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Back and underside of the body from the tail (t = 0) to the breast (t = 1): two N,2 curves."""
    x, half = -0.5 + 0.95 * t, depth * np.sin(np.pi * t**1.2) ** 0.65
    return np.stack([x, -0.9 * half], 1), np.stack([x, 1.1 * half], 1)


def trunk_shapes(species: Species, tone: Tones, rng: np.random.Generator) -> list[Shape]:
    """Body, neck and underparts, with the pattern of the belly."""
    build = species.build
    back, under = outline(build.depth, np.linspace(0, 1, 22))
    spine = np.array([(0.12, -0.02), (0.3, 0.4 * build.neck[1]), build.neck])
    neck = stroke(spine, np.array([1.6 * build.depth, 1.5 * build.depth, 1.85 * build.head]))
    shapes = [Shape(np.vstack([back, under[::-1]]), tone["body"], BODY), Shape(neck, tone["body"], BODY)]
    t = np.linspace(0.08, 1, 18)
    inner = outline(build.depth, t)[1] * (1, 0.34)
    outer = outline(build.depth, t)[1] * (1, 0.985)
    throat = np.array(build.neck) * (1.0, 0.35) + (0.2 * build.head, 0)
    shapes.append(Shape(np.vstack([outer, [throat], inner[::-1]]), tone["belly"], BELLY))
    mark = lines(tone["belly"], 0.5)
    count = {"solid": 0, "spotted": 13, "striped": 6}[species.belly_pattern]
    for k, place in enumerate(np.linspace(2, 15, count)):
        a, b = inner[int(place)], outer[int(place)]
        if species.belly_pattern == "spotted":
            spot = a + (b - a) * (0.3, 0.6, 0.85)[k % 3] + rng.normal(0, 0.008, 2)
            shapes.append(Shape(ellipse(spot, 0.022, 0.017, n=8), mark, BELLY))
        else:
            shapes.append(Shape(stroke(np.stack([a + (b - a) * 0.2, a + (b - a) * 0.9]), 0.022), mark, BELLY))
    return shapes


def tail_shapes(species: Species, tone: Tones) -> list[Shape]:
    """The tail of one of six shapes: u runs along it, v across."""
    w, length = 0.11, species.build.tail
    end = [(u, v * w) for u, v in TAIL_ENDS[species.tail]]
    frame = np.array([[-length - 0.2, 0.0], [0.0, 1.0]])
    root = np.array([-0.3, -0.03])
    shapes = [Shape(np.array([(0, -0.7 * w), *end, (0, 0.7 * w)]) @ frame + root, tone["tail"], TAIL)]
    if species.tail_pattern == "striped":
        mark = lines(tone["tail"], 0.5)
        bands = [stroke(np.array([(u, -0.6 * w), (u, 0.6 * w)]) @ frame + root, 0.035) for u in (0.55, 0.7)]
        shapes += [Shape(band, mark, TAIL) for band in bands]
    feathers = [stroke(np.array([(0.3, v), (0.85, 1.4 * v)]) @ frame + root, 0.012) for v in (-0.35 * w, 0.35 * w)]
    return shapes + [Shape(line, lines(tone["tail"]), TAIL) for line in feathers]


TAIL_ENDS: dict[str, list[tuple[float, float]]] = {  # u in lengths of the tail, v in half widths
    "forked_tail": [(1.05, -1.3), (0.55, 0), (1.0, 1.3)],
    "rounded_tail": [(0.9, -1), (1, -0.6), (1.04, 0), (1, 0.6), (0.9, 1)],
    "notched_tail": [(1, -1), (0.87, 0), (1, 1)],
    "fan-shaped_tail": [(0.8, -2.2), (0.97, -1.3), (1.04, 0), (0.97, 1.3), (0.8, 2.2)],
    "pointed_tail": [(0.7, -0.8), (1.15, 0), (0.7, 0.8)],
    "squared_tail": [(1, -1.1), (1, 1.1)],
}


def head_shapes(species: Species, pose: Pose, tone: Tones) -> list[Shape]:
    """Head, crown, marks round the eye and bill, in a frame of their own turned by the bird's look."""
    r, centre = species.build.head, turned(np.array([species.build.neck]), pose.tilt)[0]
    angle = np.linspace(-1.02 * np.pi, -0.12 * np.pi, 14)
    cap = np.vstack([np.stack([np.cos(angle), np.sin(angle)], 1) * 1.03, [(0.45, -0.28), (-0.3, -0.2)]])
    dark = lines(tone["body"], 0.75)
    found: list[tuple[np.ndarray, np.ndarray, int]] = [(ellipse((0, 0), 1, 1), tone["body"], BODY)]
    if species.head == "crested":
        crest = [(0.75, -0.6), (0.2, -1.15), (-0.9, -1.75), (-0.6, -1.2), (-1.35, -1.1), (-0.95, -0.35)]
        found.append((np.array(crest), tone["crown"], CROWN))
    found.append((cap, tone["crown"], CROWN))
    if species.head == "masked":
        found.append((ellipse((0.25, -0.03), 0.62, 0.24), dark, BODY))
    if species.head == "eyeline":
        found.append((stroke(np.array([(-0.75, 0.0), (0.9, 0.02)]), 0.14), dark, BODY))
    ring = np.array((250.0, 250.0, 250.0)) if species.head == "eyering" else lines(tone["body"], 0.5)
    found.append((ellipse((0.34, -0.06), 0.27, 0.27), ring, EYE))
    found.append((ellipse((0.34, -0.06), 0.19, 0.19), tone["eye"], EYE))
    found.append((ellipse((0.36, -0.06), 0.11, 0.11, n=10), np.array((10.0, 10, 10)), EYE))
    found.append((ellipse((0.41, -0.12), 0.05, 0.05, n=8), np.array((255.0, 255, 255)), EYE))
    length = {SHORT: 0.85, SAME: 1.5, LONG: 2.5}[species.bill_length]
    upper, gape = BILLS[species.bill]
    stretch, base = np.array((length, 1.0)), np.array((0.78, 0.16))
    bill = [(np.array(upper) * stretch + base, tone["bill"], BILL)]
    bill.append((stroke(np.array(gape) * stretch + base, 0.06), lines(tone["bill"], 0.4), BILL))
    return [Shape(turned(points * r, pose.look) + centre, colour, part) for points, colour, part in bill + found]


# Outline and line of the gape, in head radii; x is then stretched to the bill's length.
BILLS: dict[str, tuple[list[tuple[float, float]], list[tuple[float, float]]]] = {
    "cone": ([(0, -0.48), (0.6, -0.25), (1, 0.06), (0.5, 0.3), (0, 0.42)], [(0, 0.03), (0.85, 0.06)]),
    "all-purpose": ([(0, -0.28), (0.6, -0.18), (1, 0.04), (0.5, 0.2), (0, 0.27)], [(0, 0.02), (0.85, 0.04)]),
    "needle": ([(0, -0.14), (1, -0.02), (1, 0.02), (0, 0.14)], [(0, 0), (0.6, 0)]),
    "dagger": ([(0, -0.26), (0.5, -0.16), (1, 0.02), (0.5, 0.16), (0, 0.24)], [(0, 0), (0.85, 0.02)]),
    "hooked": (
        [(0, -0.42), (0.55, -0.38), (0.95, -0.02), (0.93, 0.5), (0.72, 0.18), (0, 0.34)],
        [(0, 0.1), (0.7, 0.1)],
    ),
    "hooked_seabird": (
        [(0, -0.3), (0.7, -0.22), (0.98, 0.02), (0.99, 0.36), (0.86, 0.14), (0, 0.26)],
        [(0, 0.02), (0.85, 0.08)],
    ),
    "spatulate": (
        [(0, -0.36), (0.45, -0.08), (0.9, -0.14), (1.05, 0.06), (0.9, 0.24), (0, 0.3)],
        [(0, 0.08), (0.95, 0.1)],
    ),
    CURVED: (
        [(0, -0.28), (0.5, -0.22), (0.85, 0.06), (1, 0.5), (0.75, 0.3), (0.45, 0.14), (0, 0.26)],
        [(0, 0), (0.6, 0)],
    ),
}


def folded_wing(species: Species, tone: Tones, rng: np.random.Generator) -> list[Shape]:
    """The wing at the body's side with primaries, coverts and its pattern."""
    tip, d = WINGS[species.wing], 0.9 * species.build.depth / 0.27
    blunt = 0.1 if species.wing == "rounded-wings" else 0.03
    above = [(0.27, -0.02), (0.14, -0.18), (-0.15, -0.19), (-0.45, -0.1), (-tip, 0.02 - blunt / 2)]
    edge = [*above, (-tip + 0.02, 0.02 + blunt / 2), (-0.4, 0.1), (-0.08, 0.15), (0.18, 0.1)]
    wing = smooth(edge, 5) * (1, d)
    dark = lines(tone["wing"])
    shapes = [Shape(wing * (1.03, 1.08), lines(tone["wing"], 0.4), WING), Shape(wing, tone["wing"], WING)]
    for k, y in enumerate((-0.09, -0.03, 0.03, 0.08)):
        primary = smooth([(-0.02, y * 1.2), (-0.3, y), (-tip * (0.9 - 0.06 * k), 0.02 + y * 0.25)], 4, closed=False)
        shapes.append(Shape(stroke(primary * (1, d), 0.016), dark, WING))
    covert = smooth([(-0.05, -0.15), (-0.1, -0.02), (0.02, 0.1)], 5, closed=False)
    mark = lines(tone["wing"], 0.6)
    if species.wing_pattern == "striped":  # two wing bars
        shapes += [Shape(stroke((covert + np.array((dx, 0))) * (1, d), 0.034), mark, WING) for dx in (-0.03, 0.1)]
    elif species.wing_pattern == "spotted":
        grid = [(x, y) for x in (-0.38, -0.26, -0.14, -0.02, 0.1) for y in (-0.09, 0.0, 0.07)]
        spots = np.array(grid) * (1, d) + rng.normal(0, 0.008, (len(grid), 2))
        shapes += [Shape(ellipse(spot, 0.021, 0.018, n=8), mark, WING) for spot in spots]
    else:
        shapes.append(Shape(stroke(covert * (1, d), 0.016), dark, WING))
    return shapes


def raised_wing(species: Species, tone: Tones, lean: float) -> list[Shape]:
    """A wing lifted in flight; lean turns the far one forward."""
    long = 0.75 + 0.35 * (WINGS[species.wing] - 0.6) / 0.32
    root, tips = np.array((0.05, -0.08)), []
    for k, angle in enumerate(np.linspace(-1.75, -2.75, 7)):
        reach = long * (1 - 0.065 * k)
        for share, a in ((1.0, angle), (0.9, angle - 0.07)):  # a feather's tip, and the notch after it
            tips.append(root + share * reach * np.array((np.cos(a), np.sin(a))))
    edge = np.vstack([[(0.24, -0.03), (0.2, -0.25)], tips, [(-0.33, -0.06), (-0.2, 0.04), (0.0, 0.08), (0.15, 0.05)]])
    shapes = [Shape(edge, tone["wing"], WING)]
    dark = lines(tone["wing"])
    quills = [np.stack([root + 0.35 * (p - root), root + 0.95 * (p - root)]) for p in tips[1::2]]
    shapes += [Shape(stroke(quill, 0.016), dark, WING) for quill in quills]
    if species.wing_pattern != "solid":
        mark = lines(tone["wing"], 0.6)
        at = [root + f * (p - root) for f in (0.42, 0.62) for p in tips[::2]]
        if species.wing_pattern == "spotted":
            shapes += [Shape(ellipse(p, 0.024, 0.024, n=8), mark, WING) for p in at]
        else:
            shapes += [Shape(stroke(np.array(at[k : k + 7]), 0.04), mark, WING) for k in (0, 7)]
    return [shape._replace(points=turned(shape.points, lean, root)) for shape in shapes]


def feet(species: Species, pose: Pose) -> np.ndarray:
    """Where the two feet stand: 2,2."""
    hips = turned(np.array([(-0.1, 0.8), (0.04, 0.85)]) * (1, species.build.depth), pose.tilt)
    return np.stack([hips[:, 0] + (0.02, 0.06), np.full(2, hips[:, 1].max() + species.build.legs)], 1)


def leg_shapes(species: Species, pose: Pose, tone: np.ndarray) -> list[Shape]:
    """Both legs, from the hips over the knees to two toes each. tone: RGB."""
    hips = turned(np.array([(-0.1, 0.7), (0.04, 0.75)]) * (1, species.build.depth), pose.tilt)
    shapes = []
    for hip, foot in zip(hips, feet(species, pose), strict=True):
        knee = (hip + foot) / 2 + (-0.04, 0.0)
        shapes.append(Shape(stroke(np.stack([hip, knee, foot]), np.array([0.075, 0.045, 0.04])), tone, LEG))
        shapes += [
            Shape(stroke(np.stack([foot, foot + toe]), 0.032), tone, LEG) for toe in ((0.1, 0.02), (-0.06, 0.02))
        ]
    return shapes


def seat(species: Species, pose: Pose, rng: np.random.Generator) -> list[Shape]:
    """What the bird stands on: a twig with leaves or a stone, part of the background."""
    y = feet(species, pose)[:, 1].max()
    if pose.place == BRANCH:
        bark = varied((104, 80, 58), rng)
        rise = rng.normal(0, 0.12)
        twig = smooth([(x, y + 0.06 + rise * x + 0.004 * x * x) for x in (-3, -1, 0, 1, 3)], 6, closed=False)
        leaves = []
        for _ in range(int(rng.integers(0, 6))):
            at = twig[int(rng.integers(len(twig)))] + rng.normal(0, 0.05, 2)
            green = varied((84, 124, 60), rng)
            leaves.append(Shape(ellipse(at + np.array((0, 0.1)), 0.17, 0.07, rng.uniform(-1, 1), n=12), green, 0))
        light = Shape(stroke(twig - (0, 0.025), 0.03), tinted(bark, 0.15), 0)
        return [Shape(stroke(twig, 0.12), bark, 0), light, *leaves]
    if pose.place == ROCK:
        stone = varied((142, 132, 120), rng)
        top = smooth(
            [(x, y + 0.04 + 0.1 * x * x + rng.normal(0, 0.015)) for x in np.linspace(-3, 3, 9)], 5, closed=False
        )
        below = [(3.0, y + 4), (-3.0, y + 4)]
        return [
            Shape(np.vstack([top, below]), stone, 0),
            Shape(stroke(top + np.array((0, 0.03)), 0.05), tinted(stone, 0.2), 0),
        ]
    return []


def ripples(species: Species, rng: np.random.Generator) -> list[Shape]:
    """Water in front of a swimming bird."""
    y, tone = species.build.depth * 0.95, np.array((92.0, 128, 142))
    surface = smooth([(x, y + rng.normal(0, 0.015)) for x in np.linspace(-0.75, 0.75, 9)], 5, closed=False)
    width = 0.17 * np.sqrt(np.clip(1 - (surface[:, 0] / 0.76) ** 2, 0, 1))
    rings = [stroke(ellipse((0, y + dy), rx, 0.05)[1:10], 0.02) for dy, rx in ((0.06, 0.7), (0.11, 0.95))]
    return [
        Shape(stroke(surface + np.array((0, 0.07)), width), tone, 0),
        *(Shape(ring, tinted(tone, 0.35), 0) for ring in rings),
    ]
