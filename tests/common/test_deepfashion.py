"""The reader of DeepFashion's In-shop photos: names, key points, pairs and splits; what it refuses (papers/ggb.md)."""

import hashlib
import os
import shutil
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.geometry import FRAMINGS, framed
from common.data.module import ImageData
from common.data.pose_pairs import csv_text, digest, drawn_pairs, held_items, ordered_pairs, write_pairs
from common.data.readers.deepfashion import DeepFashion
from common.data.readers.fashion_csv import read_joints, read_pairs, write_joints
from common.data.readers.fashion_names import FOLDERS, flat, folder, group, item, parse, spelling, view
from common.data.sampling import PairSampler
from common.data.store import store_name
from ggb.keypoints import read_photo
from tests.worlds.layouts import refusal

DSC = "fasionWOMENTeesTanksid0000783805_7additional.jpg"
PATN = "fashionWOMENTees_Tanksid0000783805_7additional.jpg"
KEY = "WOMEN/Tees_Tanks/id_00007838/05_7_additional"
VIEWS = ("1_front", "2_side", "3_back", "4_full")


def keys_of(items: int = 12, views: tuple[str, ...] = VIEWS) -> list[str]:
    """Two colours of every third item."""
    return [
        f"{FOLDERS[n % 23]}/id_{n:08d}/{colour:02d}_{name}"
        for n in range(1, items + 1)
        for colour in range(1, 3 if n % 3 == 0 else 2)
        for name in views
    ]


def points(key: str) -> np.ndarray:
    """18,2 that tell one photo from another, some missing."""
    joints = np.random.default_rng(sum(key.encode())).integers(40, 216, (18, 2))
    joints[[3, 16]] = -1
    return joints


def make(
    root: Path,
    keys: list[str],
    *,
    spelt: str = "tree",
    joints: str = "fasion",
    pairs: bool = False,
    listed: bool = False,
    size: tuple[int, int] = (256, 256),
    procedural: bool = True,
) -> Path:
    """Photos of these keys as the official tree, or flat in train/ as "fasion" or "fashion"; -> their folder."""
    home = root / "deepfashion"
    for n, key in enumerate(keys):
        name = {"tree": f"Img/img/{key}.jpg", "fasion": f"train/{flat(key)}"}.get(
            spelt, f"train/fashion{key.replace('/', '')}.jpg"
        )
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (n % 250, 90, 200)).save(home / name, quality=90)
    if procedural:
        (root / "procedural.json").write_text("{}")
    held = held_items(keys)
    parts = {"train": [k for k in keys if item(k) not in held], "test": [k for k in keys if item(k) in held]}
    for part, own in parts.items():
        if joints:
            write_joints(home / f"{joints}-annotation-{part}.csv", {flat(key): points(key) for key in own})
        if pairs:
            rows = [f"{flat(a)},{flat(b)}\n" for a, b in ordered_pairs(own)[::2]]
            (home / f"fasion-pairs-{part}.csv").write_text("from,to\n" + "".join(rows))
    if listed:
        rows = [f"img/{k}.jpg   {item(k)}   {'train' if int(item(k)[-1]) % 2 else 'query'}\n" for k in keys]
        (home / "Eval").mkdir()
        (home / "Eval/list_eval_partition.txt").write_text(
            f"{len(keys)}\nimage_name  item_id  evaluation_status\n{''.join(rows)}"
        )
    return home


def append(path: Path, line: str) -> None:
    path.write_text(path.read_text() + line + "\n")


# --- names ------------------------------------------------------------------------------------------------------------


def test_all_spellings_of_a_name_are_one_key():
    """papers/ggb.md, check 11."""
    official = "img/WOMEN/Tees_Tanks/id_00007838/05_7_additional.jpg"
    assert {parse(name) for name in (DSC, PATN, official, official[4:], f"/data/Img/{official}")} == {KEY}
    assert (spelling(DSC), spelling(PATN), spelling(official)) == ("fasion", "fashion", "")
    assert flat(KEY) == DSC
    assert (group(KEY), item(KEY), folder(KEY), view(KEY)) == (
        KEY[:-13],
        "id_00007838",
        "WOMEN/Tees_Tanks",
        "additional",
    )
    assert parse("fashionMENDenimid0000008001_1front.jpg") == "MEN/Denim/id_00000080/01_1_front"
    for strange in (
        "",
        "photo.jpg",
        "fasionWOMENHatsid0000783805_7additional.jpg",
        DSC[:-4],
        "MEN/Dresses/id_00000001/01_1_front.jpg",
    ):
        assert parse(strange) is None, strange


