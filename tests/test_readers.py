"""The readers on tiny data sets in the original layouts: what they read, and what they say of what is wrong."""

import pickle
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import FLOWER_TEST, make_cub, make_folder, make_oxford102, sentences, t7, write_captions, write_split
from PIL import Image

from common.data import cub
from common.data.captions import PLACES, read_sentences
from common.data.cub import CUB, TEST_CLASSES, read_attribute_labels
from common.data.folder import Folder
from common.data.masks import read_segmim, read_votes, segmim_foreground
from common.data.oxford102 import Oxford102
from common.data.pickles import read_pickle
from common.data.torch7 import ALPHABET, decode_char, read_t7
from common.errors import UserError


def refusal(act: Callable[[], object]) -> str:
    """The one sentence of the UserError that act raises."""
    with pytest.raises(UserError) as error:
        act()
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


# CUB


@pytest.mark.parametrize("place", ["CUB_200_2011", "birds/CUB_200_2011"])
def test_cub_reads_every_field(tmp_path: Path, place: str) -> None:
    keys = make_cub(tmp_path, masks=True, attributes=5, place=place)
    records = CUB(root=tmp_path, attributes=True, masks=True).read()
    assert records.keys == tuple(keys)
    assert (records.name, records.expected, records.procedural, records.notes) == ("cub", 18, True, ())
    assert all(path.is_file() for path in (*records.images, *records.masks))
    assert records.labels.tolist() == [row // 3 for row in range(18)]
    assert records.classes[1] == "002.Bird_2"
    assert records.captions[4] == sentences(keys[4].split("/")[1])
    assert records.boxes is not None
    assert records.boxes[8].tolist() == [2.0, 2.0, 30.5, 25.0]  # id 9: x = 9 mod 7
    assert records.attributes is not None
    assert records.certainty is not None
    assert records.attributes[3].tolist() == [1, 0, 1, 0, 1]  # id 4: (4 + a) mod 2
    assert records.certainty[2].tolist() == [4, 3, 2, 1, 4]  # id 3: 1 + 3a mod 4
    assert records.attribute_names[4] == "has_part_5::red"


def test_cub_root_may_be_the_dataset_itself(tmp_path: Path) -> None:
    keys = make_cub(tmp_path)
    records = CUB(root=tmp_path / "CUB_200_2011").read()
    assert records.keys == tuple(keys)
    assert records.captions[0] == sentences(keys[0].split("/")[1])


def test_cub_needs_no_captions_when_told_so(tmp_path: Path) -> None:
    make_cub(tmp_path, captions=None)
    assert CUB(root=tmp_path, captions="none").read().captions == ()
    message = refusal(CUB(root=tmp_path).read)
    assert "cvpr2016_cub/text_c10, cub_icml, birds/text" in message
    assert "data.captions=none" in message


def test_wholly_absent_dataset_answers_at_once_with_both_ways_on(tmp_path: Path) -> None:
    start = time.perf_counter()
    birds, flowers = refusal(CUB(root=tmp_path).read), refusal(Oxford102(root=tmp_path).read)
    assert time.perf_counter() - start < 0.5
    assert str(tmp_path / "CUB_200_2011") in birds
    assert "data.caltech.edu/records/65de6-vp158" in birds
    assert str(tmp_path / "oxford102") in flowers
    assert "www.robots.ox.ac.uk/~vgg/data/flowers/102/" in flowers
    for message, data in ((birds, "cub"), (flowers, "oxford102")):
        assert f"python run.py task=prepare data={data}" in message
        assert "preset=toy or data.source=procedural" in message


def test_partial_cub_is_refused_with_counts_or_taken_with_a_note(tmp_path: Path) -> None:
    keys = make_cub(tmp_path, classes=200, images=2, photos=4, procedural=False)
    message = refusal(CUB(root=tmp_path).read)
    assert "8 of 11,788 images" in message
    assert keys[8] in message
    assert "data.allow_missing=true goes on with what is there, or python run.py task=prepare data=cub" in message
    records = CUB(root=tmp_path, allow_missing=True).read()
    assert records.notes == ("8 of 11,788 images found",)
    assert (len(records), len(records.classes), records.expected) == (8, 200, 11_788)
    assert records.test.tolist() == [True, True, False, False, False, False, True, True]  # 001 and 004
    assert not records.procedural


def test_an_image_needs_its_captions(tmp_path: Path) -> None:
    keys = make_cub(tmp_path)
    (tmp_path / "birds" / "text" / f"{keys[3]}.txt").unlink()
    message = refusal(CUB(root=tmp_path).read)
    assert f"{tmp_path / 'birds' / 'text'} holds 17 of 18 images' captions" in message
    records = CUB(root=tmp_path, allow_missing=True).read()
    assert keys[3] not in records.keys
    assert records.captions[3] == sentences(keys[4].split("/")[1])
    assert records.notes == ("17 of 18 images' captions found",)


def test_nothing_left_is_refused_even_if_images_may_be_missing(tmp_path: Path) -> None:
    make_cub(tmp_path, classes=200, images=1, photos=1, procedural=False)
    next((tmp_path / "CUB_200_2011" / "images").rglob("*.jpg")).unlink()
    assert "0 of 11,788 images" in refusal(CUB(root=tmp_path, allow_missing=True).read)


def test_masks_are_needed_or_all_or_nothing(tmp_path: Path) -> None:
    keys = make_cub(tmp_path)
    assert CUB(root=tmp_path).read().masks == ()
    assert "segmentations.tgz from data.caltech.edu/records/w9d68-gec53" in refusal(CUB(root=tmp_path, masks=True).read)
    make_cub(tmp_path, masks=True)
    assert len(CUB(root=tmp_path).read().masks) == 18
    (tmp_path / "segmentations" / f"{keys[0]}.png").unlink()
    records = CUB(root=tmp_path).read()
    assert (len(records), records.masks, records.notes) == (18, (), ("17 of 18 masks found, none used",))
    assert "17 of 18 masks" in refusal(CUB(root=tmp_path, masks=True).read)
    records = CUB(root=tmp_path, masks=True, allow_missing=True).read()
    assert (len(records), len(records.masks)) == (17, 17)
    assert records.masks[0].stem == records.images[0].stem


@pytest.mark.parametrize(
    ("file", "line", "text", "words"),
    [
        ("images.txt", 2, "1 001.Bird_1/again.jpg", ("images.txt line 2 repeats the id 1 of line 1",)),
        ("images.txt", 2, "2 001.Bird_1/Bird_1_0000_7.jpg", ("line 2 repeats the name Bird_1_0000_7 of line 1",)),
        ("images.txt", 2, "2", ("images.txt line 2 is not an id and 1 more",)),
        ("images.txt", 2, "2 ../../etc/passwd.jpg", ("images.txt line 2", "not 001.Bird_1/<name>.jpg")),
        ("images.txt", 18, "19 006.Bird_6/x.jpg", ("has 18 lines, not the ids 1 to 18", "id 18")),
        ("image_class_labels.txt", 4, "4 7", ("image_class_labels.txt line 4 has class 7, not 1 to 6",)),
        ("image_class_labels.txt", 4, "4 1", ("images.txt line 4", "as image_class_labels.txt line 4 says")),
        ("image_class_labels.txt", 18, "", ("has 17 lines, not the 18 ids of images.txt", "id 18")),
        ("bounding_boxes.txt", 18, "19 1 1 1 1", ("bounding_boxes.txt", "not the 18 ids of images.txt", "id 18")),
        ("bounding_boxes.txt", 3, "3 1 1 one 1", ("bounding_boxes.txt line 3 is no box (1 1 one 1)",)),
        ("bounding_boxes.txt", 3, "3 1 1 0 5", ("bounding_boxes.txt line 3 is no box",)),
    ],
)
def test_damaged_lists_are_named_with_their_line(
    tmp_path: Path, file: str, line: int, text: str, words: tuple[str, ...]
) -> None:
    make_cub(tmp_path)
    path = tmp_path / "CUB_200_2011" / file
    lines = path.read_text().splitlines()
    lines[line - 1] = text
    path.write_text("\r\n".join(lines), encoding="utf-8-sig")  # as an editor on Windows saves it
    message = refusal(CUB(root=tmp_path).read)
    assert all(word in message for word in (str(path.parent), *words))


def test_absent_list_and_wrong_count_of_classes(tmp_path: Path) -> None:
    make_cub(tmp_path, procedural=False)
    assert "classes.txt has 6 classes, not 200" in refusal(CUB(root=tmp_path).read)
    (tmp_path / "CUB_200_2011" / "images.txt").unlink()
    (tmp_path / "procedural.json").touch()
    assert "images.txt is absent: it comes with CUB_200_2011.tgz" in refusal(CUB(root=tmp_path).read)


# Attributes


ODD = "2275 10 0 1 0 1.509"  # a line of the original file: a stray field before the time


def test_stray_fields_of_attribute_labels_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.txt"
    cells = [(i, a) for i in range(1, 2276) for a in range(1, 11)]
    lines = [f"{i} {a} {(i * a) % 2} {1 + i % 4} 2.5" for i, a in cells]
    lines[-1] = ODD
    lines[-2] = "2275 9 1 2 0 0 1.5"
    path.write_text("\n".join(lines))  # the last line may lack its end
    is_present, certainty = read_attribute_labels(path, 2275, 10)
    monkeypatch.setattr(cub, "BLOCK", 1000)
    assert (np.stack(read_attribute_labels(path, 2275, 10)) == (is_present, certainty)).all()
    assert is_present.shape == certainty.shape == (2275, 10)
    assert is_present[2274, 9] == 0
    assert certainty[2274, 9] == 1
    assert (is_present[2274, 8], certainty[2274, 8]) == (1, 2)
    assert is_present[:2274].tolist() == [[(i * a) % 2 for a in range(1, 11)] for i in range(1, 2275)]
    assert (certainty[:2274].T == [1 + i % 4 for i in range(1, 2275)]).all()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("7 1 1 4 2.5", ("labels.txt line 5 is no attribute label ('7 1 1 4 2.5')",)),
        ("3 3 1 4 2.5", ("line 5",)),
        ("3 1 2 4 2.5", ("line 5",)),
        ("3 1 1 0 2.5", ("line 5",)),
        ("3 1 x 4 2.5", ("line 5",)),
        ("3 1 1", ("line 5", "'3 1 1'")),
        ("1000003 1 1 4 2.5", ("line 5",)),
        ("2 2 1 4 2.5", (" is about the same image and attribute as another line",)),
        (None, ("lacks 1 of 6 labels, the first of them image 3 attribute 1",)),
    ],
)
@pytest.mark.parametrize("block", [1, 1 << 20])  # the lines parsed one by one, and all at once
def test_bad_attribute_labels_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str | None, words: tuple[str, ...], block: int
) -> None:
    monkeypatch.setattr(cub, "BLOCK", block)
    path = tmp_path / "labels.txt"
    lines = [f"{i} {a} 1 4 2.5" for i in (1, 2, 3) for a in (1, 2)]
    lines[4:5] = [] if line is None else [line]
    path.write_text("\n".join(lines) + "\n")
    message = refusal(lambda: read_attribute_labels(path, 3, 2))
    assert all(word in message for word in (str(path), *words))


