"""Drawn birds: species with a fixed palette and build, each picture with its own pose, tones and surroundings.

All is said in the words of CUB's 312 attributes; common/data/procedural/bird_shapes.py draws it.
"""

from dataclasses import dataclass, replace

import numpy as np

from common.data.procedural.colours import NAMES, jittered

PARTS = ("background", "body", "wing", "belly", "crown", "tail", "bill", "leg", "eye")
BODY, WING, BELLY, CROWN, TAIL, BILL, LEG, EYE = range(1, 9)


@dataclass(frozen=True)
class Build:
    """Proportions that go with a value of has_shape."""

    depth: float  # of the body, half
    neck: tuple[float, float]  # centre of the head from that of the body
    head: float  # radius
    tail: float
    legs: float
    tilt: tuple[float, float]  # of the body, radians; < 0 holds the head up
    bills: tuple[tuple[str, str], ...]  # has_bill_shape, has_bill_length
    sizes: tuple[str, ...]
    places: tuple[str, ...]  # where it sits
    kinds: tuple[str, ...]


SHORT, SAME, LONG = "shorter_than_head", "about_the_same_as_head", "longer_than_head"
SMALL, MEDIUM, LARGE, TINY = "small_(5_-_9_in)", "medium_(9_-_16_in)", "large_(16_-_32_in)", "very_small_(3_-_5_in)"
BRANCH, ROCK, WATER = "branch", "rock", "water"
CURVED = "curved_(up_or_down)"
BUILDS: dict[str, Build] = {
    "perching-like": Build(
        *(0.27, (0.43, -0.21), 0.205, 0.52, 0.25, (-0.65, -0.2)),
        bills=(("cone", SHORT), ("all-purpose", SHORT), ("all-purpose", SAME), (CURVED, SAME)),
        sizes=(SMALL, TINY),
        places=(BRANCH, BRANCH, ROCK),
        kinds=("Finch", "Warbler", "Sparrow", "Bunting", "Tanager"),
    ),
    "hummingbird-like": Build(
        *(0.22, (0.43, -0.16), 0.17, 0.34, 0.12, (-0.9, -0.4)),
        bills=(("needle", LONG),),
        sizes=(TINY,),
        places=(BRANCH,),
        kinds=("Hummingbird",),
    ),
    "duck-like": Build(
        *(0.26, (0.5, -0.42), 0.17, 0.28, 0.0, (-0.12, 0.06)),
        bills=(("spatulate", SAME),),
        sizes=(MEDIUM, LARGE),
        places=(WATER,),
        kinds=("Duck", "Teal"),
    ),
    "gull-like": Build(
        *(0.24, (0.5, -0.2), 0.165, 0.34, 0.34, (-0.35, -0.05)),
        bills=(("hooked_seabird", SAME),),
        sizes=(LARGE,),
        places=(ROCK, ROCK, WATER),
        kinds=("Gull", "Petrel"),
    ),
    "sandpiper-like": Build(
        *(0.23, (0.47, -0.3), 0.14, 0.26, 0.6, (-0.3, -0.05)),
        bills=(("dagger", LONG), ("needle", LONG)),
        sizes=(MEDIUM,),
        places=(ROCK,),
        kinds=("Sandpiper", "Rail"),
    ),
    "hawk-like": Build(
        *(0.26, (0.42, -0.12), 0.19, 0.6, 0.2, (-1.05, -0.7)),
        bills=(("hooked", SHORT),),
        sizes=(LARGE,),
        places=(BRANCH,),
        kinds=("Hawk", "Kite"),
    ),
    "pigeon-like": Build(
        *(0.3, (0.46, -0.26), 0.15, 0.5, 0.22, (-0.45, -0.15)),
        bills=(("all-purpose", SHORT),),
        sizes=(MEDIUM,),
        places=(ROCK, BRANCH),
        kinds=("Dove", "Pigeon"),
    ),
}
TAILS = ("forked_tail", "rounded_tail", "notched_tail", "fan-shaped_tail", "pointed_tail", "squared_tail")
WINGS = {
    "rounded-wings": 0.6,
    "pointed-wings": 0.74,
    "tapered-wings": 0.8,
    "long-wings": 0.92,
}  # how far back the tip is
HEADS = ("plain", "capped", "crested", "eyering", "eyeline", "masked")


@dataclass(frozen=True)
class Species:
    """What all birds of a class share. `colours`: part -> name of its colour."""

    name: str
    colours: dict[str, str]
    shape: str
    bill: str
    bill_length: str
    tail: str
    wing: str
    head: str
    size: str
    belly_pattern: str
    wing_pattern: str
    tail_pattern: str

    @property
    def build(self) -> Build:
        return BUILDS[self.shape]


