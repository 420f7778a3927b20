"""Drawn people: the same bytes whatever draws them, one identity from all sides, key points where the body is."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.poses import LIMBS, NAMED
from common.data.procedural import people, person_shapes
from common.data.procedural.colours import ANCHORS, NAMES, lab
from common.data.procedural.people import (
    BOTTOM,
    CUTS,
    FACE,
    FEATURES,
    HAIR,
    PARTS,
    SKIN,
    TOP,
    VIEWS,
    Person,
    Pose,
    dress,
)
from common.data.procedural.write_deepfashion import write_people
from common.data.readers.deepfashion import DeepFashion
from common.data.readers.fashion_names import FOLDERS, group, item
from common.data.records import Records
from common.errors import UserError
from tests.worlds.layouts import refusal

PEOPLE = {"images": 96, "identities": 24, "side": 64, "seed": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("people") / "drawn"
    write_people(place, **PEOPLE, workers=0)
    return place


@pytest.fixture(scope="module")
def records(root: Path) -> Records:
    return DeepFashion(root=root).read()


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def parts_of(root: Path, key: str) -> np.ndarray:
    return np.asarray(Image.open(root / f"truth/parts/{key}.png"))


def photo(person: Person, pose: Pose, side: int = 128) -> tuple[np.ndarray, np.ndarray]:
    picture = person_shapes.picture(person, pose, side, 1, np.random.default_rng(0))
    return np.asarray(picture.image, float), picture.parts


def posed(person: Person, seed: int, view: str = "4_full", **changes: object) -> Pose:
    pose = Pose.draw(person, view, np.random.default_rng(seed))
    return Pose(**{**vars(pose), **changes})


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_same_bytes_for_any_number_of_workers(root: Path, tmp_path: Path):
    write_people(tmp_path / "again", **PEOPLE, workers=2)
    assert files(tmp_path / "again") == files(root)
    write_people(tmp_path / "other", **PEOPLE | {"seed": 4}, workers=0)
    assert files(tmp_path / "other") != files(root)


def test_they_are_drawn_once_and_nothing_is_overwritten(root: Path):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    write_people(root, **PEOPLE)
    assert before == {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    with pytest.raises(UserError, match="something else than these people"):
        write_people(root, **PEOPLE | {"seed": 4})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": 40}, "40 people of 24 identities .* 2 images or more of each"),
        ({"images": 200}, "200 photos of 24 identities are more than 8 of each.*ask for 25 identities"),
        ({"identities": 2, "images": 8}, "ask for 3 identities or more"),
        ({"side": 8}, "a side of 16 or more"),
    ],
)
def test_impossible_counts_are_a_sentence(tmp_path: Path, change: dict[str, int], sentence: str):
    message = refusal(lambda: write_people(tmp_path / "none", **PEOPLE | change))
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(message)
    assert not (tmp_path / "none").exists()


def test_the_real_reader_reads_them(root: Path, records: Records):
    assert records.procedural
    assert (len(records), records.expected, records.notes) == (96, 96, ())
    assert records.identities is not None
    assert np.bincount(records.identities).tolist() == [4] * 24
    assert records.classes == FOLDERS
    assert len({item(key) for key in records.keys}) < 24  # some garments come in two colours
    paired = {split: len(pairs) for split, pairs in records.pose_pairs.items()}
    assert sum(paired.values()) == 24 * 4 * 3
    assert 0.02 < paired["test"] / 288 < 0.2
    assert paired["val"] == (paired["train"] + paired["val"]) // 20
    items = np.array([item(key) for key in records.keys])
    assert not set(items[records.test]) & set(items[~records.test])
    inshop = DeepFashion(root=root, split="inshop").read()
    assert np.array_equal(inshop.test, records.test)
    assert {Image.open(path).size for path in records.images} == {(64, 64)}


# --- identities -------------------------------------------------------------------------------------------------------


def test_clothes_are_kept_from_pose_to_pose(root: Path, records: Records):
    """Mean colours of a garment differ less within an identity than between two, and are those of the truth."""
    truth = json.loads((root / "truth/truth.json").read_text())
    assert truth["parts"] == list(PARTS)
    means: dict[int, list[np.ndarray]] = {}
    told: list[float] = []
    assert records.identities is not None
    for row, key in enumerate(records.keys):
        parts, pixels = parts_of(root, key), np.asarray(Image.open(records.images[row]), float)
        colour = truth["images"][key]
        assert set(colour.values()) <= set(NAMES)
        if (parts == TOP).sum() > 60:
            cloth = pixels[parts == TOP]
            means.setdefault(int(records.identities[row]), []).append(cloth.mean(0))
            told.append(np.mean(np.linalg.norm(lab(cloth) - lab(np.array(ANCHORS[colour["top"]])), axis=1) < 25))
    assert np.median(told) > 0.45
    assert np.mean(np.array(told) > 0.15) > 0.9  # the rest is pattern, edges, and what an open jacket shows
    own = [np.linalg.norm(a - b) for each in means.values() for a, b in combinations(each, 2)]
    centres = [np.mean(each, 0) for each in means.values()]
    other = [np.linalg.norm(a - b) for a, b in combinations(centres, 2)]
    assert np.median(own) < 0.25 * np.median(other)
    assert len({group(key) for key in truth["images"]}) == 24


def test_a_second_colour_is_the_same_person_in_other_clothes():
    rng = np.random.default_rng(0)
    first = dress("WOMEN/Dresses", None, rng)
    second = dress("WOMEN/Dresses", first, rng)
    for name in ("skin", "hair", "style", "shoulders", "sleeve", "leg", "wall", "shoes"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert first.top is not second.top


def test_every_folder_has_its_clothes():
    assert tuple(sorted(CUTS)) == FOLDERS
    for n, folder in enumerate(FOLDERS):
        person = dress(folder, None, np.random.default_rng(n))
        _, parts = photo(person, posed(person, n))
        seen = set(np.unique(parts))
        assert {SKIN, TOP} <= seen, folder
        assert CUTS[folder].whole == (BOTTOM not in seen), folder
        assert set(person.colours) == {"top", "bottom"}


def test_patterns_and_faces_are_seen():
    """What losing appearance would lose: marks on the cloth, from the front and from behind, and a face."""
    rng = np.random.default_rng(1)
    person = dress("WOMEN/Tees_Tanks", None, rng)
    for pattern in ("stripes", "pinstripes", "checks", "dots"):
        cloth = people.Cloth("white", np.array((245.0, 245, 245)), pattern, np.array((20.0, 20, 20)), 0.045)
        patterned = Person(**{**vars(person), "top": cloth, "sleeve": 0.3})
        for turn in (0.0, np.pi):
            pixels, parts = photo(patterned, posed(patterned, 5, turn=turn, look=turn))
            top = pixels[parts == TOP].mean(1)
            assert 0.08 < (top < 120).mean() < 0.8, (pattern, turn)
    front = photo(person, posed(person, 5, turn=0.0, look=0.0))[1]
    back = photo(person, posed(person, 5, turn=np.pi, look=np.pi))[1]
    assert (front == FEATURES).sum() > 8 > 0 == (back == FEATURES).sum()
    long = Person(**{**vars(person), "style": "long"})
    assert (photo(long, posed(long, 5, turn=np.pi, look=np.pi))[1] == HAIR).sum() > (front == HAIR).sum() > 0


def test_a_mirrored_view_is_the_mirrored_picture():
    """The turned body seen from the other side: each pixel of the one is at its mirrored place in the other."""
    person = dress("MEN/Sweaters", None, np.random.default_rng(2))
    pose = posed(person, 3, turn=0.8, look=0.9, lean=0.04)
    swap = list(np.arange(18))
    for a, b in ((2, 5), (3, 6), (4, 7), (8, 11), (9, 12), (10, 13)):
        swap[a], swap[b] = b, a
    corner = np.array((1 - pose.corner[0], pose.corner[1]))
    other = posed(person, 3, points=pose.points[swap] * (-1, 1, 1), turn=-0.8, look=-0.9, lean=-0.04, corner=corner)
    one, two = photo(person, pose)[1], photo(person, other)[1]
    assert (one == two[:, ::-1]).mean() > 0.985
    assert (one > 0).mean() > 0.08


# --- key points -------------------------------------------------------------------------------------------------------


def test_joints_lie_on_the_body(root: Path, records: Records):
    """In pixels of the photo, on what is drawn of the part that they belong to, or a pixel from it."""
    on, near = [], []
    assert records.joints is not None
    for key, joints in zip(records.keys, records.joints // 4, strict=True):
        parts = parts_of(root, key)
        for x, y in joints[joints[:, 0] >= 0]:
            on.append(parts[y, x] > 0)
            near.append((parts[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] > 0).any())
    assert np.mean(on) > 0.97
    assert np.mean(near) > 0.995
    present = (records.joints[:, :, 0] >= 0).mean(0)
    assert (present[[1, 2, 5, 8, 11]] > 0.9).all()  # the trunk
    assert 0.4 < present.mean() < 0.95
    assert (present[[0, 10, 13, 14, 15]] < 0.9).all()  # from behind, and cut off below the knees


def test_left_and_right_as_the_person_has_them():
    person = dress("WOMEN/Pants", None, np.random.default_rng(4))
    front = posed(person, 6, turn=0.0, look=0.0).joints(256)
    back = posed(person, 6, turn=np.pi, look=np.pi).joints(256)
    for a, b in (("right shoulder", "left shoulder"), ("right hip", "left hip"), ("right ear", "left ear")):
        assert front[NAMED[a], 0] < front[NAMED[b], 0]
        assert back[NAMED[a], 0] > back[NAMED[b], 0]
    assert (back[[NAMED[name] for name in ("nose", "right eye", "left eye")]] == -1).all()
    side = posed(person, 6, turn=np.pi / 2, look=np.pi / 2).joints(256)
    assert (side[NAMED["nose"]] >= 0).all()  # looks to our right: the right half of the face is towards us
    assert (side[NAMED["right ear"]] >= 0).all()
    assert (side[NAMED["left ear"]] == -1).all()
    assert side[NAMED["nose"], 0] > side[NAMED["right ear"], 0]


def test_poses_are_varied_and_within_human_bounds():
    person = dress("MEN/Pants", None, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    poses = [Pose.draw(person, VIEWS[k % 8], rng) for k in range(160)]
    for pose in poses:
        for a, b in LIMBS[2:6]:
            assert np.linalg.norm(pose.points[a] - pose.points[b]) == pytest.approx(0.155 if a in (2, 5) else 0.14)
        assert pose.seen(pose.points[[10, 13]])[:, 1].max() == pytest.approx(0.955)  # on the ground
    wrists = np.array([pose.joints(256)[4] for pose in poses])
    assert wrists[wrists[:, 0] >= 0].std(0).min() > 25
    backs = [pose.joints(256)[0, 0] < 0 for pose in poses]
    assert 0.15 < np.mean(backs) < 0.6
    assert len(FACE) == 5