def test_attribute_files_are_needed_only_when_asked_for(tmp_path: Path) -> None:
    make_cub(tmp_path)
    assert CUB(root=tmp_path).read().attributes is None
    assert "attributes.txt is absent" in refusal(CUB(root=tmp_path, attributes=True).read)
    assert "Oxford-102 has no attributes" in refusal(lambda: Oxford102(root=tmp_path, attributes=True))


# Splits


@pytest.mark.parametrize("form", ["pickles", "classes", "ids", None])
def test_cub_split_by_class(tmp_path: Path, form: str | None) -> None:
    make_cub(tmp_path, classes=10, images=2, split=form)
    records = CUB(root=tmp_path).read()
    assert sorted(set(records.labels[records.rows("test")] + 1)) == [1, 4, 6, 8, 9]
    assert sorted(set(records.labels[records.rows("train")] + 1)) == [2, 3, 5, 7, 10]


def test_split_files_win_over_the_list(tmp_path: Path) -> None:
    make_cub(tmp_path, split=None)
    numbers = {key: int(key[:3]) for key in CUB(root=tmp_path).read().keys}
    write_split(tmp_path, "classes", "birds", numbers, frozenset({2}))
    assert set(CUB(root=tmp_path).read().labels[6:9]) == {2}
    assert CUB(root=tmp_path).read().rows("test").tolist() == [3, 4, 5]