def test_every_folder_is_found_again():
    assert len(FOLDERS) == 23
    assert list(FOLDERS) == sorted(FOLDERS)
    for place in FOLDERS:
        key = f"{place}/id_00000002/02_1_front"
        assert parse(flat(key)) == parse(f"fashion{key.replace('/', '')}.jpg") == parse(f"{key}.jpg") == key


# --- pairs of the complete list ---------------------------------------------------------------------------------------


def test_pairs_are_ordered_within_a_garment_in_one_colour():
    keys = keys_of(4)
    pairs = ordered_pairs(reversed(keys))
    assert pairs == [
        pair for start in range(0, len(keys), 4) for pair in permutations(sorted(keys[start : start + 4]), 2)
    ]
    drawn, left = drawn_pairs(keys, 20)
    assert len(drawn) == 20
    assert sorted(drawn + left) == sorted(pairs)
    assert drawn != pairs[:20]
    assert csv_text(drawn[:1]) == f"from,to\n{drawn[0][0]}.jpg,{drawn[0][1]}.jpg\n"


def test_items_are_held_back_until_there_are_enough_pairs():
    keys = keys_of(200)
    few, many = held_items(keys, 60), held_items(keys, 200)
    assert few < many
    for held, wanted in ((few, 60), (many, 200)):
        found = len(ordered_pairs(key for key in keys if item(key) in held))
        assert wanted <= found < wanted + 24
    assert 0.07 < len(held_items(keys)) / 200 < 0.1  # fewer pairs than the paper's: the same share of them
    assert held_items(key for key in keys) == held_items(keys)  # also of a generator


def test_the_first_pairs_of_the_complete_data_set_fall_on_their_sides():
    """As many items as there, five photos of each; papers/ggb.md, check 12, names an item of either side."""
    keys = [f"{FOLDERS[n % 23]}/id_{n:08d}/01_{name}" for n in range(1, 7983) for name in (*VIEWS, "7_additional")]
    held = held_items(keys)
    assert len(held) == 640  # 640 * 20 = 12,800
    assert "id_00007328" in held
    assert "id_00005000" not in held


LISTS = Path(os.environ.get("DATA_ROOT", "data"))


@pytest.mark.skipif(not list(LISTS.glob("*/Eval/list_eval_partition.txt")), reason="the 52,712 names are not here")
def test_the_split_of_the_complete_data_set():
    """papers/ggb.md, check 12: counts, first pairs and hashes, from the names alone."""
    lines = next(LISTS.glob("*/Eval/list_eval_partition.txt")).read_text().splitlines()[2:]
    keys = [key for line in lines if line.strip() and (key := parse(line.split()[0])) and view(key) != "flat"]
    held = held_items(keys)
    train, left = drawn_pairs((key for key in keys if item(key) not in held), 146_680)
    test, _ = drawn_pairs((key for key in keys if item(key) in held), 12_800)
    assert (len(keys), len(held), len(train) + len(left), len(test)) == (52_029, 628, 148_736, 12_800)
    assert train[0] == ("WOMEN/Pants/id_00005000/09_2_side", "WOMEN/Pants/id_00005000/09_3_back")
    assert test[0] == ("WOMEN/Shorts/id_00007328/03_3_back", "WOMEN/Shorts/id_00007328/03_7_additional")
    digests = [hashlib.sha256(csv_text(pairs).encode()).hexdigest() for pairs in (train, test)]
    assert digests[0] == "d5db800ecff8ef40265ae40128b2ebdf337ebe55653f8820295e12b8734fde95"
    assert digests[1] == "96c78ef47cc973809e29ff4d5bb17b8935e608010a99236ed1d3e38b207b09c5"


@pytest.mark.skipif(not list(LISTS.glob("*/train.lst")), reason="PATN's lists are not here")
def test_the_pairs_of_patns_lists():
    """papers/ggb.md, check 12: with the photos of garments alone."""
    wanted = {
        "train": (154_758, 146_680, "ebee76cc9378cf752893b93dc43089c4b80931e7537bf71948195a0233604c54"),
        "test": (12_860, 12_800, "87ec27bdcc7037873d675cab82ff5c8dea3a9babde844343e2621162228f3848"),
    }
    for part, (total, most, sha) in wanted.items():
        keys = [key for name in next(LISTS.glob(f"*/{part}.lst")).read_text().split() if (key := parse(name))]
        pairs, left = drawn_pairs(keys, most)
        assert len(pairs) + len(left) == total
        assert hashlib.sha256(csv_text(pairs).encode()).hexdigest() == sha


