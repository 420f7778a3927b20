"""Drawn flowers: species with their petals and centre, each picture with its own view, tones and surroundings.

A flower is built of polygons in a unit frame: its middle is the origin, the petals reach to radius 1, y points down.
"""

from dataclasses import dataclass, replace

import numpy as np

from common.data.procedural.canvas import (
    Picture,
    Shape,
    backdrop,
    circle,
    ellipse,
    lines,
    paint,
    smooth,
    stroke,
    tinted,
    varied,
)
from common.data.procedural.colours import jittered

PARTS = ("background", "petals", "centre", "leaf")
PETALS, CENTRE, LEAF = range(1, 4)
# in this order when a few colours must do
PETAL_COLOURS = ("red", "yellow", "white", "purple", "pink", "blue", "orange")
CENTRE_COLOURS = ("yellow", "brown", "white", "red", "green", "purple", "orange", "black")
# outline of half a petal: (distance from the middle, half width in shares of the petal's width)
OUTLINES = {
    "rounded": [(0.12, 0.25), (0.45, 0.8), (0.78, 1.0), (0.97, 0.55)],
    "pointed": [(0.12, 0.3), (0.4, 0.9), (0.62, 0.8), (0.86, 0.3)],
    "narrow": [(0.12, 0.4), (0.4, 0.62), (0.75, 0.62), (0.95, 0.35)],
    "notched": [(0.12, 0.2), (0.5, 0.7), (0.85, 1.0), (1.02, 0.55)],
}
TIPS = {"rounded": 1.02, "pointed": 1.06, "narrow": 1.02, "notched": 0.84}
MARKS = ("plain", "veined", "edged")


@dataclass(frozen=True)
class Species:
    """What all flowers of a class share. `colours`: part -> name of its colour."""

    name: str
    colours: dict[str, str]
    petals: int  # in a layer
    layers: int
    outline: str
    disc: float  # radius of the centre
    mark: str


def invent(petals: str, centre: str, rng: np.random.Generator) -> Species:
    """A species of these two colours; the rest is drawn from rng."""
    outline = tuple(OUTLINES)[int(rng.integers(len(OUTLINES)))]
    fewest, most = {"narrow": (9, 15), "pointed": (5, 8)}.get(outline, (4, 8))
    return Species(
        name=f"{petals} {outline} petals with {centre} centre",
        colours={"petals": petals, "centre": centre, "leaf": "green"},
        petals=int(rng.integers(fewest, most + 1)),
        layers=1 if rng.random() < 0.65 else 2,
        outline=outline,
        disc=rng.uniform(0.26, 0.38),
        mark=MARKS[int(rng.integers(len(MARKS)))],
    )


def recoloured(species: Species, rng: np.random.Generator) -> Species:
    """The same build in colours drawn anew."""
    petals, centre = (names[int(rng.integers(len(names)))] for names in (PETAL_COLOURS, CENTRE_COLOURS))
    return replace(species, colours=species.colours | {"petals": petals, "centre": centre})


def plain(species: Species) -> Species:
    """The same colours on one build without marks."""
    return replace(species, petals=6, layers=1, outline="rounded", disc=0.36, mark="plain")


def picture(species: Species, size: tuple[int, int], oversample: int, rng: np.random.Generator) -> Picture:
    """One photo of size (width, height); the whole blossom is inside the part that a test-time crop keeps."""
    tone = {part: jittered(name, rng) for part, name in species.colours.items()}
    view = np.diag([1.0, rng.uniform(0.72, 1.0)])  # seen from the side, a blossom is flat
    turn = rng.uniform(-0.4, 0.4)
    view = view @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    blossom = [shape._replace(points=shape.points @ view) for shape in blossom_shapes(species, tone, rng)]
    scene = ("foliage", "foliage", "meadow", "wood", "sky")[int(rng.integers(5))]
    return paint(
        backdrop(scene, size, rng),
        stem_shapes(tone["leaf"], rng) + blossom,
        np.eye(2) * rng.uniform(0.28, 0.355) * min(size),
        np.array(size) * 0.5 + rng.uniform(-0.02, 0.02, 2) * min(size),
        rng,
        oversample=oversample,
        foreground=(PETALS, CENTRE),  # as Oxford-102's segmentations: without stem and leaves
    )