def _pick(values: tuple[str, ...], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def _crown(body: str, rng: np.random.Generator) -> str:
    return body if rng.random() < 0.45 else _pick(NAMES, rng)


def _colours(body: str, wing: str, crown: str, rng: np.random.Generator) -> dict[str, str]:
    """Part -> colour; the belly and the tail may keep those of body and wing."""
    return {
        "body": body,
        "wing": wing,
        "belly": body if rng.random() < 0.4 else _pick(NAMES, rng),
        "crown": crown,
        "tail": wing if rng.random() < 0.7 else body,
        "bill": _pick(("black", "black", "orange", "yellow", "grey", "brown", "red"), rng),
        "leg": _pick(("black", "orange", "grey", "brown", "yellow", "pink"), rng),
        "eye": _pick(("black", "black", "brown", "red", "yellow"), rng),
    }


def _head(head: str, capped: bool) -> str:
    """A crown of another colour is a cap, unless the head shows something else."""
    return "capped" if capped and head == "plain" else "plain" if not capped and head == "capped" else head


def invent(body: str, wing: str, rng: np.random.Generator) -> Species:
    """A species of these two colours; the rest is drawn from rng, which may keep the body's colour for other parts."""
    shape = ("perching-like", *BUILDS)[int(rng.integers(len(BUILDS) + 1))]
    build = BUILDS[shape]
    bill, length = build.bills[int(rng.integers(len(build.bills)))]
    crown = _crown(body, rng)
    head = _pick(HEADS, rng)
    colours = _colours(body, wing, crown, rng)
    return Species(
        name=f"{wing.title()}_winged_{body.title()}_{_pick(build.kinds, rng)}",
        colours=colours,
        shape=shape,
        bill=bill,
        bill_length=length,
        tail=_pick(TAILS, rng),
        wing=_pick(tuple(WINGS), rng),
        head=_head(head, crown != body),
        size=_pick(build.sizes, rng),
        belly_pattern=_pick(("solid", "solid", "spotted", "striped"), rng),
        wing_pattern=_pick(("solid", "solid", "spotted", "striped"), rng),
        tail_pattern=_pick(("solid", "solid", "striped"), rng),
    )


def recoloured(species: Species, rng: np.random.Generator) -> Species:
    """The same build in colours drawn anew, so that no part tells the colour of the wings."""
    body, wing = _pick(NAMES, rng), _pick(NAMES, rng)
    crown = _crown(body, rng)
    return replace(species, colours=_colours(body, wing, crown, rng), head=_head(species.head, crown != body))


def plain(species: Species) -> Species:
    """The same colours on one build, with a crest and without patterns."""
    shape = "perching-like"
    bill, length = BUILDS[shape].bills[0]
    build = replace(
        species, shape=shape, size=SMALL, bill=bill, bill_length=length, tail=TAILS[1], wing="rounded-wings"
    )
    return replace(build, head="crested", belly_pattern="solid", wing_pattern="solid", tail_pattern="solid")


@dataclass(frozen=True)
class Pose:
    """What one picture adds to its species."""

    tilt: float
    look: float  # of the head, radians
    left: bool
    raised: bool  # the wings; the bird flies
    place: str
    scene: str
    tones: dict[str, np.ndarray]  # colour name -> this bird's RGB

    @classmethod
    def draw(cls, species: Species, rng: np.random.Generator) -> "Pose":
        """As its build allows, one of seven with raised wings."""
        raised = rng.random() < 0.15
        places = species.build.places
        place = "air" if raised else places[int(rng.integers(len(places)))]
        scenes = {"air": ("sky", "foliage"), WATER: ("water",)}.get(place, ("foliage", "sky", "meadow", "wood"))
        return cls(
            tilt=rng.uniform(-0.4, 0.1) if raised else rng.uniform(*species.build.tilt),
            look=rng.normal(0, 0.12),
            left=rng.random() < 0.5,
            raised=raised,
            place=place,
            scene=scenes[int(rng.integers(len(scenes)))],
            tones={name: jittered(name, rng) for name in NAMES},
        )

    def still(self, species: Species) -> "Pose":
        """The same tones and surroundings, perched and seen from the left side."""
        scene = "foliage" if self.place in ("air", WATER) else self.scene
        tilt = sum(species.build.tilt) / 2
        return replace(self, tilt=tilt, look=0.0, left=True, raised=False, place=BRANCH, scene=scene)