def test_fifty_classes_are_for_testing() -> None:
    assert len(TEST_CLASSES) == 50
    assert sorted(TEST_CLASSES)[:5] == [1, 4, 6, 8, 9]
    assert max(TEST_CLASSES) <= 200


def test_pickles_with_windows_line_ends_are_read(tmp_path: Path) -> None:
    make_cub(tmp_path)
    for path in tmp_path.glob("birds/*/filenames.pickle"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert CUB(root=tmp_path).read().test.sum() == 9


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (["002.Bird_2/absent"], None, ("train/filenames.pickle entry 0 names '002.Bird_2/absent'",)),
        (["001.Bird_1/Bird_1_0000_7"], None, ("test/filenames.pickle shares class 1",)),
        (["002.Bird_2/Bird_2_0000_14"], None, ("leave out class 3",)),
        (["002.Bird_2/Bird_2_0000_14"] * 2, None, ("train/filenames.pickle names '002.Bird_2/Bird_2_0000_14' twice",)),
        ({"a": 1}, None, ("train/filenames.pickle is not a list of image names",)),
        (None, [], ("leave out class 1",)),
    ],
)
def test_bad_splits_are_refused(tmp_path: Path, train: object, test: object, words: tuple[str, ...]) -> None:
    make_cub(tmp_path)
    for part, content in (("train", train), ("test", test)):
        if content is not None:
            (tmp_path / "birds" / part / "filenames.pickle").write_bytes(pickle.dumps(content, protocol=2))
    message = refusal(CUB(root=tmp_path).read)
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["class_00009"], "class 9, which has no image"),
        (["class_two"], "testclasses.txt line 1 has no class number ('class_two')"),
        (["class_00001"], "shares class 1 with the training classes"),
    ],
)
def test_bad_class_lists_are_refused(tmp_path: Path, lines: list[str], words: str) -> None:
    make_oxford102(tmp_path)
    (tmp_path / "flowers_icml" / "testclasses.txt").write_text("\n".join(lines))
    assert words in refusal(Oxford102(root=tmp_path).read)