def blossom_shapes(species: Species, tone: dict[str, np.ndarray], rng: np.random.Generator) -> list[Shape]:
    """Petals, layer by layer from below, and the centre with its stamens."""
    shapes: list[Shape] = []
    start = rng.uniform(0, 2 * np.pi)
    for layer in range(species.layers):
        reach = 1.0 - 0.3 * layer
        for k in range(species.petals):
            angle = start + 2 * np.pi * (k + 0.5 * layer) / species.petals + rng.normal(0, 0.04)
            shapes += petal_shapes(species, tone["petals"], angle, reach * rng.uniform(0.92, 1.06), k % 2)
    disc, dark = species.disc, lines(tone["centre"], 0.3)
    shapes.append(Shape(circle(24) * disc * 1.08, lines(tone["petals"], 0.4), PETALS))
    shapes.append(Shape(circle(24) * disc, tone["centre"], CENTRE))
    for k in range(14):  # stamens, in the golden angle
        at = np.sqrt((k + 0.5) / 14) * 0.85 * disc * np.array([np.cos(2.4 * k), np.sin(2.4 * k)])
        shapes.append(Shape(ellipse(at, 0.035, 0.035, n=8), dark if k % 2 else tinted(tone["centre"], 0.25), CENTRE))
    return shapes


def petal_shapes(species: Species, colour: np.ndarray, angle: float, reach: float, shade: int) -> list[Shape]:
    """One petal pointing along `angle`; neighbours differ by a shade, so that one sees where they end."""
    half = np.pi / species.petals * (0.8 if species.outline == "narrow" else 0.98)
    width = min(0.6, half)
    edge = [(x, width * w) for x, w in OUTLINES[species.outline]]
    points = smooth([*edge, (TIPS[species.outline], 0.0), *((x, -y) for x, y in reversed(edge))], 4) * reach
    frame = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    own = tinted(colour, -0.07 * shade)
    rim = own if species.mark != "edged" else lines(colour, 0.3)
    shapes = [
        Shape(((points - (0.6, 0)) * (1.0, 1.06) + (0.6, 0)) @ frame, lines(colour, 0.35), PETALS),
        Shape(points @ frame, rim, PETALS),
        Shape(((points - (0.5, 0)) * (0.9, 0.82) + (0.5, 0)) @ frame, own, PETALS),
    ]
    slopes = (-0.5, 0.0, 0.5) if species.mark == "veined" else (0.0,)
    veins = [np.array([(0.3, 0.0), (0.8, 0.5 * width * slope)]) * reach for slope in slopes]
    return shapes + [Shape(stroke(vein, np.array([0.035, 0.01])) @ frame, lines(colour, 0.2), PETALS) for vein in veins]


def stem_shapes(green: np.ndarray, rng: np.random.Generator) -> list[Shape]:
    """A bent stem with two to four leaves."""
    bend = rng.normal(0, 0.5)
    stem = smooth([(0, 0), (0.3 * bend, 1), (bend, 2.2), (1.3 * bend, 4)], 6, closed=False)
    shapes = []
    for k in range(int(rng.integers(2, 5))):
        root = stem[int(rng.integers(6, 15))]
        side = 1 if k % 2 else -1
        tip = root + np.array([side * rng.uniform(0.7, 1.2), rng.uniform(-0.7, 0.1)])
        middle = (root + tip) / 2 + (0, 0.12)
        blade = smooth([root, middle, tip], 6, closed=False)
        width = 0.42 * np.sin(np.pi * np.linspace(0.04, 0.98, len(blade)))
        tone = np.clip(varied(green, rng, 8, 2), 0, 255)
        shapes += [Shape(stroke(blade, width), tone, LEAF), Shape(stroke(blade, 0.025), lines(tone), LEAF)]
    return [Shape(stroke(stem, 0.1), tinted(green, -0.1), LEAF), *shapes]
