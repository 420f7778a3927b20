"""Photos, key points and pairs of PG2, as Python 2 pickled them, and VUNet's index; what is refused (papers/ggb.md)."""

import pickle
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.data.pose_pairs import ordered_pairs
from common.data.poses import NAMED
from common.data.readers.deepfashion import DeepFashion
from common.data.readers.fashion_csv import write_joints
from common.data.readers.fashion_names import flat, group
from common.data.readers.fashion_pickles import PEAKS, PEOPLE
from common.data.readers.old_formats import read_pickle
from tests.worlds.layouts import refusal

VIEWS = ("1_front", "2_side", "3_back", "4_full")
TRAIN = [f"WOMEN/Tees_Tanks/id_0000000{n}/01_{view}" for n in (1, 2, 3) for view in VIEWS]
TEST = [f"MEN/Denim/id_0000000{n}/02_{view}" for n in (7, 8) for view in VIEWS]


def python2(value: Any) -> bytes:
    """Protocol 0 as Python 2 and its NumPy wrote it."""

    def body(value: Any) -> bytes:
        if isinstance(value, dict):
            return b"(d" + b"".join(body(k) + body(v) + b"s" for k, v in value.items())
        if isinstance(value, list):
            return b"(l" + b"".join(body(v) + b"a" for v in value)
        if isinstance(value, tuple):
            return b"(" + b"".join(map(body, value)) + b"t"
        if isinstance(value, np.ndarray):
            state = body((1, value.shape))[:-1] + dtype(value.dtype) + b"I00\n" + body(value.tobytes()) + b"t"
            return b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR" + state + b"b"
        if isinstance(value, np.generic):
            return b"cnumpy.core.multiarray\nscalar\n(" + dtype(value.dtype) + body(value.tobytes()) + b"tR"
        if isinstance(value, bytes | str):
            return b"S" + repr(value).removeprefix("b").encode() + b"\n"
        return (b"F%r\n" if isinstance(value, float) else b"I%d\n") % value

    def dtype(kind: np.dtype) -> bytes:
        return b"cnumpy\ndtype\n(" + body(kind.str[1:]) + b"I0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"

    return body(value) + b"."


def peaks_of(key: str) -> list[list[tuple]]:
    """Two peaks of each joint, the first at `first(key)`; no right wrist; the left eye outside the photo."""
    joints = [
        [
            (np.int64(x), np.int64(y), np.float32(0.9), np.int64(2 * k)),
            (np.int64(9), np.int64(8), np.float32(1), np.int64(2 * k + 1)),
        ]
        for k, (x, y) in enumerate(first(key))
    ]
    joints[NAMED["right wrist"]] = []
    joints[NAMED["left eye"]] = [(256, 3, 0.5, 99)]
    return joints


def first(key: str) -> np.ndarray:
    return np.random.default_rng(sum(key.encode())).integers(20, 236, (18, 2))


def seen(key: str) -> np.ndarray:
    joints = first(key)
    joints[[NAMED["right wrist"], NAMED["left eye"]]] = -1
    return joints


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (256, 256), (200, 90, 30)).save(path)


def make_pg2(root: Path, *, pairs: bool = True, peaks: bool = True) -> Path:
    home = root / "DF_img_pose"
    for part, keys in (("train", TRAIN), ("test", TEST)):
        for key in keys:
            photo(home / f"filted_up_{part}" / flat(key))
        if pairs:
            put(home / f"DF_{part}_data/p_pairs_{part}.p", [list(map(flat, pair)) for pair in ordered_pairs(keys)[::2]])
    photo(home / "filted_up_train_flip" / flat(TRAIN[0]).replace("1front", "1frontflip"))
    if peaks:
        put(home / PEAKS, {flat(key): peaks_of(key) for key in TRAIN + TEST})
        put(home / PEOPLE, {flat(key): np.ones((2, 20)) for key in TRAIN + TEST})
    return home


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(python2(value))


def has(message: str, *words: str) -> None:
    for word in words:
        assert word in message, message
    assert message.endswith(".")
    assert "\n" not in message


# --- pickles ----------------------------------------------------------------------------------------------------------