# --- the reader -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelt", ["tree", "fasion", "fashion"])
def test_a_layout_is_read(tmp_path: Path, spelt: str):
    keys = keys_of()
    make(tmp_path, keys, spelt=spelt)
    records = DeepFashion(root=tmp_path).read()
    assert records.keys == tuple(sorted(keys))
    assert [
        parse(str(path.relative_to(tmp_path / "deepfashion" / ("Img/img" if spelt == "tree" else "train"))))
        for path in records.images
    ] == sorted(keys)
    assert [records.classes[label] for label in records.labels] == [folder(key) for key in records.keys]
    assert records.joints is not None
    assert records.joints.dtype == np.int16
    for key, joints in zip(records.keys, records.joints, strict=True):
        assert np.array_equal(joints, points(key))
    assert records.identities is not None
    assert len(np.unique(records.identities)) == len({group(key) for key in keys}) == 16
    everything = np.concatenate(list(records.pose_pairs.values()))
    assert len(everything) == len(ordered_pairs(keys))
    assert (records.identities[everything[:, 0]] == records.identities[everything[:, 1]]).all()
    assert not records.test[records.pose_pairs["train"]].any()
    assert records.test[records.pose_pairs["test"]].all()
    items = np.array([item(key) for key in records.keys])
    assert not set(items[records.test]) & set(items[~records.test])
    assert not records.notes


def test_files_of_pairs_are_taken_as_they_are(tmp_path: Path):
    keys = keys_of()
    home = make(tmp_path, keys, pairs=True)
    records = DeepFashion(root=home).read()
    train = read_pairs(home / "fasion-pairs-train.csv")
    assert [(records.keys[a], records.keys[b]) for a, b in records.pose_pairs["train"]] == train
    left = {tuple(pair) for pair in records.pose_pairs["val"].tolist()}
    assert left
    assert not left & {tuple(pair) for pair in records.pose_pairs["train"].tolist()}
    own = DeepFashion(root=home, split="disjoint").read()
    assert len(own.pose_pairs["train"]) == 2 * len(train)
    write_pairs(own, "test", tmp_path / "kept/fasion-pairs-test.csv")
    assert hashlib.sha256((tmp_path / "kept/fasion-pairs-test.csv").read_bytes()).hexdigest() == digest(own, "test")
    assert len(read_pairs(tmp_path / "kept/fasion-pairs-test.csv")) == len(own.pose_pairs["test"])


def test_other_splits_and_choices_of_pairs(tmp_path: Path):
    keys = keys_of()
    home = make(tmp_path, [*keys, "MEN/Denim/id_00000999/01_6_flat", "MEN/Denim/id_00000999/01_1_front"], listed=True)
    records = DeepFashion(root=tmp_path, split="inshop").read()
    assert "MEN/Denim/id_00000999/01_6_flat" not in records.keys
    assert all(test == (int(item(key)[-1]) % 2 == 0) for key, test in zip(records.keys, records.test, strict=True))
    cut = DeepFashion(root=tmp_path, n_train_pairs=30, n_test_pairs=5).read()
    assert [len(cut.pose_pairs[split]) for split in ("train", "test")] == [30, 5]
    assert len(cut.pose_pairs["val"]) > 100
    mirrored = DeepFashion(root=tmp_path, n_train_pairs=30, count_flips=True).read()
    assert mirrored.mirrored
    assert len(mirrored.pose_pairs["train"]) == 15
    everything = DeepFashion(root=tmp_path, n_train_pairs=30, pairs="all", drop_flat=False).read()
    assert sum(map(len, everything.pose_pairs.values())) == len(ordered_pairs(keys)) + 2
    rows = {part: [flat(key) for key in keys if ("01_" in key) == (part == "train")] for part in ("train", "test")}
    for part, names in rows.items():
        (home / f"{part}.lst").write_text("\n".join(names) + "\n")
    leaky = DeepFashion(root=tmp_path, split="patn_lst").read()
    assert leaky.notes == ("4 of 4 test items are in training too, in other colours or views",)
    table, _ = read_joints([home / "fasion-annotation-train.csv"], "256")
    table[keys[0]][2] = -1  # a shoulder
    write_joints(home / "fasion-annotation-train.csv", {flat(key): joints for key, joints in table.items()})
    valid = DeepFashion(root=tmp_path, pairs="valid4").read()
    seen = {valid.keys[row] for pairs in valid.pose_pairs.values() for row in pairs.ravel()}
    assert set(keys) - seen == {keys[0]}