# Captions


@pytest.mark.parametrize("source", PLACES)
def test_each_source_gives_the_ten_captions(tmp_path: Path, source: str) -> None:
    birds, flowers = tmp_path / "birds", tmp_path / "flowers"
    bird_keys, flower_keys = make_cub(birds, captions=source), make_oxford102(flowers, captions=source)
    for records, keys in ((CUB(root=birds).read(), bird_keys), (Oxford102(root=flowers).read(), flower_keys)):
        for key, captions in zip(keys, records.captions, strict=True):
            expected = sentences(key.rpartition("/")[2])
            assert captions == (tuple(map(str.lower, expected)) if source == "icml2016" else expected)
    assert CUB(root=birds, captions=source).read().captions
    other = "cvpr2016" if source != "cvpr2016" else "icml2016"
    assert "there are no captions of the birds" in refusal(CUB(root=birds, captions=other).read)
    assert "choose one of auto, none, cvpr2016" in refusal(CUB(root=birds, captions="reed").read)


def test_sources_1_and_2_give_the_same_text(tmp_path: Path) -> None:
    """Up to case, the cut at 201 characters and what is outside the alphabet."""
    keys = make_cub(tmp_path, captions="cvpr2016")
    long = "a bird " * 40 + "with a caf\u00e9-brown \u2013 or black \u2013 tail"
    for key in keys:
        path = tmp_path / "cvpr2016_cub" / "text_c10" / f"{key}.txt"
        path.write_text(path.read_text() + f"\n\n{long}\n", encoding="utf-8")
    write_captions(tmp_path, "icml2016", "birds", {key: int(key[:3]) for key in keys})
    one, two = (CUB(root=tmp_path, captions=source).read().captions for source in ("cvpr2016", "icml2016"))
    for ours, theirs in zip(one, two, strict=True):
        assert len(ours) == 11
        assert [text.lower() for text in ours[:10]] == list(theirs)
    assert CUB(root=tmp_path).read().captions == one  # auto: the first in the order of the sources


def test_attngan_pickle_is_joined_by_name_when_the_texts_are_absent(tmp_path: Path) -> None:
    keys = make_cub(tmp_path, captions="attngan-pickle")  # the pickles list the birds in reverse
    records = CUB(root=tmp_path).read()
    assert records.keys == tuple(keys)
    for key, captions in zip(keys, records.captions, strict=True):
        assert captions == tuple(" ".join(re.findall(r"\w+", s.lower())) for s in sentences(key.split("/")[1]))


def test_attngan_pickle_must_fit_its_filenames(tmp_path: Path) -> None:
    make_cub(tmp_path, captions="attngan-pickle")
    path = tmp_path / "birds" / "captions.pickle"
    content = read_pickle(path)
    path.write_bytes(pickle.dumps([content[0][:-1], *content[1:]], protocol=2))
    assert "has 89 train captions for the 9 images" in refusal(CUB(root=tmp_path).read)
    path.write_bytes(pickle.dumps([*content[:2], {0: "<end>"}, {}], protocol=2))
    assert "its vocabulary lacks" in refusal(CUB(root=tmp_path).read)
    path.write_bytes(pickle.dumps(content[:3], protocol=2))
    assert "is not [train captions, test captions, ixtoword, wordtoix]" in refusal(CUB(root=tmp_path).read)
    path.write_bytes(pickle.dumps(content, protocol=2))
    (tmp_path / "birds" / "test" / "filenames.pickle").unlink()
    assert "captions.pickle needs" in refusal(CUB(root=tmp_path).read)