def test_python_2_is_read_and_so_is_python_3(tmp_path: Path):
    value = {"a": [1, 2.5, (np.int64(3), np.float32(0.5))], "b": np.array([[1.0, -2.0]])}
    for content in (python2(value), *(pickle.dumps(value, protocol) for protocol in range(5))):
        (tmp_path / "x.p").write_bytes(content)
        found = read_pickle(tmp_path / "x.p")
        assert found["a"] == value["a"]
        assert np.array_equal(found["b"], value["b"])


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return eval, (f"open({str(self.target)!r}, 'w')",)


@pytest.mark.parametrize("place", [PEAKS, PEOPLE, "p_pairs_train.p"])
def test_pickles_cannot_run_code(tmp_path: Path, place: str):
    home = make_pg2(tmp_path)
    (home / place).write_bytes(pickle.dumps({"x": Hostile(tmp_path / "owned")}, 0))
    has(refusal(DeepFashion(root=tmp_path).read), str(home / place), "eval")
    assert not (tmp_path / "owned").exists()


def test_bytes_come_from_no_other_codec(tmp_path: Path):
    (tmp_path / "x.p").write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    has(refusal(lambda: read_pickle(tmp_path / "x.p")), "'rot13'")


# --- PG2's photos -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["pg2", "auto"])
@pytest.mark.parametrize("below", [".", "deepfashion"])
def test_pg2_is_read(tmp_path: Path, split: str, below: str):
    home = make_pg2(tmp_path / below)
    reader = DeepFashion(root=tmp_path, split=split)
    assert reader.find() == home
    records = reader.read()
    assert records.keys == tuple(sorted(TRAIN + TEST))
    assert [key for key, test in zip(records.keys, records.test, strict=True) if test] == sorted(TEST)
    assert {path.parent.name for path in records.images} == {"filted_up_train", "filted_up_test"}  # no mirrored ones
    assert records.joints is not None
    for key, joints in zip(records.keys, records.joints, strict=True):
        assert np.array_equal(joints, seen(key))  # the first peak, whosever it is
    for part, keys in (("train", TRAIN), ("test", TEST)):
        pairs = [(records.keys[a], records.keys[b]) for a, b in records.pose_pairs[part]]
        assert sorted(pairs) == sorted(ordered_pairs(keys)[::2])
        assert pairs != ordered_pairs(keys)[::2]  # PG2 shuffles too
    assert records.expected == len(records) == 20
    assert not records.notes


def test_pairs_and_key_points_from_elsewhere(tmp_path: Path):
    home = make_pg2(tmp_path, pairs=False)
    drawn = DeepFashion(root=tmp_path, split="pg2", n_test_pairs=5, n_train_pairs=30).read()
    assert [len(drawn.pose_pairs[part]) for part in ("train", "val", "test")] == [30, 6, 5]
    (home / "p_pairs_test.p").write_bytes(python2([[flat(a), flat(b)] for a, b in permutations(TEST[:4], 2)]))
    some = DeepFashion(root=tmp_path, split="pg2").read()
    assert [len(some.pose_pairs[part]) for part in ("train", "val", "test")] == [36, 0, 12]
    assert {group(some.keys[row]) for row in some.pose_pairs["test"].ravel()} == {group(TEST[0])}
    others = {flat(key): first(key) - 1 for key in TRAIN + TEST} | {"fasionMENDenimid0000009901_1front.jpg": first("")}
    write_joints(home / "fasion-annotation-train.csv", others)  # of all photos, of which PG2 has some
    joints = DeepFashion(root=tmp_path, split="pg2", annotation_frame=256).read().joints
    assert joints is not None
    assert np.array_equal(joints[-1], first(max(TRAIN)) - 1)
    (home / "fasion-annotation-train.csv").unlink()
    (home / PEAKS).unlink()
    assert DeepFashion(root=tmp_path, split="pg2").read().joints is None


def test_pairs_of_photos_without_peaks_are_left_out(tmp_path: Path):
    """As PG2 does; nobody was found where subsets_dic has no person, whatever peaks there are."""
    home = make_pg2(tmp_path)
    put(home / PEAKS, {flat(key): peaks_of(key) for key in TRAIN[1:] + TEST})
    put(home / PEOPLE, {flat(key): np.ones((int(key != TEST[0]), 20)) for key in TRAIN + TEST})
    records = DeepFashion(root=tmp_path).read()
    lost = [p for keys, gone in ((TRAIN, TRAIN[0]), (TEST, TEST[0])) for p in ordered_pairs(keys)[::2] if gone in p]
    assert sum(map(len, records.pose_pairs.values())) == (36 + 24) // 2 - len(lost)
    assert records.notes == (f"{len(lost)} pairs are left out, one of their photos has no key points",)
    valid = DeepFashion(root=tmp_path, pairs="valid4").read()
    assert valid.pose_pairs["train"].shape == records.pose_pairs["train"].shape  # all others have their trunk


