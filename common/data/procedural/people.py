"""Drawn people: who they are, what they wear, how they stand. common/data/procedural/person_shapes.py draws them.

Lengths are in body heights. A body's own axes: X to the person's left, Y down from the crown, Z forward.
"""

from dataclasses import dataclass

import numpy as np

from common.data.poses import JOINTS, NAMED
from common.data.procedural.colours import ANCHORS, NAMES, jittered

PARTS = ("background", "skin", "hair", "top", "bottom", "shoes", "features")
SKIN, HAIR, TOP, BOTTOM, SHOES, FEATURES = range(1, 7)

SKINS = ((250, 214, 190), (236, 190, 158), (216, 164, 124), (176, 120, 82), (130, 84, 56), (92, 58, 42))
HAIRS = ((36, 28, 26), (62, 42, 30), (112, 72, 40), (168, 104, 52), (222, 184, 112), (150, 60, 34), (140, 138, 140))
STYLES = {
    "WOMEN": ("long", "long", "bob", "bun", "ponytail", "curly", "short"),
    "MEN": ("short", "short", "short", "curly", "bald"),
}
PATTERNS = ("solid", "stripes", "stripes", "pinstripes", "checks", "dots")
SLEEVELESS, SHORT, HALF, LONG = 0.0, 0.3, 0.55, 1.0  # how much of the arm a sleeve covers


@dataclass(frozen=True)
class Cut:
    """The clothes of a folder of DeepFashion: what each of them may be."""

    sleeves: tuple[float, ...]
    legs: tuple[float, ...]  # length of the trousers, or of the skirt, in lengths of the leg
    skirt: bool = False
    whole: bool = False  # a dress, a romper: top and bottom are one
    front: str = ""  # buttons, print, open (over another top) or hood
    loose: float = 0.006  # of the top, off the body
    wide: float = 1.15  # of the trousers, in widths of the leg


TROUSERS, KNEE = (0.98, 0.98, 0.45), (0.36, 0.5)
CUTS = {
    "MEN/Denim": Cut((SHORT, LONG), (0.98,), wide=1.25),
    "MEN/Jackets_Vests": Cut((LONG, SLEEVELESS), (0.98,), front="open", loose=0.014),
    "MEN/Pants": Cut((SHORT,), (0.98,), wide=1.35),
    "MEN/Shirts_Polos": Cut((SHORT, LONG), TROUSERS, front="buttons", loose=0.008),
    "MEN/Shorts": Cut((SHORT, SLEEVELESS), KNEE, wide=1.45),
    "MEN/Suiting": Cut((LONG,), (0.98,), front="open", loose=0.012, wide=1.25),
    "MEN/Sweaters": Cut((LONG,), TROUSERS, loose=0.012),
    "MEN/Sweatshirts_Hoodies": Cut((LONG,), TROUSERS, front="hood", loose=0.016),
    "MEN/Tees_Tanks": Cut((SHORT, SHORT, SLEEVELESS), TROUSERS, loose=0.008),
    "WOMEN/Blouses_Shirts": Cut((SHORT, HALF, LONG), (0.98,), front="buttons", loose=0.01),
    "WOMEN/Cardigans": Cut((LONG, HALF), TROUSERS, front="open", loose=0.012),
    "WOMEN/Denim": Cut((SHORT, SLEEVELESS), (0.98, 0.4), wide=1.1),
    "WOMEN/Dresses": Cut((SLEEVELESS, SHORT, HALF), (0.4, 0.5, 0.75), skirt=True, whole=True),
    "WOMEN/Graphic_Tees": Cut((SHORT,), TROUSERS, front="print", loose=0.008),
    "WOMEN/Jackets_Coats": Cut((LONG,), (0.98,), front="open", loose=0.016),
    "WOMEN/Leggings": Cut((SLEEVELESS, LONG), (0.95,), wide=1.02),
    "WOMEN/Pants": Cut((SHORT, SLEEVELESS), (0.98,), wide=1.5),
    "WOMEN/Rompers_Jumpsuits": Cut((SLEEVELESS, SHORT), (0.36, 0.98), whole=True, wide=1.35),
    "WOMEN/Shorts": Cut((SHORT, SLEEVELESS), (0.26, 0.36), wide=1.4),
    "WOMEN/Skirts": Cut((SHORT, SLEEVELESS, LONG), (0.35, 0.5, 0.7), skirt=True),
    "WOMEN/Sweaters": Cut((LONG,), (0.98, 0.4), loose=0.014),
    "WOMEN/Sweatshirts_Hoodies": Cut((LONG,), (0.98, 0.4), front="hood", loose=0.016),
    "WOMEN/Tees_Tanks": Cut((SLEEVELESS, SHORT), TROUSERS, loose=0.006),
}