def test_stray_bytes_and_empty_lines_are_tolerated(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_bytes(b"\xef\xbb\xbfa red bird\r\n\r\n  \na caf\xe9 bird\n...\n\xe2\x80\xa6a bird\x85\n\n")
    assert read_sentences(path) == ("a red bird", "a caf  bird", "\u2026a bird")


@pytest.mark.parametrize("content", ["", "\n\n", " \n...\n"])
def test_caption_file_without_a_caption(tmp_path: Path, content: str) -> None:
    keys = make_cub(tmp_path)
    path = tmp_path / "birds" / "text" / f"{keys[5]}.txt"
    path.write_text(content)
    message = refusal(CUB(root=tmp_path).read)
    assert message.startswith(f"{path} holds no usable caption")
    assert "data.allow_missing=true leaves the image out" in message
    records = CUB(root=tmp_path, allow_missing=True).read()
    assert keys[5] not in records.keys
    assert len(records) == len(records.captions) == 17
    assert str(path) in records.notes[0]


def test_captions_under_another_class_are_refused(tmp_path: Path) -> None:
    make_oxford102(tmp_path)
    folder = tmp_path / "cvpr2016_flowers" / "text_c10"
    (folder / "class_00001" / "image_00001.txt").rename(folder / "class_00002" / "image_00001.txt")
    message = refusal(Oxford102(root=tmp_path).read)
    assert f"{folder / 'class_00002' / 'image_00001.txt'} lies under class_00002 but its image is of class 1" in message


# Torch7 and pickles


def test_t7_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.t7"
    square = np.arange(6.0).reshape(2, 3)
    value: dict[Any, Any] = {
        "a": 1,
        "b": [True, None, "text", 2.5],
        "d": square,
        "f": square.astype("f4"),
        "t": square.T,
        3: "three",
    }
    for dtype in ("u1", "i1", "i2", "i4", "i8"):
        value[dtype] = np.arange(5).astype(dtype)
    path.write_bytes(t7(value))
    read = read_t7(path)
    assert read["a"] == 1
    assert read["b"] == {1: True, 2: None, 3: "text", 4: 2.5}
    assert read[3] == "three"
    for name in ("d", "f", "t", "u1", "i1", "i2", "i4", "i8"):
        assert read[name].dtype == value[name].dtype
        assert read[name].tolist() == value[name].tolist()


def test_t7_memo_refers_to_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "x.t7"
    inner = struct.pack("<iii", 3, 2, 0)  # table 2, empty
    key = [struct.pack("<id", 1, number) for number in (1, 2, 3)]
    again, outer = struct.pack("<ii", 3, 2), struct.pack("<ii", 3, 1)
    path.write_bytes(struct.pack("<iii", 3, 1, 3) + key[0] + inner + key[1] + again + key[2] + outer)
    read = read_t7(path)
    assert read[1] is read[2]
    assert read[3] is read


def test_t7_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.t7"
    whole = t7({"char": np.ones((9, 2), np.uint8), "img": "jpg/x.jpg", "list": [1, True]})
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert f"{path} is not a readable .t7 file" in refusal(lambda: read_t7(path))


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<iii", 3, 1, 1 << 30),  # a table of a billion entries
        struct.pack("<iii", 3, 1, -1),
        struct.pack("<ii", 2, 1 << 30),  # a string of a gigabyte
        struct.pack("<ii", 2, -5),
        struct.pack("<i", 7),  # a Lua function
        b"".join(struct.pack("<iii", 3, i, 1) + struct.pack("<id", 1, 1) for i in range(5000)),  # nested 5000 deep
        struct.pack("<iii", 3, 1, 1) + struct.pack("<i", 0) * 2,  # nil as a key
        t7(np.ones(4)).replace(struct.pack("<q", 4), struct.pack("<q", 1 << 60)),  # exabytes of numbers
        t7(np.ones(4)).replace(struct.pack("<qqq", 4, 1, 1), struct.pack("<qqq", 5, 1, 1)),  # beyond the storage
        t7(np.ones(4)).replace(struct.pack("<qqq", 4, 1, 1), struct.pack("<qqq", 4, 2, 1)),
        t7(np.ones(4)).replace(struct.pack("<qqq", 4, 1, 1), struct.pack("<qqq", 4, 0, 5)),
        t7(np.ones(4)).replace(struct.pack("<qqq", 4, 1, 1), struct.pack("<qqq", 4, -1, 1)),
        t7(np.ones(4)).replace(struct.pack("<qqq", 4, 1, 1), struct.pack("<qqq", 1 << 50, 0, 1)),
        t7(np.ones(4)).replace(b"torch.DoubleTensor", b"nn.SpatialSoftMaxx"),
        b"",
    ],
)
def test_hostile_t7_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.t7"
    path.write_bytes(content)
    assert str(path) in refusal(lambda: read_t7(path))


def test_char_matrix_is_read_by_columns_and_zero_is_padding(tmp_path: Path) -> None:
    char = np.zeros((201, 2), np.uint8)
    char[:5, 0] = [1, 70, 2, 0, 3]  # "a", space, "b", none, "c"
    char[:3, 1] = [37, 60, 27]  # the "-" at both of its places, "0"
    assert decode_char(char, tmp_path) == ("a bc", "--0")
    assert len(ALPHABET) == 70
    assert (ALPHABET[36], ALPHABET[59], ALPHABET[69]) == ("-", "-", " ")
    assert "shape (10, 201), not 201 x captions" in refusal(lambda: decode_char(np.ones((10, 201)), tmp_path))
    char[0, 0] = 71
    assert "outside 0..70" in refusal(lambda: decode_char(char, tmp_path))