@pytest.mark.parametrize("split", ["disjoint", "csv"])
def test_groups_for_watching_a_run_are_taken_out_whole(tmp_path: Path, split: str, caplog: pytest.LogCaptureFixture):
    """papers/ggb.md, Sec. 5: before the cut; test pairs stay as they are."""
    keys = keys_of(30)
    make(tmp_path, keys, pairs=True)
    plain = DeepFashion(root=tmp_path, split=split, n_train_pairs=100).read()
    with caplog.at_level("INFO"):
        held = DeepFashion(root=tmp_path, split=split, n_train_pairs=100, val_groups=5).read()
    groups = {
        part: {group(held.keys[row]) for row in held.pose_pairs[part].ravel()} for part in ("train", "val", "test")
    }
    assert len(groups["val"]) == 5
    assert not groups["val"] & (groups["train"] | groups["test"])
    each = 6 if split == "csv" else 12
    assert len(held.pose_pairs["val"]) == 5 * each
    assert np.array_equal(held.pose_pairs["test"], plain.pose_pairs["test"])
    total = (len({group(key) for key in keys}) - len(groups["test"])) * each
    assert f"data.val_groups=5: {5 * each} pairs of them are taken out, {total - 5 * each} are left" in caplog.text
    if split == "csv":  # those of the file without theirs, in its order
        rest = [pair for pair in plain.pose_pairs["train"].tolist() if group(plain.keys[pair[0]]) not in groups["val"]]
        assert held.pose_pairs["train"].tolist() == rest
    else:
        assert len(held.pose_pairs["train"]) == 100  # before the cut
    assert {group(plain.keys[row]) for row in plain.pose_pairs["val"].ravel()} & groups["train"]
    again = DeepFashion(root=tmp_path, split=split, n_train_pairs=100, val_groups=0).read()
    assert all(np.array_equal(again.pose_pairs[part], plain.pose_pairs[part]) for part in plain.pose_pairs)
    for count, words in ((40, "data.val_groups=40 is all there is to train on"), (-1, "is no number of groups")):
        assert_match(words, refusal(lambda count=count: DeepFashion(root=tmp_path, val_groups=count).read()))


def test_frames_of_key_points(tmp_path: Path):
    """papers/ggb.md, check 11 and T10: x = 0 of PATN is column 40; missing stays missing, outside becomes it."""
    joints = np.full((18, 2), -1)
    joints[:4] = (0, 10), (175, 255), (176, 5), (-1, 8)
    write_joints(tmp_path / "fasion-resize-annotation-train.csv", {DSC: joints})
    table, frame = read_joints([tmp_path / "fasion-resize-annotation-train.csv"], "auto")
    assert frame == "crop176"
    assert table[KEY][:5].tolist() == [[40, 10], [215, 255], [-1, -1], [-1, -1], [-1, -1]]
    squeezed, _ = read_joints([tmp_path / "fasion-resize-annotation-train.csv"], "squeeze176")
    assert squeezed[KEY][:2].tolist() == [[0, 10], [254, 255]]
    wide, _ = read_joints([tmp_path / "fasion-resize-annotation-train.csv"], "256")
    assert wide[KEY][:3].tolist() == [[0, 10], [175, 255], [176, 5]]
    (tmp_path / "fasion-annotation-test.csv").write_text(
        f"name:keypoints_y:keypoints_x\n{PATN}: {[9] * 18}: {[255] + [3] * 17}\n"
    )
    table, frame = read_joints([tmp_path / "fasion-annotation-test.csv"], "auto")
    assert frame == "256"
    assert table[KEY][:2].tolist() == [[255, 9], [3, 9]]


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_bad_lines_are_a_sentence_with_their_number(tmp_path: Path):
    keys = keys_of()
    home = make(tmp_path, keys, pairs=True)
    annotation, pairs = home / "fasion-annotation-train.csv", home / "fasion-pairs-train.csv"
    whole, listed = annotation.read_text(), pairs.read_text()
    rows = len(whole.splitlines()) + 1
    stranger = flat(keys[0]).replace("1front", "7additional")
    for line, sentence in (
        (f"{stranger}: {[1] * 17}: {[1] * 18}", f"line {rows} gives {stranger} 17 y and 18 x, not 18 each"),
        (f"{stranger}: {[1] * 19}: {[1] * 19}", "19 y and 19 x"),
        (f"{stranger}: {[1] * 18}", r"is not `name: \[18 y\]"),
        (f"{stranger}: {[1.5] * 18}: nothing", "in numbers"),
        (f"photo.jpg: {[1] * 18}: {[1] * 18}", "'photo.jpg', which is no name"),
        (f"{stranger}: {[1] * 18}: {[1] * 18}", "/01_7_additional has key points .* and is absent, as are 0 more"),
        (f"{flat(keys[0])}: {[1] * 18}: {[1] * 18}", "other key points .* than an earlier line"),
    ):
        append(annotation, line)
        assert_match(sentence, refusal(DeepFashion(root=tmp_path).read))
        annotation.write_text(whole)
    for line, sentence in (
        (f"{flat(keys[0])},{flat(keys[4])}", "pairs photos of two identities, MEN/"),
        (f"{flat(keys[0])},{flat(keys[0])}", "pairs a photo with itself"),
        (f"{flat(keys[0])}", "is not two names"),
        (f"{flat(keys[0])},{stranger}", "is in a pair of .* and is absent"),
    ):
        append(pairs, line)
        assert_match(sentence, refusal(DeepFashion(root=tmp_path).read))
        pairs.write_text(listed)
    annotation.write_text("image,keypoints\n")
    assert_match("its first line must be name:keypoints_y:keypoints_x", refusal(DeepFashion(root=tmp_path).read))


