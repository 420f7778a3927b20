"""CUB's 312 attributes: names in the official order, what holds of a drawn bird, and labels with synthetic noise."""

import numpy as np

from common.data.procedural.birds import WATER, Pose, Species

_COLOURS = "blue brown iridescent purple rufous grey yellow olive green pink orange black white red buff"
_PATTERNS = "solid spotted striped multi-colored"
# group -> its values, in the order of attributes.txt: 28 groups
GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(values.split())
    for group, values in (
        ("bill_shape", "curved_(up_or_down) dagger hooked needle hooked_seabird spatulate all-purpose cone "
         "specialized"),
        ("wing_color", _COLOURS),
        ("upperparts_color", _COLOURS),
        ("underparts_color", _COLOURS),
        ("breast_pattern", _PATTERNS),
        ("back_color", _COLOURS),
        ("tail_shape", "forked_tail rounded_tail notched_tail fan-shaped_tail pointed_tail squared_tail"),
        ("upper_tail_color", _COLOURS),
        ("head_pattern", "spotted malar crested masked unique_pattern eyebrow eyering plain eyeline striped capped"),
        ("breast_color", _COLOURS),
        ("throat_color", _COLOURS),
        ("eye_color", _COLOURS.replace(" iridescent", "")),
        ("bill_length", "about_the_same_as_head longer_than_head shorter_than_head"),
        ("forehead_color", _COLOURS),
        ("under_tail_color", _COLOURS),
        ("nape_color", _COLOURS),
        ("belly_color", _COLOURS),
        ("wing_shape", "rounded-wings pointed-wings broad-wings tapered-wings long-wings"),
        ("size", "large_(16_-_32_in) small_(5_-_9_in) very_large_(32_-_72_in) medium_(9_-_16_in) "
         "very_small_(3_-_5_in)"),
        ("shape", "upright-perching_water-like chicken-like-marsh long-legged-like duck-like owl-like gull-like "
         "hummingbird-like pigeon-like tree-clinging-like hawk-like sandpiper-like upland-ground-like swallow-like "
         "perching-like"),
        ("back_pattern", _PATTERNS),
        ("tail_pattern", _PATTERNS),
        ("belly_pattern", _PATTERNS),
        ("primary_color", _COLOURS),
        ("leg_color", _COLOURS),
        ("bill_color", _COLOURS),
        ("crown_color", _COLOURS),
        ("wing_pattern", _PATTERNS),
    )
}  # fmt: skip
NAMES = tuple(f"has_{group}::{value}" for group, values in GROUPS.items() for value in values)  # 312
GROUP_OF = np.repeat(np.arange(len(GROUPS)), [len(values) for values in GROUPS.values()])  # 312: number of its group
CERTAINTIES = ("not visible", "guessing", "probably", "definitely")  # 1, 2, 3, 4 in the label file
DROPPED = 0.25  # true labels that are missed, for each wrong one


def true_attributes(species: Species, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """What is to be seen in one picture: present 312 bool, visible 312 bool (legs may be hidden)."""
    c = species.colours
    hidden = {"leg_color"} if pose.place in ("air", WATER) else set()
    values = {
        **{f"{part}_color": {c[part]} for part in ("wing", "belly", "crown", "leg", "bill", "eye")},
        **{f"{part}_color": {c["body"]} for part in ("back", "throat", "nape", "primary")},
        **{f"{part}_color": {c["belly"]} for part in ("underparts", "breast")},
        **{f"{part}_tail_color": {c["tail"]} for part in ("upper", "under")},
        "upperparts_color": {c["body"], c["wing"]},
        "forehead_color": {c["crown"]},
        "bill_shape": {species.bill},
        "bill_length": {species.bill_length},
        "tail_shape": {species.tail},
        "wing_shape": {species.wing},
        "head_pattern": {species.head} | ({"capped"} if c["crown"] != c["body"] else set()),
        "size": {species.size},
        "shape": {species.shape},
        "back_pattern": {"solid"},
        "breast_pattern": {species.belly_pattern},
        "belly_pattern": {species.belly_pattern},
        "tail_pattern": {species.tail_pattern},
        "wing_pattern": {species.wing_pattern},
    }
    present = [value in values[group] and group not in hidden for group, vs in GROUPS.items() for value in vs]
    visible = [group not in hidden for group, vs in GROUPS.items() for _ in vs]
    return np.array(present), np.array(visible)


def with_noise(
    true: np.ndarray, visible: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Labels as a crowd would give them: present N,A bool, certainty N,A uint8 in 1..4.

    true, visible: N,A bool. For each attribute, some true labels are dropped (DROPPED * share of them), then wrong ones
    are added at random, until they are `share` of the labelled positives. Wrong labels are less certain on average.
    """
    labelled = true.copy()
    for a in range(true.shape[1]):
        right, free = np.flatnonzero(true[:, a]), np.flatnonzero(~true[:, a] & visible[:, a])
        gone = rng.permutation(right)[: round(DROPPED * share * len(right))]
        labelled[gone, a] = False
        wrong = round((len(right) - len(gone)) * share / (1 - share))
        labelled[rng.permutation(free)[:wrong], a] = True
    draw = rng.random(true.shape)
    doubtful = labelled != true
    certainty = 2 + (draw > np.where(doubtful, 0.35, 0.08)).astype(np.uint8) + (draw > np.where(doubtful, 0.7, 0.3))
    return labelled, np.where(visible, certainty, 1).astype(np.uint8)


def label_lines(image: int, present: np.ndarray, certainty: np.ndarray, seconds: np.ndarray) -> str:
    """312 lines `<image id> <attribute id> <is present> <certainty id> <time>`; seconds: one for each group."""
    times = [f"{value:.3f}" for value in seconds.tolist()]
    columns = zip(present.astype(int).tolist(), certainty.tolist(), GROUP_OF.tolist(), strict=True)
    return "".join(f"{image} {a} {p} {c} {times[g]}\n" for a, (p, c, g) in enumerate(columns, 1))