@dataclass(frozen=True)
class Cloth:
    """A colour and a pattern of another colour. The names are those of common.data.procedural.colours."""

    colour: str
    tone: np.ndarray  # 3, sRGB 0..255: this garment's own
    pattern: str
    mark: np.ndarray  # 3, of the pattern
    scale: float  # distance of two stripes or dots, in body heights


@dataclass(frozen=True)
class Person:
    """An identity: one person in one set of clothes, before one wall. Nothing of it changes from photo to photo."""

    folder: str  # of DeepFashion
    skin: np.ndarray
    hair: np.ndarray
    style: str
    beard: bool
    lips: np.ndarray
    shoulders: float  # half the distance of the joints
    waist: float
    hips: float
    top: Cloth
    inner: Cloth  # under an open top
    bottom: Cloth
    shoes: np.ndarray
    sleeve: float
    leg: float
    hem: float  # of the top, Y
    wall: np.ndarray

    @property
    def cut(self) -> Cut:
        return CUTS[self.folder]

    @property
    def colours(self) -> dict[str, str]:
        """Part -> name of its colour."""
        return {"top": self.top.colour, "bottom": (self.top if self.cut.whole else self.bottom).colour}


def dress(folder: str, body: "Person | None", rng: np.random.Generator) -> Person:
    """A person in clothes of a folder. body: who wears them, in other colours (an item's second colour), or None."""
    if body is not None:
        return Person(**{**vars(body), "top": _cloth(rng, PATTERNS), "bottom": _cloth(rng, ("solid",))})
    man, cut = folder.startswith("MEN/"), CUTS[folder]
    plain = cut.front in ("print", "hood")
    bottoms = PATTERNS if cut.skirt else ("solid", "solid", "solid", "pinstripes", "checks")
    denim = folder.endswith("Denim")
    return Person(
        folder=folder,
        skin=np.array(_one(SKINS, rng)) + rng.normal(0, 4, 3),
        hair=np.array(_one(HAIRS, rng)) + rng.normal(0, 5, 3),
        style=_one(STYLES[folder.split("/")[0]], rng),
        beard=man and rng.random() < 0.35,
        lips=np.array((178, 92, 88) if man else _one(((196, 60, 72), (206, 104, 104), (170, 40, 62)), rng), float),
        shoulders=rng.uniform(0.108, 0.12) if man else rng.uniform(0.093, 0.102),
        waist=rng.uniform(0.082, 0.094) if man else rng.uniform(0.068, 0.08),
        hips=rng.uniform(0.082, 0.09) if man else rng.uniform(0.086, 0.096),
        top=_cloth(rng, ("solid",) if plain else PATTERNS),
        inner=_cloth(rng, ("solid", "stripes")),
        bottom=_cloth(rng, bottoms, colours=("blue", "blue", "black", "grey") if denim else NAMES),
        shoes=jittered(_one(("black", "brown", "white", "red", "grey", "buff"), rng), rng),
        sleeve=_one(cut.sleeves, rng),
        leg=_one(cut.legs, rng),
        hem=rng.uniform(0.5, 0.55) if man or cut.front in ("open", "hood") else rng.uniform(0.44, 0.54),
        wall=np.array(_one(((236, 236, 236), (224, 226, 230), (240, 236, 228), (206, 208, 212)), rng))
        + rng.normal(0, 3),
    )