def assert_match(sentence: str, message: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(message)


def test_absent_photos_are_refused_or_told(tmp_path: Path):
    keys = keys_of()
    home = make(tmp_path, keys, pairs=True, listed=True)
    (home / f"Img/img/{keys[5]}.jpg").unlink()
    assert_match(f"63 of 64 photos .*{keys[5]}.*allow_missing", refusal(DeepFashion(root=tmp_path).read))
    records = DeepFashion(root=tmp_path, allow_missing=True).read()
    assert records.notes[0] == "63 of 64 photos found"
    assert keys[5] not in records.keys
    paired = sum(map(len, records.pose_pairs.values()))
    whole = sum(map(len, make_again(tmp_path / "whole", keys).values()))
    assert 0 < whole - paired <= 6  # those with this photo
    (tmp_path / "procedural.json").unlink()
    assert_match("63 of 52,712 photos", refusal(DeepFashion(root=tmp_path).read))


def make_again(root: Path, keys: list[str]) -> dict[str, np.ndarray]:
    make(root, keys, pairs=True)
    return DeepFashion(root=root).read().pose_pairs


def test_folders_that_do_not_fit(tmp_path: Path):
    keys = keys_of(4)
    assert_match("no .*/deepfashion/Img/img or .*preset=toy", refusal(DeepFashion(root=tmp_path).find))
    make(tmp_path / "narrow", keys, size=(176, 256), procedural=False)
    narrow = DeepFashion(root=tmp_path / "narrow", allow_missing=True)
    assert_match("is 176x256, not 256x256: take the photos of Img/img.zip", refusal(narrow.read))
    home = make(tmp_path / "mixed", keys, spelt="fasion")
    other = f"fashion{keys[3].replace('/', '').replace('4_full', '7_additional')}.jpg"
    (home / f"train/{flat(keys[0])}").rename(home / "train" / other)
    assert_match(
        f"names of both spellings, {other} and fasion.*keep the photos of one", refusal(DeepFashion(root=home).read)
    )
    home = make(tmp_path / "twice", keys, spelt="fasion")
    (home / "test").mkdir()
    (home / "test" / flat(keys[0])).write_bytes((home / "train" / flat(keys[0])).read_bytes())
    assert_match("are names of the same photo", refusal(DeepFashion(root=home).read))
    home = make(tmp_path / "sources", keys)
    (home / "fasion-resize-annotation-train.csv").write_text("name:keypoints_y:keypoints_x\n")
    assert_match("annotation files of 2 sources.*data.files=fasion", refusal(DeepFashion(root=home).read))
    assert DeepFashion(root=home, files="fasion").read().joints is not None
    (home / "Img/img_highres/WOMEN").mkdir(parents=True)
    (home / "Img/img").rename(home / "Img/other")
    assert_match(
        "only the high-resolution photos.*or data.highres=pad", refusal(DeepFashion(root=home, highres="refuse").find)
    )
    for option in ({"split": "pg3"}, {"pairs": "some"}, {"files": "fashon"}, {"highres": "crop"}):
        assert_match("is not known: did you mean", refusal(lambda option=option: DeepFashion(root=home, **option)))


def test_photos_without_a_person(tmp_path: Path):
    """One in a hundred is a note, more are refused."""
    keys = keys_of(30)
    home = make(tmp_path, keys)
    lines = (home / "fasion-annotation-train.csv").read_text().splitlines()
    empty = [f"{line.partition(':')[0]}: {[-1] * 18}: {[-1] * 18}" for line in lines]
    (home / "fasion-annotation-train.csv").write_text("\n".join(lines[:1] + empty[1:3] + lines[3:]) + "\n")
    assert DeepFashion(root=tmp_path).read().notes == ("2 of 160 paired photos have no key points",)
    (home / "fasion-annotation-train.csv").write_text("\n".join(lines[:1] + empty[1:30] + lines[30:]) + "\n")
    assert_match(
        f"29 of 160 paired photos have no key points, the first of them {keys[0]}",
        refusal(DeepFashion(root=tmp_path).read),
    )


# --- photos of 750x1101 -----------------------------------------------------------------------------------------------


def test_a_framed_photo():
    """papers/ggb.md, Sec. 4: 174 columns and 41 of the edge at each side, or straight to 256x256."""
    pixels = np.random.default_rng(0).integers(0, 256, (1101, 750, 3), np.uint8)
    photo = Image.fromarray(pixels)
    padded = np.asarray(framed(photo, "pad"))
    assert padded.shape == (256, 256, 3)
    assert np.array_equal(padded[:, 41:215], np.asarray(photo.resize((174, 256), Image.Resampling.BILINEAR)))
    assert (padded[:, :41] == padded[:, 41:42]).all()
    assert (padded[:, 215:] == padded[:, 214:215]).all()
    turned = np.asarray(framed(photo.transpose(Image.Transpose.TRANSPOSE), "pad"))
    assert np.abs(turned.astype(int) - padded.transpose(1, 0, 2)).max() <= 2  # Pillow rounds after each direction
    squeezed = photo.resize((256, 256), Image.Resampling.BILINEAR)
    assert framed(photo, "squeeze").tobytes() == squeezed.tobytes()
    assert framed(photo, "") is photo
    small = Image.fromarray(padded)
    assert framed(small, "pad").tobytes() == small.tobytes()


def make_highres(root: Path, frame: str) -> Path:
    """Each photo: a white square about its nose, whose place the csv gives in this frame."""
    keys = keys_of(6)
    home = make(root, keys, spelt="none", joints="fasion" if frame == "256" else "fasion-resize", procedural=False)
    shutil.rmtree(home / "train")
    width = 256 if frame == "256" else 176
    first, columns = {"256": (41, 174), "crop176": (1, 174), "squeeze176": (0, 176)}[frame]  # of the photo in its frame
    table = {}
    for n, key in enumerate(keys):
        joints = points(key)
        seen = joints[:, 0] >= 0
        joints[seen, 0] = joints[seen, 0] * (width - 82) // 256 + 41
        photo = np.full((1101, 750, 3), n * 2, np.uint8)
        x, y = joints[0]
        x = (x + 0.5 - first) * 750 / columns
        y = (y + 0.5) * 1101 / 256
        photo[int(y) - 30 : int(y) + 30, int(x) - 30 : int(x) + 30] = 255
        path = home / f"Img/img_highres/{key}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(path, quality=90)
        table[flat(key)] = joints
    for path in home.glob("*annotation*"):
        write_joints(path, table)
    return home


@pytest.mark.parametrize(("highres", "frame"), [("pad", "256"), ("pad", "crop176"), ("squeeze", "squeeze176")])
def test_photos_of_high_resolution_stand_in(tmp_path: Path, highres: str, frame: str, caplog: pytest.LogCaptureFixture):
    """In a batch the nose is where the square is."""
    home = make_highres(tmp_path, frame)
    reader = DeepFashion(root=tmp_path, highres=highres, allow_missing=True)
    with caplog.at_level("INFO"):
        records = reader.read()
    assert records.framing == highres
    note = f"the photos of 750x1101 stand in for those of 256x256, data.highres={highres}"
    assert records.notes == (note, "32 of 52,712 photos found")
    assert note in caplog.text
    assert f"frame {frame}" in caplog.text
    names = {
        store_name(replace(records, framing=way), side=64, bbox_crop=False, masks=False) for way in ("", *FRAMINGS)
    }
    assert len(names) == 3
    module = ImageData(
        dataset=reader, image_size=128, batch_size=6, load_ratio=1.0, reads=("image", "target", "joints")
    )
    loader = module.train_dataloader()
    loader.batch_sampler.set_epoch(0)
    for loaded in loader:
        batch = module.move(loaded, "cpu")
        assert batch["image"].shape == (6, 3, 128, 128)
        for image, pose in zip(batch["target"], batch["target_joints"], strict=True):
            y, x = torch.nonzero(image[0] > 0.7).float().mean(0).tolist()
            assert abs(x - pose[0, 0]) < 1.1
            assert abs(y - pose[0, 1]) < 1.1
    path = records.images[0]
    with Image.open(path) as photo:
        assert np.array_equal(read_photo(path, highres) * 255, np.asarray(framed(photo, highres)).transpose(2, 0, 1))
    for key in records.keys:
        (home / f"Img/img/{key}.jpg").parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (256, 256)).save(home / f"Img/img/{key}.jpg")
    small = DeepFashion(root=tmp_path, highres=highres, allow_missing=True).read()
    assert (small.framing, small.notes) == ("", records.notes[1:])