def test_t7_of_another_image_or_without_captions(tmp_path: Path) -> None:
    keys = make_cub(tmp_path, captions="icml2016")
    path = tmp_path / "cub_icml" / f"{keys[0]}.t7"
    path.write_bytes(t7({"img": f"{keys[1]}.jpg", "char": np.ones((201, 1), np.uint8)}))
    assert f"{path} holds the captions of {keys[1].split('/')[1]}.jpg" in refusal(CUB(root=tmp_path).read)
    path.write_bytes(t7({"img": f"{keys[0]}.jpg"}))
    assert f"{path} holds no `char` matrix" in refusal(CUB(root=tmp_path).read)


# As in AttnGAN's birds/train/class_info.pickle: Python 2, protocol 0, a NumPy integer by numpy.core.multiarray.scalar.
CLASS_INFO = (
    rb"(lp0|cnumpy.core.multiarray|scalar|p1|(cnumpy|dtype|p2|(S'i8'|p3|I0|I1|tp4|Rp5|(I3|S'<'|p6|NNNI-1|I-1|I0|tp7|b"
    rb"S'\x02\x00\x00\x00\x00\x00\x00\x00'|p8|tp9|Rp10|ag10|a."
).replace(b"|", b"\n")


def test_pickles_of_python_2_and_numpy_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pickle"
    for content in (CLASS_INFO, CLASS_INFO.replace(b"numpy.core", b"numpy._core")):
        path.write_bytes(content)
        assert read_pickle(path) == [2, 2]
    path.write_bytes(pickle.dumps([np.float32(1.5), np.arange(3)], protocol=4))
    number, array = read_pickle(path)
    assert number == 1.5
    assert array.tolist() == [0, 1, 2]


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return eval, (f"open({str(self.target)!r}, 'w')",)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_cannot_run_code(tmp_path: Path, protocol: int) -> None:
    make_cub(tmp_path)
    path = tmp_path / "birds" / "train" / "filenames.pickle"
    path.write_bytes(pickle.dumps([Hostile(tmp_path / "owned")], protocol=protocol))
    message = refusal(CUB(root=tmp_path).read)
    assert str(path) in message
    assert "eval" in message
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"(lp0\nV", b"\x80\x04\x95", CLASS_INFO[:-30], b"cnumpy\nndarray\n(I-5\ntR."])
def test_damaged_pickles_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pickle"
    path.write_bytes(content)
    assert str(path) in refusal(lambda: read_pickle(path))


# Masks


def test_three_votes_of_five_are_foreground(tmp_path: Path) -> None:
    votes = np.array([[0, 51, 102, 153, 204, 255]], np.uint8)
    path, photo = tmp_path / "mask.png", np.zeros((1, 6, 3), np.uint8)
    grey = Image.fromarray(votes)
    with_alpha = Image.merge("LA", (grey, Image.new("L", grey.size, 255)))
    for image in (grey, grey.convert("RGB"), grey.quantize(), with_alpha):
        image.save(path)
        assert read_votes(path, photo).tolist() == [[0, 0, 0, 1, 1, 1]], image.mode
        assert read_votes(path, photo).dtype == np.uint8
    Image.fromarray(votes >= 153).save(path)  # mode 1
    assert read_votes(path, photo).tolist() == [[0, 0, 0, 1, 1, 1]]
    pickle.dumps((read_votes, read_segmim))  # they go to worker processes


