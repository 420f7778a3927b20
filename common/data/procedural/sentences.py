"""Sentences about drawn birds and flowers, in the manner of the ten that people wrote for each photo of CUB and
Oxford-102: some long, some short, often without a full stop, with two spellings of some colours."""

from collections.abc import Sequence

import numpy as np

from common.data.procedural import birds, flowers
from common.data.procedural.birds import LONG, SAME, SHORT, WATER

SPELLINGS = {"grey": ("grey", "gray"), "buff": ("buff", "tan", "beige"), "purple": ("purple", "purple", "violet")}
SIZES = {
    birds.TINY: ("tiny", "very small"),
    birds.SMALL: ("small", "little", "small"),
    birds.MEDIUM: ("medium sized", "medium-sized"),
    birds.LARGE: ("large", "big"),
}
LENGTHS = {SHORT: ("short", "small", "tiny"), SAME: ("medium length", "thick"), LONG: ("long", "very long")}
BILLS = {
    "cone": "cone shaped", "all-purpose": "pointed", "needle": "thin", "dagger": "sharp", "hooked": "hooked",
    "hooked_seabird": "hooked", "spatulate": "flat", "curved_(up_or_down)": "curved",
}  # fmt: skip
BIRD = (  # {more} becomes "", " and a black bill", ", a black bill and ..."
    "this bird is {body} with {wing} wings{more}",
    "this bird is {body} with {wing} {wings}{more}",
    "a {size} {body} bird with {wing} wings{more}",
    "a {body} bird with {wing} {wings}{more}",
    "{body} bird with {wing} wings{more}",
    "this {size} bird has a {body} body, {wing} wings{more}",
    "the bird has {wing} wings and a {body} body{more}",
    "this bird is {body} in color, with {wing} wings{more}",
    "a {body} bird that has {wing} wings{more}",
    "this {body} bird has {wing} wings{more}",
    "the body of this bird is {body} and its wings are {wing}",
    "the wings of the bird are {wing} while its body is mostly {body}",
    "this is a {size} bird with a {body} body, {wing} {wings}{more}",
    "a mostly {body} bird with {wing} wings",
    "this is a {size} {body} bird with {one}{more}",
    "this bird is mostly {body} and has {one}{more}",
    "the {size} {body} bird has {one}{more}",
)
FLOWER = (
    "this flower has {petals} petals with a {centre} {middle}",
    "this flower has {shape} {petals} petals and a {centre} {middle}",
    "this flower has {count} {petals} petals surrounding a {centre} {middle}",
    "the petals of this flower are {petals} and the {middle} is {centre}",
    "the petals of the flower are {petals} in color with a {centre} {middle}",
    "a {petals} flower with a {centre} {middle}",
    "a flower with {shape} {petals} petals and a {size} {centre} {middle}",
    "this {petals} flower has {shape} petals and a {centre} {middle}",
    "the flower has petals that are {petals} with a {middle} that is {centre}",
    "this flower is {petals} and has a {centre} {middle}",
    "the flower shown has {count} {petals} petals",
    "this flower has {petals} petals that are {shape}, {leaf}",
    "a {petals} flower with {count} petals, {leaf}",
    "{layers} of {petals} petals around a {centre} {middle}",
)
COUNTS = ("four", "five", "six", "seven", "eight")
SHAPES = {
    "rounded": ("rounded", "smooth"), "pointed": ("pointed", "pointy"), "narrow": ("long thin", "narrow"),
    "notched": ("wide", "notched"),
}  # fmt: skip


def _one(values: Sequence[str], rng: np.random.Generator) -> str:
    return values[int(rng.integers(len(values)))]


def _colour(name: str, rng: np.random.Generator) -> str:
    return _one(SPELLINGS.get(name, (name,)), rng)


def _finished(sentence: str, rng: np.random.Generator) -> str:
    """With "an" before vowels; with or without a full stop."""
    words = sentence.split(" ")
    for k, word in enumerate(words[:-1]):
        if word in ("a", "an"):
            words[k] = "an" if words[k + 1][0] in "aeiou" else "a"
    return " ".join(words) + ("." if rng.random() < 0.6 else "")


def _templates(all_: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """`count` templates, none twice as long as there are others."""
    return [all_[int(k)] for _ in range(-(-count // len(all_))) for k in rng.permutation(len(all_))][:count]


def of_bird(species: birds.Species, pose: birds.Pose, rng: np.random.Generator, count: int = 10) -> list[str]:
    """Sentences that are true of the picture. All name the body's colour, four of five that of the wings."""
    colours = species.colours
    sentences = []
    for template in _templates(BIRD, count, rng):
        both = "{wings}" in template and colours["tail"] == colours["wing"]  # "wings and tail"
        details = [str(d) for d in rng.permutation(_details(species, pose, rng)) if not (both and d.endswith(" tail"))]
        extra = details[1 : 1 + int(rng.choice(3, p=(0.25, 0.45, 0.3)))]
        listed = "body, {wing}" in template  # ", white wings" asks for an "and" before the last
        if listed and not extra:
            template = template.replace(", {wing}", " and {wing}")
        more = f", {extra[0]}, and {extra[1]}" if len(extra) == 2 else f"{',' * listed} and {extra[0]}" if extra else ""
        sentence = template.format(
            body=_colour(colours["body"], rng),
            wing=_colour(colours["wing"], rng),
            wings="wings and tail" if both else "wings",
            size=_one(SIZES[species.size], rng),
            one=details[0],
            more=more,
        )
        sentences.append(_finished(sentence, rng))
    return sentences


def _details(species: birds.Species, pose: birds.Pose, rng: np.random.Generator) -> list[str]:
    """Phrases about other parts, each true of the picture."""
    c = {part: _colour(name, rng) for part, name in species.colours.items()}
    pattern = {"solid": "", "spotted": "spotted ", "striped": "striped "}
    belly = f"a {pattern[species.belly_pattern]}{c['belly']} {_one(('belly', 'breast', 'belly', 'chest'), rng)}"
    crown = "crest" if species.head == "crested" else "crown"
    length, shape = _one(LENGTHS[species.bill_length], rng), BILLS[species.bill]
    bill = f"a {_one((length, shape, f'{length} {shape}'), rng)} {c['bill']} {_one(('bill', 'beak'), rng)}"
    tail = f"a {species.tail.removesuffix('_tail').replace('-', ' ')} {c['tail']} tail"
    found = [belly, f"a {c['crown']} {crown}", bill, tail]
    if species.head == "eyering":
        found.append("a white eyering")
    if pose.place not in ("air", WATER):
        found.append(f"{c['leg']} {_one(('legs', 'feet'), rng)}")
    return found


def of_flower(species: flowers.Species, rng: np.random.Generator, count: int = 10) -> list[str]:
    """Sentences that are true of the picture. All name the petals' colour, most that of the centre."""
    sentences = []
    for template in _templates(FLOWER, count, rng):
        c = {part: _colour(name, rng) for part, name in species.colours.items()}
        number = COUNTS[species.petals - 4] if species.petals < 9 else "many"
        sentence = template.format(
            petals=c["petals"],
            centre=c["centre"],
            middle=_one(("center", "centre", "disc", "center"), rng),
            shape=_one(SHAPES[species.outline], rng),
            size="large" if species.disc > 0.32 else "small",
            count=number if species.layers == 1 else "several",
            layers="two layers" if species.layers == 2 else "a ring",
            leaf=_one(("and green leaves", "with a green stem", "with green leaves on its stem"), rng),
        )
        sentences.append(_finished(sentence, rng))
    return sentences
