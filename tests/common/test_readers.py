"""CUB and Oxford-102 in tiny copies of their layouts: what is read, and what is said of what is wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.readers import cub
from common.data.readers.cub import CUB, read_attribute_labels
from common.data.readers.oxford102 import Oxford102
from tests.worlds.layouts import FLOWER_TEST, make_cub, make_oxford102, refusal, sentences

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
    assert "task=prepare data=cub" in message


def test_wholly_absent_dataset_answers_with_both_ways_on(tmp_path: Path) -> None:
    birds, flowers = refusal(CUB(root=tmp_path).read), refusal(Oxford102(root=tmp_path).read)
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
    assert "data.caltech.edu/records/w9d68-gec53" in refusal(CUB(root=tmp_path, masks=True).read)
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


def test_oxford_has_other_splits_under_other_names(tmp_path: Path) -> None:
    """papers/jem.md, number 16: the test classes of the permutation, and the share of the files."""
    make_oxford102(tmp_path, labels=range(1, 103), split=None)
    records = Oxford102(root=tmp_path, split="permutation").read()
    wanted = [10, 13, 22, 37, 38, 40, 45, 47, 48, 59, 65, 66, 68, 71, 82, 84, 88, 89, 91, 99]
    assert sorted(records.labels[records.test] + 1) == wanted
    assert records.name == "oxford102-permutation"
    assert "published split" in records.notes[-1]
    records = Oxford102(root=tmp_path, split="files").read()
    assert records.rows("test").tolist() == list(range(76, 102))
    assert "data.split" in refusal(lambda: Oxford102(root=tmp_path, split="setid"))
    assert "data.split=permutation" in refusal(lambda: Oxford102(root=tmp_path).read())


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