def test_key_points_in_the_frame_of_other_photos_are_refused(tmp_path: Path):
    make_highres(tmp_path / "wide", "256")
    make_highres(tmp_path / "narrow", "squeeze176")
    for root, options, words in (
        ("wide", {"highres": "squeeze"}, "annotation-train.csv has key points in the frame 256, .*data.highres=pad"),
        ("narrow", {"highres": "squeeze", "annotation_frame": "crop176"}, "frame crop176.*data.highres=pad"),
        ("narrow", {"annotation_frame": "squeeze176"}, "frame squeeze176.*data.highres=squeeze"),
    ):
        assert_match(words, refusal(DeepFashion(root=tmp_path / root, allow_missing=True, **options).read))
    found_here = DeepFashion(root=tmp_path / "wide", highres="squeeze", annotation_frame=256, allow_missing=True).read()
    padded = DeepFashion(root=tmp_path / "wide", allow_missing=True).read()
    assert np.array_equal(found_here.joints, padded.joints)
    keys = keys_of(6)
    home = make(tmp_path / "small", keys, procedural=False)
    (home / "Img/img").rename(home / "Img/img_highres")
    assert_match(
        "is 256x256, no high-resolution photo of 750x1101: move them",
        refusal(DeepFashion(root=tmp_path / "small", allow_missing=True).read),
    )