def test_the_official_photos_come_first(tmp_path: Path):
    make_pg2(tmp_path)
    for key in TRAIN:
        photo(tmp_path / f"Img/img/{key}.jpg")
    assert DeepFashion(root=tmp_path).find() == tmp_path
    assert DeepFashion(root=tmp_path, split="pg2").find() == tmp_path / "DF_img_pose"
    assert DeepFashion(root=tmp_path / "DF_img_pose", split="pg2").find() == tmp_path / "DF_img_pose"


def test_what_does_not_fit_is_a_sentence(tmp_path: Path):
    read = DeepFashion(root=tmp_path, split="pg2").read
    has(refusal(read), f"{tmp_path} has no DF_img_pose/filted_up_train: data.split=pg2 reads", "data.split=disjoint")
    photo(tmp_path / "DF_img_pose/filted_up_train" / flat(TRAIN[0]))
    has(refusal(read), "filted_up_test has no photos")
    home = make_pg2(tmp_path)
    pairs, peaks = home / "DF_train_data/p_pairs_train.p", home / PEAKS
    whole = {path: path.read_bytes() for path in (pairs, peaks)}
    a, b = flat(TRAIN[0]), flat(TRAIN[1])
    for path, value, words in (
        (pairs, {"x": 1}, ["p_pairs_train.p is not a list of pairs"]),
        (pairs, [[a, b], [a]], ["entry 1 is not two names of DeepFashion photos"]),
        (pairs, [[a, b], 5], ["entry 1 is not two names", "'5'"]),
        (pairs, [[a, "photo.jpg"]], ["entry 0 is not two names"]),
        (pairs, [[a, a]], ["pairs a photo with itself"]),
        (pairs, [[a, flat(TRAIN[4])]], ["pairs photos of two identities"]),
        (pairs, [[flat(k) for k in TEST[:2]]], [f"{TEST[0]} is in a train pair of", "and is absent", "1 more photos"]),
        (peaks, [1], ["all_peaks_dic_DeepFashion.p is not a table of photos"]),
        (peaks, {"photo.jpg": []}, ["'photo.jpg', which is no name"]),
        (peaks, {a: [[]] * 17}, [f"{a} has no 18 lists of peaks"]),
        (peaks, {a: [[("x", 3)]] * 18}, ["has no 18 lists"]),
        (peaks, {a: [[(3,)]] + [[]] * 17}, ["has no 18 lists"]),
        (peaks, {a: 5}, ["has no 18 lists"]),
        (peaks, {flat("MEN/Denim/id_00000099/01_1_front"): peaks_of("")}, ["has peaks of no photo in"]),
    ):
        put(path, value)
        has(refusal(read), *words)
        path.write_bytes(whole[path])
    put(home / PEOPLE, [])
    has(refusal(read), "subsets_dic_DeepFashion.p is not a table of photos")
    put(home / PEOPLE, {})
    put(pairs, [[flat(k) for k in TEST[:2]], [a, b]])
    some = DeepFashion(root=tmp_path, split="pg2", allow_missing=True).read()
    assert len(some.pose_pairs["train"]) == 1


# --- VUNet's key points -----------------------------------------------------------------------------------------------

ORDER = "rankle rknee rhip rshoulder relbow rwrist reye lankle lknee lhip lshoulder lelbow lwrist leye cnose".split()
OURS = (
    "right ankle,right knee,right hip,right shoulder,right elbow,right wrist,right eye,left ankle,left knee,left hip,"
)
OURS = f"{OURS}left shoulder,left elbow,left wrist,left eye,nose".split(",")


def index_of(keys: list[str]) -> dict[str, Any]:
    """Every third photo lacks a shoulder; in all, the nose is at the far corner and a knee is missing."""
    joints = np.stack([first(key)[:15] for key in keys]) / 256
    joints[::3, ORDER.index("lshoulder")] = -1 / 256
    joints[:, ORDER.index("cnose")] = 1
    joints[:, ORDER.index("rknee")] = (0.5, -0.1)
    names = [f"../original/filted_up_train/{flat(key)}" for key in keys]
    return {"imgs": names, "train": [True] * len(keys), "joints": joints, "joint_order": ORDER}