def _cloth(rng: np.random.Generator, patterns: tuple[str, ...], colours: tuple[str, ...] = NAMES) -> Cloth:
    """A pattern's colour is far from its ground's: white or black, or any that is."""
    colour = _one(colours, rng)
    ground = jittered(colour, rng)
    far = [name for name in NAMES if abs(np.mean(ANCHORS[name]) - ground.mean()) > 60]
    mark = jittered(_one((*far, "white" if ground.mean() < 140 else "black"), rng), rng)
    return Cloth(colour, ground, _one(patterns, rng), mark, rng.uniform(0.035, 0.055))


def _one(values: tuple, rng: np.random.Generator):  # type: ignore[no-untyped-def]
    return values[int(rng.integers(len(values)))]


# Directions of upper arm and forearm, of thigh and shin: radians away from the body's side, radians forward.
ARMS = {
    "down": ((0.14, 0.0), (0.08, 0.2)),
    "loose": ((0.25, -0.1), (0.12, 0.3)),
    "hip": ((0.75, -0.3), (-0.85, 0.25)),
    "forward": ((0.15, 0.7), (0.05, 1.35)),
    "out": ((1.1, 0.0), (1.25, 0.1)),
    "raised": ((2.2, 0.1), (2.8, 0.1)),
    "head": ((1.9, -0.1), (-2.55, 0.1)),
    "across": ((0.15, 0.25), (-1.15, 0.75)),
}
LEGS = {
    "stand": ((0.05, 0.0), (0.02, 0.0)),
    "wide": ((0.2, 0.0), (0.14, 0.0)),
    "fore": ((0.04, 0.42), (0.02, 0.1)),
    "aft": ((0.04, -0.2), (0.02, -0.5)),
    "bent": ((0.16, 0.45), (0.02, -0.35)),
}
HEAD = np.array((0.058, 0.075, 0.064))  # half its width, height and depth
FACE = np.array(
    ((0.0, 0.15), (-0.42, -0.05), (0.42, -0.05), (-1.57, 0.05), (1.57, 0.05))
)  # nose, eyes, ears; see on_head
STANCES = (
    ("stand", "stand"),
    ("stand", "stand"),
    ("wide", "wide"),
    ("fore", "aft"),
    ("aft", "fore"),
    ("bent", "stand"),
)
VIEWS = ("1_front", "2_side", "3_back", "4_full", "7_additional", "5_additional", "8_additional", "9_additional")