# --- batches of pairs -------------------------------------------------------------------------------------------------


def data(root: Path, **options) -> ImageData:
    spec = {"image_size": 64, "batch_size": 6, "load_ratio": 1.0, "reads": ("image", "target", "joints")} | options
    return ImageData(dataset=DeepFashion(root=root), **spec)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each photo: a white square on black about the place of its nose, so that key points can be checked by eye."""
    place = tmp_path_factory.mktemp("pairs")
    keys = keys_of(6)
    home = make(place, keys)
    for n, key in enumerate(keys):
        photo = np.full((256, 256, 3), n * 2, np.uint8)
        x, y = points(key)[0]
        photo[y - 8 : y + 9, x - 8 : x + 9] = 255
        Image.fromarray(photo).save(home / f"Img/img/{key}.jpg", quality=95)
    return place


def test_a_batch_of_pairs(root: Path):
    module = data(root)
    loader = module.train_dataloader()
    loader.batch_sampler.set_epoch(0)
    raw = list(loader)
    records = module.records
    pairs = [
        tuple(pair) for batch in raw for pair in zip(batch["row"].tolist(), batch["target_row"].tolist(), strict=True)
    ]
    assert len(pairs) == len(set(pairs)) == len(records.pose_pairs["train"]) // 6 * 6
    assert set(pairs) <= {tuple(pair) for pair in records.pose_pairs["train"].tolist()}
    flips = 0
    for loaded in raw:
        batch = module.move(loaded, "cpu")
        assert {name: tuple(batch[name].shape) for name in ("image", "target", "joints", "target_joints")} == {
            **dict.fromkeys(("image", "target"), (6, 3, 64, 64)),
            **dict.fromkeys(("joints", "target_joints"), (6, 18, 2)),
        }
        assert batch["joints"].dtype == torch.int64
        flips += int(loaded["flip"].sum())
        for photo, joints in (("image", "joints"), ("target", "target_joints")):
            for image, pose in zip(batch[photo], batch[joints], strict=True):
                y, x = (torch.nonzero(image[0] > 0.7).float().mean(0)).tolist()
                assert abs(x - pose[0, 0]) < 1.1  # the nose is where the square is, flipped or not
                assert abs(y - pose[0, 1]) < 1.1
        at = batch["row"].numpy()
        missing = (batch["joints"] < 0).all(-1)
        assert torch.equal(missing[~loaded["flip"]].any(0), torch.isin(torch.arange(18), torch.tensor([3, 16])))
        if loaded["flip"].any():
            assert torch.equal(missing[loaded["flip"]].any(0), torch.isin(torch.arange(18), torch.tensor([6, 17])))
        plain = ~loaded["flip"].numpy()
        assert np.array_equal(batch["joints"].numpy()[plain], np.floor((records.joints[at] + 0.5) / 4)[plain].clip(-1))
    assert 0 < flips < len(pairs)


def test_windows_of_larger_photos_move_the_joints_along(root: Path):
    module = data(root, load_ratio=1.25, image_size=32, flip=False)
    for batch in module.train_dataloader():
        for image, pose in zip(module.move(batch, "cpu")["image"], batch["joints"], strict=True):
            if (pose[0] >= 4).all() and (pose[0] < 28).all():
                y, x = torch.nonzero(image[0] > 0.7).float().mean(0).tolist()
                assert abs(x - pose[0, 0]) < 1.1
                assert abs(y - pose[0, 1]) < 1.1
        assert (batch["joints"] < 32).all()
        assert (batch["joints"] >= -1).all()


def test_pairs_for_scoring_come_in_their_order(root: Path):
    module = data(root, workers=2)
    batches = list(module.pose_pair_loader("test", batch_size=5))
    rows = torch.cat([torch.stack([batch["row"], batch["target_row"]], 1) for batch in batches]).numpy()
    assert np.array_equal(rows, module.records.pose_pairs["test"])
    assert torch.cat([batch["pair"] for batch in batches]).tolist() == list(range(len(rows)))
    assert "flip" not in batches[0]
    (chosen,) = module.pose_pair_loader("test", pairs=rows[[2, 0]])
    assert chosen["target_row"].tolist() == rows[[2, 0], 1].tolist()
    (single,) = module.eval_loader(rows=np.array([3]))
    assert "joints" in single
    assert "target" not in single


def test_an_epoch_of_pairs_is_the_same_for_any_ranks_and_begins_anew_with_each_epoch():
    pairs = np.random.default_rng(0).integers(0, 90, (37, 2))
    options = {"pairs": pairs, "batch_size": 8, "seed": 0, "flip": True}
    whole, again = PairSampler(mirrored=False, **options), PairSampler(mirrored=False, **options)
    ranks = [PairSampler(mirrored=False, rank=rank, world=2, **options) for rank in range(2)]
    for batch, *shares in zip(whole, *ranks, strict=True):
        assert all(np.array_equal(batch[name], np.concatenate([share[name] for share in shares])) for name in batch)
    again.set_epoch(1)
    assert not np.array_equal(next(iter(whole))["row"], next(iter(again))["row"])
    mirrored = PairSampler(mirrored=True, **options)
    draws = mirrored.draw()
    assert len(mirrored) == 2 * 37 // 8
    seen = sorted(zip(draws["row"].tolist(), draws["target_row"].tolist(), draws["flip"].tolist(), strict=True))
    assert seen == sorted((a, b, flip) for a, b in pairs.tolist() for flip in (False, True))


def test_unreadable_photos_take_their_pairs_with_them(tmp_path: Path):
    keys = keys_of(6)
    home = make(tmp_path, keys)
    (home / f"Img/img/{keys[0]}.jpg").write_bytes(b"no photo")
    module = data(tmp_path, allow_missing=True)
    bad = module.records.keys.index(keys[0])
    pairs = module.pose_pairs("train")
    assert bad not in pairs
    assert len(module.records.pose_pairs["train"]) - len(pairs) in (0, 6)
    seen = torch.cat([torch.stack([b["row"], b["target_row"]]) for b in module.pose_pair_loader("train")], 1)
    assert bad not in seen.tolist()[0] + seen.tolist()[1]


def test_what_a_model_cannot_have_is_a_sentence(tmp_path: Path, root: Path):
    assert_match("rotate_deg=5.0 would turn photos away", refusal(lambda: data(root, rotate_deg=5.0)))
    assert_match(
        "pairs of photos in the train split .* fewer than data.batch_size=999",
        refusal(data(root, batch_size=999).train_dataloader),
    )
    make(tmp_path, keys_of(6), joints="")
    assert_match("has no key points", refusal(data(tmp_path).train_dataloader))
    module = data(root)
    module.records = replace(module.records, pose_pairs={})
    assert_match("has no train pairs", refusal(module.train_dataloader))