def test_mask_of_another_size_or_no_image(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.new("L", (30, 20)).save(path)
    message = refusal(lambda: read_votes(path, np.zeros((20, 31, 3), np.uint8)))
    assert f"{path} is 30x20 but its image is 31x20: " in message
    path.write_bytes(path.read_bytes()[:40])
    assert f"{path} is not a readable mask" in refusal(lambda: read_votes(path, np.zeros((20, 30, 3), np.uint8)))


def iou(ours: np.ndarray, theirs: np.ndarray) -> float:
    return (ours.astype(bool) & theirs).sum() / (ours.astype(bool) | theirs).sum()


@pytest.mark.parametrize(("quality", "bound"), [(95, 0.95), (75, 0.9)])
def test_blue_flower_on_blue_is_told_from_the_background(tmp_path: Path, quality: int, bound: float) -> None:
    disc = np.hypot(*np.mgrid[-150:150, -160:160]) <= 100
    photo, cutout = np.zeros((2, 300, 320, 3), np.uint8)
    photo[...], cutout[...] = (30, 140, 40), (0, 0, 254)
    photo[disc] = cutout[disc] = (0, 0, 254)
    Image.fromarray(photo).save(tmp_path / "photo.jpg", quality=quality)
    Image.fromarray(cutout).save(tmp_path / "segmim.jpg", quality=quality)
    noisy = np.asarray(Image.open(tmp_path / "photo.jpg"))
    assert iou(read_segmim(tmp_path / "segmim.jpg", noisy), disc) >= bound


def test_segmim_of_another_size_is_resized(tmp_path: Path) -> None:
    photo = np.full((120, 160, 3), (200, 60, 60), np.uint8)
    cutout = photo[::2, ::2].copy()
    cutout[:, :40] = (0, 0, 254)
    Image.fromarray(cutout).save(tmp_path / "segmim.png")
    mask = read_segmim(tmp_path / "segmim.png", photo)
    assert mask.shape == (120, 160)
    assert not mask[:, :78].any()
    assert mask[:, 82:].all()


def test_specks_go_and_small_holes_are_filled() -> None:
    photo = np.full((100, 100, 3), (200, 60, 60), np.uint8)
    cutout = photo.copy()
    flower = np.hypot(*np.mgrid[-50:50, -50:50]) <= 30
    cutout[~flower] = (0, 0, 254)
    cutout[5, 5] = photo[5, 5]  # a speck left over
    cutout[40:45, 40:45] = (30, 30, 230)  # bluish and repainted, but no part of the background
    cutout[50:52, 50:52] = (0, 0, 254)  # 0.04 % of the area
    cutout[60:65, 50:55] = (0, 0, 254)  # 0.25 %: a gap between petals
    mask = segmim_foreground(cutout, photo)
    assert mask is not None
    assert mask[5, 5] == 0
    assert mask[50:52, 50:52].all()
    assert mask[40:45, 40:45].all()
    assert not mask[60:65, 50:55].any()


@pytest.mark.parametrize("all_blue", [True, False])
def test_segmim_without_flower_or_background_counts_as_all_flower(
    tmp_path: Path, all_blue: bool, caplog: pytest.LogCaptureFixture
) -> None:
    photo = np.full((60, 60, 3), (200, 60, 60), np.uint8)
    Image.fromarray(np.full_like(photo, (0, 0, 254)) if all_blue else photo).save(tmp_path / "segmim.png")
    assert read_segmim(tmp_path / "segmim.png", photo).all()
    assert str(tmp_path / "segmim.png") in caplog.text


# Oxford-102


@pytest.mark.parametrize("place", ["oxford102", "flowers-102", "flowers", "."])
@pytest.mark.parametrize("split", ["pickles", "classes", "ids"])
def test_oxford_reads_every_field(tmp_path: Path, place: str, split: str) -> None:
    keys = make_oxford102(tmp_path, masks=True, split=split, place=place)
    records = Oxford102(root=tmp_path, masks=True).read()
    assert records.keys == tuple(keys)
    assert (records.name, records.expected, records.notes) == ("oxford102", 18, ())
    assert records.labels.tolist() == [0, 1, 2, 3, 4, 5] * 3
    assert records.classes == tuple(f"class_{i:05d}" for i in range(1, 7))
    assert {label + 1 for label in records.labels[records.test]} == FLOWER_TEST
    assert records.captions[1] == sentences("image_00002")
    assert records.read_mask is not None
    photo = np.asarray(Image.open(records.images[0]).convert("RGB"))
    mask = records.read_mask(records.masks[0], photo)
    assert mask[:, 14:34].all()
    assert not mask[:, :10].any()


def test_oxford_split_is_never_setid(tmp_path: Path) -> None:
    make_oxford102(tmp_path, split=None)  # with its setid.mat
    message = refusal(Oxford102(root=tmp_path).read)
    assert "testclasses.txt and trainvalclasses.txt in flowers_icml or cvpr2016_flowers" in message
    assert "python run.py task=prepare data=oxford102" in message


def test_partial_oxford(tmp_path: Path) -> None:
    labels = [1 + i % 102 for i in range(8189)]
    keys = make_oxford102(tmp_path, labels=labels, photos=12, procedural=False)
    assert "12 of 8,189 images" in refusal(Oxford102(root=tmp_path).read)
    records = Oxford102(root=tmp_path, allow_missing=True).read()
    assert records.keys == tuple(keys[:12])
    assert records.notes[0] == "12 of 8,189 images found"
    assert "images for testing, not 1,155" in records.notes[1]  # 2 of 102 classes are not Reed's split


def test_bad_oxford_files(tmp_path: Path) -> None:
    make_oxford102(tmp_path, procedural=False)
    assert "imagelabels.mat labels 18 images, not 8,189" in refusal(Oxford102(root=tmp_path).read)
    make_oxford102(tmp_path, labels=[1, 2, 103])
    assert "labels outside 1 to 102" in refusal(Oxford102(root=tmp_path).read)
    make_oxford102(tmp_path, labels=[1, 2, 3, 4, 5])  # image_00006 to image_00018 are still there
    assert "has image_00006.jpg but imagelabels.mat labels 5 images" in refusal(Oxford102(root=tmp_path).read)
    path = tmp_path / "oxford102" / "imagelabels.mat"
    path.write_bytes(path.read_bytes()[:150])
    assert f"{path} is not the labels of Oxford-102" in refusal(Oxford102(root=tmp_path).read)
    path.unlink()
    assert f"{path} is absent: it comes with 102flowers.tgz" in refusal(Oxford102(root=tmp_path).read)


# A user's folder


OWN = {
    f"{kind}/{i}": [f"a {kind} number {i}", f"one {kind}, seen"]
    for kind in "finch gull heron ibis".split()
    for i in "ab"
}


@pytest.mark.parametrize("table", [True, False])
def test_folder_with_classes(tmp_path: Path, table: bool) -> None:
    make_folder(tmp_path, OWN, table=table, masks=True)
    records = Folder(root=tmp_path, masks=True).read()
    assert records.keys == tuple(sorted(OWN))
    assert records.classes == ("finch", "gull", "heron", "ibis")
    assert records.captions == tuple(tuple(OWN[key]) for key in sorted(OWN))
    assert (records.name, records.expected, records.notes) == ("folder", 8, ())
    assert len(set(records.labels[records.test])) == 2
    assert not set(records.labels[records.test]) & set(records.labels[~records.test])
    assert records.read_mask is not None
    mask = records.read_mask(records.masks[0], np.asarray(Image.open(records.images[0]).convert("RGB")))
    assert mask.sum() == 40


def test_folder_without_classes_makes_each_image_one(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"photo{i}": [f"this is photo {i}"] for i in range(10)})
    records = Folder(root=tmp_path).read()
    assert records.labels.tolist() == list(range(10))
    assert "each image is a class of its own" in records.notes[0]
    assert records.test.sum() == 2
    assert (Folder(root=tmp_path).read().test == records.test).all()
    write_more = {f"photo{i}": ["text"] for i in range(10, 12)}
    make_folder(tmp_path / "other", write_more)
    assert "holds 2 images to use" in refusal(Folder(root=tmp_path / "other").read)