@dataclass(frozen=True)
class Pose:
    """How a person stands in one photo. points: joint -> X, Y, Z of the body, before it turns."""

    points: np.ndarray  # 18,3; those of the head are not used
    turn: float  # of the body about its axis, radians: 0 faces us, pi/2 looks to our right
    look: float  # of the head, radians
    lean: float  # sideways, widths a height
    drop: float  # how far bent legs let the body down
    height: float  # of the body in sides of the photo
    corner: np.ndarray  # 2: x of the axis and y of the crown in sides of the photo

    @classmethod
    def draw(cls, person: Person, view: str, rng: np.random.Generator) -> "Pose":
        """A pose of one of VIEWS."""
        side = -1.0 if rng.random() < 0.5 else 1.0
        turns = {
            "front": rng.normal(0, 0.2),
            "side": side * rng.uniform(1.1, 1.75),
            "back": np.pi + rng.normal(0, 0.25),
        }
        turn = turns.get(view[2:], side * (rng.uniform(0, 0.5) if view == "4_full" else rng.uniform(0.2, 2.9)))
        near = view != "4_full" and rng.random() < 0.4  # from the knees up
        height = rng.uniform(1.15, 1.35) if near else rng.uniform(0.84, 0.92)
        points = stance(person, rng)
        return cls(
            points=points,
            turn=turn,
            look=turn + rng.normal(0, 0.25),
            lean=rng.normal(0, 0.05),
            drop=0.955 - points[[NAMED["right ankle"], NAMED["left ankle"]], 1].max(),
            height=height,
            corner=np.array((0.5 + rng.normal(0, 0.015), 0.06 if near else (1 - height) * rng.uniform(0.4, 0.6))),
        )

    def seen(self, points: np.ndarray) -> np.ndarray:
        """...,3 of the body -> ...,3: x to our right and y down in body heights, and how near to us."""
        x, y, z = points[..., 0], points[..., 1], points[..., 2]
        c, s = np.cos(self.turn), np.sin(self.turn)
        x = x * c + z * s + self.lean * np.maximum(0, 0.52 - y)
        return np.stack([x, y + self.drop, z * c - points[..., 0] * s], -1)

    def on_head(self, around: np.ndarray | float, below: np.ndarray | float, out: float = 1.0) -> np.ndarray:
        """A place on the head, `around` to the person's left and `below` its middle in radians, as `seen`; the head's
        silhouette is `out` = 1."""
        around, below = np.broadcast_arrays(np.asarray(around, float) + self.look, below)
        flat = np.stack([np.sin(around) * np.cos(below), np.sin(below), np.cos(around) * np.cos(below)], -1)
        return out * flat * HEAD + self.seen(np.array((0.0, 0.085, 0.0))) * (1, 1, 0)

    def behind(self, side: str) -> bool:
        """Whether the body hides the arm of a side."""
        return self.seen(self.points[[NAMED[f"{side} elbow"], NAMED[f"{side} wrist"]]])[:, 2].mean() < -0.03

    def joints(self, side: int) -> np.ndarray:
        """18,2 int64 in pixels of a photo of this side; -1, -1 where a joint is hidden or outside."""
        body, head = self.seen(self.points), self.on_head(FACE[:, 0], FACE[:, 1])
        shown = np.ones(len(JOINTS), bool)
        places = [NAMED[name] for name in ("nose", "right eye", "left eye", "right ear", "left ear")]
        body[places], shown[places] = head, head[:, 2] > (0, 0, 0, -0.012, -0.012)
        for name in ("right", "left"):
            for joint in (NAMED[f"{name} elbow"], NAMED[f"{name} wrist"]):
                inside = abs(body[joint, 0]) < 0.05 and body[joint, 1] < 0.55 + self.drop
                shown[joint] = not (self.behind(name) and inside)
        pixels = np.floor((body[:, :2] * self.height + self.corner) * side).astype(np.int64)
        shown &= ((pixels >= 0) & (pixels < side)).all(1)
        return np.where(shown[:, None], pixels, -1)


def stance(person: Person, rng: np.random.Generator) -> np.ndarray:
    """18,3: legs and two arms drawn from the lists, each angle a little off."""
    points = np.zeros((len(JOINTS), 3))
    points[NAMED["neck"]] = 0, 0.2, 0
    arms = _one(tuple(ARMS), rng), _one(tuple(ARMS), rng)
    arms = (arms[0], arms[0]) if rng.random() < 0.35 else arms
    legs = _one(STANCES, rng)
    for side, name, arm, leg in ((-1, "right", arms[0], legs[0]), (1, "left", arms[1], legs[1])):
        for chain, start, lengths, angles in (
            (("shoulder", "elbow", "wrist"), (side * person.shoulders, 0.205, 0), (0.155, 0.14), ARMS[arm]),
            (("hip", "knee", "ankle"), (side * 0.66 * person.hips, 0.52, 0), (0.22, 0.215), LEGS[leg]),
        ):
            at = points[NAMED[f"{name} {chain[0]}"]] = np.array(start)
            for joint, length, (out, forward) in zip(chain[1:], lengths, angles, strict=True):
                out, forward = np.array((out, forward)) + rng.normal(0, 0.07, 2)
                way = np.array((side * np.sin(out), np.cos(out), np.tan(np.clip(forward, -1.4, 1.4))))
                at = points[NAMED[f"{name} {joint}"]] = at + length * way / np.linalg.norm(way)
    return points
