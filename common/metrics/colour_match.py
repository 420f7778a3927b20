"""The control metric: does the colour of each part of an edited picture match the sentence?

It is exact on procedural data, where it is known which pixel belongs to which part of the bird or flower.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage
from torch import Tensor

from common.data.geometry import centre_crop, fitted, square_about
from common.data.procedural.colours import NAMES, distance, nearest
from common.data.records import Records
from common.errors import UserError

FEWEST_PIXELS = 8  # of a part, for its colour to be judged
# not bill, legs and eyes, which are so thin at 64 px that they show the background; nor leaves, which are always green
JUDGED = frozenset({"body", "wing", "belly", "crown", "tail", "petals", "centre"})

# words -> part of the drawings, or colour; what is not drawn apart is counted to what holds it
_PARTS = {
    "body": "bird birds body",
    "wing": "wing wings",
    "belly": "belly breast chest underparts underside stomach abdomen",
    "crown": "crown crest cap",
    "tail": "tail",
    "bill": "bill beak",
    "leg": "leg legs feet foot tarsus tarsi",
    "petals": "flower flowers petal petals blossom bloom",
    "centre": "center centre middle disc disk",
    "leaf": "leaf leaves stem stems",
}
PART_OF = {word: part for part, words in _PARTS.items() for word in words.split()}
COLOUR_OF = {name: name for name in NAMES} | {"gray": "grey", "tan": "buff", "beige": "buff", "violet": "purple"}
OTHER_COLOURS = set("rufous iridescent golden gold silver cream teal turquoise maroon magenta lavender".split())
# an unknown word that is none of these stands for an adjective or adverb between a colour and its noun
STOPS = set(
    "with has have having is are was that which and or but while except its their the this a an of in on , . ;".split()
)
VERBS = ("is", "are", "was")
REACH = 4  # words between a colour and its noun, or a verb and its colour


def named_colours(sentence: str) -> dict[str, str]:
    """Part -> colour, for every part that the sentence gives one plain colour ("a red bird with white wings").

    Colours stand before their noun ("white wings and tail", "short black bill") or after a verb ("the wings are white",
    "this bird is mostly red in color"). A part of two colours ("black and white wings"), or of one that is not drawn,
    is left out. "Bird" names the body, "flower" the petals.
    """
    words = re.findall(r"[a-z]+|[,.;]", sentence.lower())
    found: dict[str, set[str | None]] = defaultdict(set)
    at = 0
    while at < len(words):
        if not _is_colour(words[at]):
            at += 1
            continue
        end, colours = _run_of_colours(words, at)
        parts = _nouns_after(words, end) or _subject_before(words, at)
        for part in parts:
            found[part] |= colours
        at = end
    return {part: colour for part, colours in found.items() if len(colours) == 1 and (colour := next(iter(colours)))}


def _is_colour(word: str) -> bool:
    return word in COLOUR_OF or word in OTHER_COLOURS


def _run_of_colours(words: Sequence[str], at: int) -> tuple[int, set[str | None]]:
    """Colours that belong together ("black, white and red", "grey brown"): the index after them, and their names."""
    colours: set[str | None] = set()
    joints = ("and",) if at and words[at - 1] in VERBS else ("and", ",")  # "petals are pink, orange stamen": two things
    while at < len(words) and _is_colour(words[at]):
        colours.add(COLOUR_OF.get(words[at]))
        at += 1
        joint = at
        while joint < len(words) and words[joint] in joints:
            joint += 1
        if joint < len(words) and _is_colour(words[joint]):
            at = joint
    return at, colours


def _nouns_after(words: Sequence[str], at: int) -> list[str]:
    """The parts that colours just before `at` are attributes of."""
    for k in range(at, min(at + REACH, len(words))):
        if words[k] in PART_OF:
            joined = words[k + 1 : k + 4]  # "wings and tail", but not "wings and tail is ..."
            second = (
                len(joined) > 1 and joined[0] == "and" and joined[1] in PART_OF and joined[2:3] not in (["is"], ["are"])
            )
            return [PART_OF[words[k]]] + ([PART_OF[joined[1]]] if second else [])
        if words[k] in STOPS or _is_colour(words[k]):
            break
    return []


def _subject_before(words: Sequence[str], at: int) -> list[str]:
    """The part that colours from `at` on are said of: "the body of this bird is mostly red"."""
    for verb in range(at - 1, max(at - 1 - REACH, -1), -1):
        if words[verb] in VERBS:
            nouns = [k for k in range(max(0, verb - REACH), verb) if words[k] in PART_OF]
            whole = [k for k in nouns if "of" in words[k + 1 : k + 2]]  # "the wings of the bird": the wings
            return [PART_OF[words[(whole or nouns)[-1]]]] if nouns else []
        if words[verb] in PART_OF or words[verb] in (",", ".", ";", "with"):
            break
    return []


def inner(region: np.ndarray) -> np.ndarray:
    """The region without its outermost pixels, which mix with what lies beside, where that leaves enough. H,W bool."""
    core = ndimage.binary_erosion(region)
    return core if core.sum() >= FEWEST_PIXELS else region


class ColourMatch:
    """Share of the parts named in the sentences whose colour in the picture is the named one.

    A part's colour is the median of the picture over the pixels where the source shows this part, which an edit leaves
    in place; it counts as the colour whose anchor is nearest in CIELAB. All 13 names are told apart. Parts: JUDGED.

    records: drawn by common/data/procedural. load_ratio, bbox_crop: as the data module was told, so that the map of
    parts is cut like the picture. Raises UserError for real data.
    """

    def __init__(self, records: Records, *, load_ratio: float = 76 / 64, bbox_crop: bool = False) -> None:
        places = [folder / "truth" for folder in (records.root, *records.root.parents[:2])]
        found = [folder for folder in places if (folder / "truth.json").is_file()]
        if not found:
            raise UserError(
                f"there is no truth/truth.json beside {records.root}: the colours of parts are known only of drawn "
                "pictures (data.source=procedural)."
            )
        self.records, self.folder = records, found[0]
        self.load_ratio, self.bbox_crop = load_ratio, bbox_crop
        self.parts: list[str] = json.loads((self.folder / "truth.json").read_text())["parts"]
        self.judged = JUDGED.intersection(self.parts)
        self.right: Counter[str] = Counter()
        self.all: Counter[str] = Counter()
        self.distances: list[float] = []

    def update(self, images: Tensor, rows: Tensor, sentences: Sequence[str]) -> None:
        """images: B,3,S,S float in [-1, 1]; rows: B int64, the source of each image; sentences: B."""
        pixels = ((images.detach().float().clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).cpu().numpy()
        for image, row, sentence in zip(pixels, rows.tolist(), sentences, strict=True):
            named = {part: colour for part, colour in named_colours(sentence).items() if part in self.judged}
            seen = self.part_map(row, image.shape[0])
            for part, colour in named.items():
                inside = inner(seen == self.parts.index(part))
                if inside.sum() >= FEWEST_PIXELS:
                    shown = np.median(image[inside], axis=0)
                    self.all[part] += 1
                    self.right[part] += int(NAMES[int(nearest(shown))] == colour)
                    self.distances.append(distance(shown, colour))

    def part_map(self, row: int, size: int) -> np.ndarray:
        """S,S uint8: the parts of an image, by the geometry of the test images (nearest neighbour)."""
        with Image.open(self.folder / "parts" / f"{self.records.keys[row]}.png") as file:
            parts = file.convert("L")
        if self.bbox_crop:
            assert self.records.boxes is not None
            parts = parts.crop(square_about(self.records.boxes[row], *parts.size))
        load_size = max(size, round(size * self.load_ratio))
        return centre_crop(np.asarray(parts.resize(fitted(*parts.size, load_size), Image.Resampling.NEAREST)), size)

    def compute(self) -> dict[str, float]:
        """colour_match over all (image, named part), colour_match_<part> for each part that was named, n of them.

        colour_distance: mean CIELAB distance from the named colour, which moves before the nearest name changes.
        """
        n = sum(self.all.values())
        shares = {f"colour_match_{part}": self.right[part] / count for part, count in sorted(self.all.items())}
        if not n:
            return {"colour_match": float("nan"), "colour_distance": float("nan"), "n": 0}
        totals = {"colour_match": sum(self.right.values()) / n, "colour_distance": float(np.mean(self.distances))}
        return totals | shares | {"n": n}


class ColourMatches:
    """The control metric on procedural data: do the colours of the edit match its sentence? The source photo, which
    ignores the sentence, gives the level of chance."""

    def __init__(self, data: Any) -> None:
        ratio = data.load_size / data.image_size
        self.edit, self.source = (
            ColourMatch(data.records, load_ratio=ratio, bbox_crop=data.bbox_crop) for _ in range(2)
        )

    def update(self, batch: Mapping[str, Any], images: Tensor, sentences: Sequence[str]) -> None:
        """A batch of generated images and the sentences that they are to show."""
        self.edit.update(images, batch["row"], sentences)
        self.source.update(batch["image"], batch["row"], sentences)

    def compute(self) -> dict[str, float]:
        source = self.source.compute()
        return {**self.edit.compute(), "colour_match_of_source": source["colour_match"]}

    def protocol(self) -> dict[str, Any]:
        """What the numbers depend on."""
        return {"colour_match": "share of the parts named by the sentence whose colour in the edit is the named one"}
