"""The sources of captions and of class-disjoint splits, well-formed and not."""

import pickle
import re
from pathlib import Path

import pytest

from common.data.readers.captions import PLACES, read_sentences
from common.data.readers.cub import CUB, TEST_CLASSES
from common.data.readers.old_formats import read_pickle
from common.data.readers.oxford102 import Oxford102
from tests.worlds.layouts import (
    make_cub,
    make_oxford102,
    refusal,
    sentences,
    write_captions,
    write_split,
)

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
    assert "data.captions=reed" in refusal(lambda: CUB(root=birds, captions="reed"))


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