def make_tree(root: Path) -> Path:
    """The official tree, all of it."""
    (root / "procedural.json").parent.mkdir(parents=True, exist_ok=True)
    (root / "procedural.json").write_text("{}")
    for key in TRAIN + TEST:
        photo(root / f"Img/img/{key}.jpg")
    return root


@pytest.mark.parametrize("files", ["auto", "vunet"])
def test_vunets_index_is_read(tmp_path: Path, files: str):
    make_tree(tmp_path)
    (tmp_path / "index.p").write_bytes(pickle.dumps(index_of(TRAIN + TEST), 3))
    records = DeepFashion(root=tmp_path, files=files).read()
    assert records.joints is not None
    for n, key in enumerate(TRAIN + TEST):
        joints, own = records.joints[records.keys.index(key)], first(key)[:15]
        found = dict(zip(OURS, own, strict=True)) | {"nose": (255, 255), "right knee": (-1, -1)}
        if n % 3 == 0:
            found["left shoulder"] = (-1, -1)
        for name, place in found.items():
            assert tuple(joints[NAMED[name]]) == tuple(place), name
        middle = np.rint((found["right shoulder"] + found["left shoulder"]) / 2) if n % 3 else (-1, -1)
        assert tuple(joints[NAMED["neck"]]) == tuple(middle)
        assert (joints[[NAMED["right ear"], NAMED["left ear"]]] == -1).all()


def test_a_csv_comes_before_vunets_index(tmp_path: Path):
    make_tree(tmp_path)
    (tmp_path / "index.p").write_bytes(python2(index_of(TRAIN + TEST)))
    others = {flat(key): first(key) + 1 for key in TRAIN + TEST}
    write_joints(tmp_path / "fasion-annotation-train.csv", others)
    for files, wanted in (("auto", others[flat(TEST[0])][3]), ("fasion", others[flat(TEST[0])][3])):
        joints = DeepFashion(root=tmp_path, files=files, annotation_frame="256").read().joints
        assert joints is not None
        assert np.array_equal(joints[sorted(TRAIN + TEST).index(TEST[0])][3], wanted)
    joints = DeepFashion(root=tmp_path, files="vunet").read().joints
    assert joints is not None
    assert np.array_equal(joints[1][NAMED["right elbow"]], first(sorted(TEST)[1])[ORDER.index("relbow")])


def test_pg2s_peaks_come_before_vunets_index(tmp_path: Path):
    home = make_pg2(tmp_path)
    (home / "index.p").write_bytes(python2(index_of(TRAIN + TEST)))
    for files, ear in (("auto", tuple(first(TRAIN[1])[16])), ("vunet", (-1, -1))):
        records = DeepFashion(root=tmp_path, split="pg2", files=files).read()
        assert records.joints is not None
        assert tuple(records.joints[records.keys.index(TRAIN[1])][NAMED["right ear"]]) == ear


def test_an_index_that_does_not_fit_is_a_sentence(tmp_path: Path):
    make_tree(tmp_path)
    read = DeepFashion(root=tmp_path, files="vunet").read
    has(refusal(read), f"{tmp_path / 'index.p'} is absent: it comes with the data of VUNet")
    good = index_of(TRAIN + TEST)
    stranger = flat("MEN/Denim/id_00000099/01_1_front")
    for value, words in (
        ([1], ["index.p is not VUNet's index"]),
        ({"imgs": []}, ["is not VUNet's index"]),
        (good | {"joints": good["joints"][1:]}, ["is not VUNet's index"]),
        (good | {"joints": ["a"] * 20}, ["is not VUNet's index"]),
        (good | {"joint_order": ["chead"] * 15}, ["names no rshoulder and lshoulder among its joints, chead"]),
        (good | {"joints": good["joints"] * 256}, ["has joints beyond 1"]),
        (good | {"imgs": ["photo.jpg", *good["imgs"][1:]]}, ["'photo.jpg', which is no name"]),
        (good | {"imgs": [stranger, *good["imgs"][1:]]}, ["id_00000099/01_1_front has key points", "and is absent"]),
        ({"imgs": Hostile(tmp_path / "owned")}, ["can be read safely", "eval"]),
    ):
        (tmp_path / "index.p").write_bytes(pickle.dumps(value, 2))
        has(refusal(read), str(tmp_path), *words)
    assert not (tmp_path / "owned").exists()
