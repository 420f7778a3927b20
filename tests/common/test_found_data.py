"""Data as people have them: links, litter, composed letters, encodings, tables of all kinds, folders too deep."""

import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common import files
from common.data.edit_pairs import make_pairs, read_csv, write_csv
from common.data.readers.captions import read_sentences
from common.data.readers.cub import CUB
from common.data.readers.deepfashion import DeepFashion
from common.data.readers.fashion_csv import HEADER, read_joints, read_pairs
from common.data.readers.folder import Folder
from common.data.readers.old_formats import read_pickle, read_t7
from common.data.readers.oxford102 import Oxford102
from common.data.readers.presence import DatasetReader
from common.data.records import Records
from common.errors import UserError
from common.files import read_text
from tests.worlds.layouts import make_cub, make_folder, make_oxford102, refusal

HERE = Path(__file__).parents[2]
OWN = {f"{kind}/{i}": (f"a {kind}, number {i}",) for kind in ("finch", "gull", "heron", "ibis") for i in "ab"}
KEY = "WOMEN/Dresses/id_0000000{}/01_{}"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    make_folder(tmp_path / "own", OWN)
    return tmp_path / "own"


def make_deepfashion(root: Path) -> None:
    for i in range(1, 5):
        for view in ("1_front", "2_side"):
            path = root / "deepfashion/Img/img" / f"{KEY.format(i, view)}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (256, 256), (i, i, i)).save(path)


def read_deepfashion(root: Path) -> Records:
    return DeepFashion(root=root, pairs="all", allow_missing=True).read()


WORLDS: dict[str, tuple[Callable[[Path], object], Callable[[Path], Records], str]] = {
    "cub": (make_cub, lambda root: CUB(root=root).read(), "CUB_200_2011/images"),
    "oxford102": (make_oxford102, lambda root: Oxford102(root=root).read(), "oxford102/jpg"),
    "folder": (lambda root: make_folder(root, OWN), lambda root: Folder(root=root).read(), "images"),
    "deepfashion": (make_deepfashion, read_deepfashion, "deepfashion/Img/img"),
}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[[Path], Records], Path]:
    """A data set's root, its reader, and the folder of its images."""
    make, read, images = WORLDS[request.param]
    make(tmp_path / "data")
    return tmp_path / "data", read, tmp_path / "data" / images


# ---- links and litter


def test_links_to_folders_are_followed(world: tuple[Path, Callable[[Path], Records], Path], tmp_path: Path) -> None:
    root, read, images = world
    before = read(root)
    elsewhere = tmp_path / "elsewhere"
    for folder in [path for path in images.iterdir() if path.is_dir()] or [images]:
        target = elsewhere / folder.name
        target.parent.mkdir(exist_ok=True)
        shutil.move(folder, target)
        folder.symlink_to(target)
    after = read(root)
    assert (after.keys, after.classes, after.notes) == (before.keys, before.classes, before.notes)
    assert all(path.is_file() for path in after.images)


@pytest.mark.parametrize("name", ["folder", "deepfashion"])  # the others read lists of files
def test_a_link_without_an_end_is_refused(tmp_path: Path, name: str) -> None:
    make, read, images = WORLDS[name]
    make(tmp_path)
    deep = next(path for path in (tmp_path / images).rglob("*") if path.is_dir())
    (deep / "again").symlink_to(tmp_path / images)
    message = refusal(lambda: read(tmp_path))
    assert "again is a link" in message or f"{images} is a link" in message
    assert "remove the link" in message


def test_two_links_to_one_folder_are_no_loop(own: Path) -> None:
    (own / "images/jay").symlink_to(own / "images/ibis")
    (own / "captions.csv").write_text("".join(f"{key},a bird\n" for key in (*OWN, "jay/a", "jay/b")))
    assert "jay/a" in Folder(root=own).read().keys