def test_folder_with_few_classes_splits_each(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"{kind}/{i}": ["text"] for kind in ("finch", "gull") for i in range(6)})
    records = Folder(root=tmp_path).read()
    assert np.bincount(records.labels[records.test]).tolist() == [1, 1]
    for path in list((tmp_path / "images" / "gull").glob("*.jpg"))[1:]:
        path.unlink()
    assert "class gull has one image" in refusal(Folder(root=tmp_path, allow_missing=True).read)


def test_folder_labels_csv(tmp_path: Path) -> None:
    make_folder(tmp_path, OWN)
    path = tmp_path / "labels.csv"
    rows = [f"images/{key}.jpg,{'small' if key[-1] == 'a' else 'large'}" for key in OWN]
    path.write_text("\n".join(["image,class", *rows]))
    assert Folder(root=tmp_path).read().classes == ("large", "small")
    path.write_text("\n".join([*rows, "finch/a,large"]))
    assert f"{path} line 9 labels finch/a again, after line 1" in refusal(Folder(root=tmp_path).read)
    path.write_text("\n".join(rows[1:]))
    assert f"{path} has no class for finch/a" in refusal(Folder(root=tmp_path).read)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("heron/z.jpg,a heron", "line 10 is about heron/z.jpg, which is not in"),
        ("heron/a.jpg,a heron, standing", "line 10 has 3 columns, not image and text"),
    ],
)
def test_folder_captions_csv_errors_name_the_line(tmp_path: Path, row: str, words: str) -> None:
    make_folder(tmp_path, {key: texts[:1] for key, texts in OWN.items()})
    path = tmp_path / "captions.csv"
    path.write_text(path.read_text() + row)
    assert f"{path} {words}" in refusal(Folder(root=tmp_path).read)


def test_folder_with_missing_captions(tmp_path: Path) -> None:
    make_folder(tmp_path, OWN, table=False)
    text = tmp_path / "images" / "gull" / "a.txt"
    text.write_text("\n")
    assert f"{text} holds no caption" in refusal(Folder(root=tmp_path).read)
    records = Folder(root=tmp_path, allow_missing=True).read()
    assert "gull/a" not in records.keys
    assert records.notes == (f"1 caption files without a caption, such as {text}", "7 of 8 images' captions found")
    text.unlink()
    assert "7 of 8 images' captions (the first absent one is gull/a)" in refusal(Folder(root=tmp_path).read)
    for path in tmp_path.rglob("*.txt"):
        path.unlink()
    assert "there is no" in refusal(Folder(root=tmp_path).read)
    assert Folder(root=tmp_path, captions="none").read().captions == ()


def test_folder_absent_or_ambiguous(tmp_path: Path) -> None:
    assert "data.root=FOLDER" in refusal(Folder(root=tmp_path).read)
    make_folder(tmp_path, OWN)
    assert "masks is absent" in refusal(Folder(root=tmp_path, masks=True).read)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "finch" / "a.png")
    assert "have one name" in refusal(Folder(root=tmp_path).read)
    assert "choose auto or none" in refusal(lambda: Folder(root=tmp_path, captions="attngan"))
    assert "data=folder has no attributes" in refusal(lambda: Folder(root=tmp_path, attributes=True))