def test_what_systems_leave_is_passed_over_and_said_once(
    world: tuple[Path, Callable[[Path], Records], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root, read, images = world
    before = read(root)
    photo = before.images[0]
    for place in (images, photo.parent):
        for folder in (".ipynb_checkpoints", ".thumbnails", "__MACOSX", "@eaDir"):
            (place / folder).mkdir(exist_ok=True)
            shutil.copy(photo, place / folder / f"copy{photo.suffix}")
        shutil.copy(photo, place / f"._{photo.name}")
        (place / "Thumbs.db").write_bytes(b"\0")
        (place / ".DS_Store").write_bytes(b"\0")
    caplog.clear()
    with caplog.at_level("INFO"):
        after = read(root)
        read(root)  # as for each network that is needed
    assert (after.keys, after.classes, after.notes) == (before.keys, before.classes, before.notes)
    assert len(set(caplog.messages)) == len(caplog.messages)
    if before.name == "folder":
        assert "passed over" in caplog.text


# ---- composed letters


@pytest.mark.parametrize(("disk", "table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_are_matched_however_their_letters_are_composed(tmp_path: Path, disk: str, table: str) -> None:
    keys = [f"{kind}/{i}" for kind in ("caf\u00e9", "\u00fcber", "se\u00f1or", "gar\u00e7on") for i in ("\u00e0", "b")]
    on_disk, in_table = ([unicodedata.normalize(form, key) for key in keys] for form in (disk, table))  # type: ignore[arg-type]
    make_folder(tmp_path, {key: ("a bird",) for key in on_disk})
    for key in in_table:
        mask = tmp_path / "masks" / f"{key}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (48, 40), 255).save(mask)
    (tmp_path / "captions.csv").write_text("".join(f"{key}.jpg,a bird\n" for key in in_table), encoding="utf-8")
    (tmp_path / "labels.csv").write_text("".join(f"{key},{key[:2]}\n" for key in in_table), encoding="utf-8")
    records = Folder(root=tmp_path, masks=True).read()
    assert len(records) == 8
    assert all(path.is_file() for path in (*records.images, *records.masks))
    assert records.keys == tuple(sorted(keys))  # the same for every copy, and so is the split
    (tmp_path / "captions.csv").unlink()
    for key in in_table:
        text = tmp_path / "images" / f"{key}.txt"
        text.parent.mkdir(exist_ok=True)
        text.write_text("a bird")
    assert Folder(root=tmp_path).read().keys == records.keys
    write_csv(make_pairs(records, "test"), records, tmp_path / "pairs.csv")
    content = (tmp_path / "pairs.csv").read_text(encoding="utf-8")
    (tmp_path / "pairs.csv").write_text(unicodedata.normalize(table, content), encoding="utf-8")  # type: ignore[arg-type]
    assert len(read_csv(tmp_path / "pairs.csv", records)) == records.test.sum()


def test_names_with_accents_are_read_under_any_locale(tmp_path: Path) -> None:
    """LC_ALL=C with names in bytes, and an output that takes ASCII alone."""
    root = tmp_path / "d\u00e9j\u00e0"
    make_folder(root, {f"caf\u00e9/{i}": ("a bird",) for i in range(6)})
    code = "import sys; from common.data.readers.folder import Folder; r = Folder(root=sys.argv[1]).read(); "
    code += "assert all(p.is_file() for p in r.images); print(ascii(r.keys), r.test.tolist())"
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", code, str(root)]
    done = subprocess.run(command, env=os.environ | env, cwd=HERE, capture_output=True, text=True, check=True)
    expected = Folder(root=root).read()
    assert done.stdout.strip() == f"{expected.keys!a} {expected.test.tolist()}"


def test_a_name_that_is_no_text_is_a_sentence(own: Path) -> None:
    try:
        (own / "images/finch/a.jpg").rename(os.fsdecode(os.fsencode(own / "images/finch") + b"/\xe9.jpg"))
    except OSError:
        pytest.skip("a file system that takes UTF-8 alone")
    message = refusal(Folder(root=own).read)
    assert "udce9.jpg" in message
    assert "rename it" in message


# ---- texts

WORDS = "ein gr\u00fcner Vogel\nl'oiseau au caf\u00e9\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_sentences_in_any_unicode_and_with_any_line_ends(tmp_path: Path, encoding: str, ends: str) -> None:
    (tmp_path / "a.txt").write_bytes(WORDS.replace("\n", ends).encode(encoding))
    assert read_sentences(tmp_path / "a.txt", stray=None) == tuple(WORDS.splitlines())


def test_another_encoding_is_named_with_its_line(own: Path) -> None:
    content = (own / "captions.csv").read_text().replace("a heron, number b", "a h\u00e9ron, number b")
    for encoding in ("cp1252", "latin1"):
        (own / "captions.csv").write_bytes(content.encode(encoding))
        message = refusal(Folder(root=own).read)
        assert f"{own / 'captions.csv'} line 7" in message
        assert "Windows-1252" in message
        assert "h\u00e9ron" in message
        assert "UTF-8" in message
    for encoding in ("utf-16", "utf-8-sig"):
        (own / "captions.csv").write_bytes(content.encode(encoding))
        assert "a h\u00e9ron, number b" in [sentence for each in Folder(root=own).read().captions for sentence in each]


def test_every_table_of_deepfashion_may_be_unicode_of_any_kind(tmp_path: Path) -> None:
    make_deepfashion(tmp_path)
    home, names = tmp_path / "deepfashion", [KEY.format(1, view) for view in ("1_front", "2_side")]
    (home / "Eval").mkdir()
    rows = [f"img/{KEY.format(i, v)}.jpg id_0000000{i} train" for i in range(1, 5) for v in ("1_front", "2_side")]
    table = "\n".join(["8", "image_name item_id evaluation_status", *rows])
    (home / "Eval/list_eval_partition.txt").write_text(table, encoding="utf-16")
    assert len(read_deepfashion(tmp_path)) == 8
    (tmp_path / "pairs.csv").write_text(f"from,to\r{names[0]}.jpg,{names[1]}.jpg\r", encoding="utf-8-sig")
    assert read_pairs(tmp_path / "pairs.csv") == [(names[0], names[1])]


# ---- captions.csv and labels.csv

ROWS = [(f"{key}.jpg", OWN[key][0]) for key in OWN]
TABLES = {
    "blanks after commas": [f'{image}, "{text}"' for image, text in ROWS],
    "semicolons": [f"{image};{text}" for image, text in ROWS],
    "tabs": ["image\tcaption", *(f"{image}\t{text}" for image, text in ROWS)],
    "bars": ["image_name| comment_number| comment", *(f"{image}| 0| {text}" for image, text in ROWS)],
    "an index": [f'{i},{image},"{text}"' for i, (image, text) in enumerate(ROWS)],
    "pandas": [",image,caption", *(f'{i},{image},"{text}"' for i, (image, text) in enumerate(ROWS))],
    "other headings": ["file_name,text", *(f'{image},"{text}"' for image, text in ROWS)],
    "the text first": ["caption,image", *(f'"{text}",{image}' for image, text in ROWS)],
    "more columns": ["image,split,caption", *(f'{image},train,"{text}"' for image, text in ROWS)],
    "capitals": ["Image,Caption", *(f'{image.replace(".jpg", ".JPG")},"{text}"' for image, text in ROWS)],
    "folders of Windows": [f'images\\{image.replace("/", chr(92))},"{text}"' for image, text in ROWS],
    "empty lines": ["", *(f'{image},"{text}"\n,\n' for image, text in ROWS)],
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_captions_in_all_their_spellings(own: Path, name: str) -> None:
    (own / "captions.csv").write_text("\n".join(TABLES[name]) + "\n")
    assert Folder(root=own).read().captions == tuple(OWN[key] for key in sorted(OWN))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["image,caption", *(f"{image},{text}" for image, text in ROWS)], "line 2 has 3 columns, not image and text"),
        ([f'{image},"{text}",train' for image, text in ROWS], "which one holds the text is not certain"),
        ([image for image, _ in ROWS], "line 1 has 1 columns, not image and text"),
        ([f'nest{image},"{text}"' for image, text in ROWS], "line 1 is about nestfinch/a.jpg, which is not in"),
    ],
)
def test_a_table_that_is_not_certain_is_refused_with_its_real_fault(own: Path, rows: list[str], words: str) -> None:
    (own / "captions.csv").write_text("\n".join(rows))
    message = refusal(Folder(root=own).read)
    assert str(own / "captions.csv") in message
    assert words in message


def test_labels_may_be_numbers(own: Path) -> None:
    (own / "labels.csv").write_text("".join(f"{key};{row % 4}\n" for row, key in enumerate(OWN)))
    assert Folder(root=own).read().classes == ("0", "1", "2", "3")


# ---- key points


def line(first: str, second: str = "7") -> str:
    rest = ", ".join(["-1"] * 16)
    return f"{HEADER}\n{KEY.format(1, '1_front')}.jpg: [{first}, {second}, {rest}]: [{first}, {second}, {rest}]\n"


@pytest.mark.parametrize(
    ("value", "found"),
    [
        *(
            ("12", 12),
            ("12.0", 12),
            ("12.4", 12),
            ("12.6", 13),
            ("0.4", 0),
            ("255.4", 255),
            ("255.9", 255),
            ("1e2", 100),
        ),
        *(("1e2", 100), ("-0.5", -1), ("-1.0", -1), ("-1e-9", -1), ("256", -1)),
    ],
)
def test_key_points_with_a_point_are_in_the_nearest_pixel_and_below_nought_missing(
    tmp_path: Path, value: str, found: int
) -> None:
    (tmp_path / "a.csv").write_text(line(value))
    joints, _ = read_joints([tmp_path / "a.csv"], "256")
    assert next(iter(joints.values()))[:2].tolist() == [[found, found], [7, 7]]


@pytest.mark.parametrize("value", ["true", "false", "null", '"12"', "NaN", "Infinity", "1e999", "[1]"])
def test_key_points_that_are_no_numbers_are_refused(tmp_path: Path, value: str) -> None:
    (tmp_path / "a.csv").write_text(line(value))
    assert f"{tmp_path / 'a.csv'} line 2" in refusal(lambda: read_joints([tmp_path / "a.csv"], "256"))


# ---- folders too deep


@pytest.mark.parametrize("deeper", ["CUB_200_2011", "archive", "downloads/archive", "birds"])
def test_cub_is_found_where_it_was_unpacked_too_deep(tmp_path: Path, deeper: str) -> None:
    make_cub(tmp_path / "flat", masks=True, attributes=3)
    expected = CUB(root=tmp_path / "flat", masks=True, attributes=True).read()
    shutil.move(tmp_path / "flat", tmp_path / "root" / deeper)
    records = CUB(root=tmp_path / "root", masks=True, attributes=True).read()
    assert (records.keys, records.captions, records.test.tolist()) == (
        expected.keys,
        expected.captions,
        expected.test.tolist(),
    )
    assert all(path.is_file() for path in (*records.images, *records.masks))


@pytest.mark.parametrize(("name", "deeper"), [("oxford102", "archive/flowers"), ("deepfashion", "archive/x")])
def test_the_others_are_found_too(tmp_path: Path, name: str, deeper: str) -> None:
    make, read, _ = WORLDS[name]
    make(tmp_path / "flat")
    keys = read(tmp_path / "flat").keys
    (tmp_path / "root" / deeper).parent.mkdir(parents=True)
    shutil.move(tmp_path / "flat", tmp_path / "root" / deeper)
    assert read(tmp_path / "root").keys == keys


def test_a_folder_says_where_the_images_are(own: Path) -> None:
    assert f"data.root={own} has it" in refusal(Folder(root=own.parent).read)


# ---- no files, and such that may not be read


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("kind", [pipe, folder])
@pytest.mark.parametrize("name", ["captions.csv", "labels.csv"])
def test_tables_that_are_no_files_are_a_sentence(own: Path, kind: Callable[[Path], None], name: str) -> None:
    (own / "labels.csv").write_text("".join(f"{key},{key[0]}\n" for key in OWN))
    kind(own / name)
    message = refusal(Folder(root=own).read)
    assert f"{own / name} cannot be read" in message


@pytest.mark.parametrize("kind", [pipe, folder])
@pytest.mark.parametrize(
    "name",
    [
        "images.txt",
        "classes.txt",
        "image_class_labels.txt",
        "bounding_boxes.txt",
        "attributes/image_attribute_labels.txt",
    ],
)
def test_tables_of_cub_that_are_no_files(tmp_path: Path, kind: Callable[[Path], None], name: str) -> None:
    make_cub(tmp_path, attributes=3)
    kind(tmp_path / "CUB_200_2011" / name)
    assert name.rpartition("/")[2] in refusal(CUB(root=tmp_path, attributes=True).read)


@pytest.mark.parametrize("read", [read_text, read_pickle, read_t7, read_sentences], ids=lambda read: read.__name__)
def test_no_reader_waits_for_a_pipe(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert f"{tmp_path / 'pipe'} cannot be read" in refusal(lambda: read(tmp_path / "pipe"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_caption_file_that_may_not_be_read_is_a_sentence(own: Path) -> None:
    (own / "captions.csv").chmod(0)
    assert f"{own / 'captions.csv'} cannot be read (Permission denied)" in refusal(Folder(root=own).read)


def test_a_file_that_the_system_cannot_read_is_a_sentence(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "regular", refuse)
    assert f"{own / 'captions.csv'} cannot be read (Permission denied)" in refusal(Folder(root=own).read)


def test_a_photo_that_is_a_pipe_or_a_broken_link_is_not_lost_without_a_word(own: Path) -> None:
    pipe(own / "images/finch/a.jpg")
    (own / "images/finch/b.jpg").unlink()
    (own / "images/finch/b.jpg").symlink_to("nowhere.jpg")
    assert Folder(root=own).read().keys == tuple(sorted(OWN))  # the store refuses them by name, or leaves them out


def test_readers_have_their_facts() -> None:
    for reader in (CUB, Oxford102, DeepFashion, Folder):
        assert issubclass(reader, DatasetReader)
        with pytest.raises(UserError, match=r"data\.captions=nope"):
            reader(root=".", captions="nope")
    assert np.all([reader.dataset.name for reader in (CUB, Oxford102, DeepFashion, Folder)])
