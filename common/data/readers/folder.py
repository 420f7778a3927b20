"""Reader of a user's own images with captions, labels or masks beside them."""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np

from common.data.readers.captions import WORD, read_sentences
from common.data.readers.masks import read_votes, with_masks
from common.data.readers.presence import Dataset, DatasetReader, files_below, nested
from common.data.records import Records
from common.errors import UserError
from common.files import composed, read_text

OWN = Dataset("data=folder", "folder", "images", "", "", "add what is absent")
SUFFIXES = (".jpg", ".jpeg", ".png")
DELIMITERS = (",", ";", "\t", "|")
TEXTS = {"caption", "captions", "text", "sentence", "comment", "description", "class", "label", "category", "species"}
HEADINGS = TEXTS | {"image", "images", "image_name", "image_id", "file", "file_name", "filename", "path", "photo"}
FEWEST = 4  # images: two to train on and two to test on


class Folder(DatasetReader):
    """A user's own images.

    root/images/**/*.jpg, .jpeg or .png
         captions.csv        "<image>,<caption>" a row, as many rows for an image as it has captions; <image> as below
                             root/images, with or without its ending; see `read_rows` for what else is understood
                             else <image>.txt beside each image, a caption a line
         labels.csv          "<image>,<class>" a row; else the sub-folder that an image lies in is its class
         masks/<image>.png   grey, of the image's size, foreground >= 128

    Classes:  without classes, or with only one, each image becomes a class of its own and the notes say so, since a
              mismatched caption is one of another class
    Splits:   names are put in the order of their SHA-256, which no file system and no run changes. With four classes
              or more the first fifth of the classes, at least two, is for testing, as in the papers' data; each image
              being its own class, that is a fifth of the images. With two or three classes it is a fifth of each
              class's images
    Records:  in the order of the keys "<sub-folder>/<name>"

    allow_missing: leave out images without a caption or, if masks are needed, a mask.
    """

    dataset = OWN
    lacks = ("attributes",)

    def read(self) -> Records:
        paths, texts = self._files()
        captions, notes = self._captions(paths, texts) if self.captions == "auto" else ({}, ())
        if self.captions == "auto":
            found = np.array([key in captions for key in paths])
            notes += OWN.count(
                found,
                "images' captions",
                self.root,
                names=tuple(paths),
                expected=len(paths),
                allow_missing=self.allow_missing,
            )
        keys = tuple(key for key in paths if self.captions == "none" or key in captions)
        if len(keys) < FEWEST:
            raise UserError(
                f"{self.root} holds {len(keys)} images to use: add some, {FEWEST} are the fewest to work with."
            )
        names, class_notes = self._classes(keys)
        classes = tuple(sorted(set(names)))
        labels = np.array([classes.index(name) for name in names], np.int64)
        records = Records(
            name=OWN.name,
            root=self.root,
            keys=keys,
            images=tuple(paths[key] for key in keys),
            labels=labels,
            classes=classes,
            test=_test(keys, labels, classes),
            captions=tuple(captions[key] for key in keys) if captions else (),
            expected=len(paths),
            notes=notes + class_notes,
        )
        return with_masks(
            records,
            OWN,
            [self.root / "masks"],
            [f"{key}.png" for key in keys],
            read_votes,
            origin="your own images, as masks/<image>.png",
            needed=self.masks,
            allow_missing=self.allow_missing,
        )

    def find(self) -> Path:
        """The folder of the images. UserError where there is none."""
        folder = self.root / "images"
        if not folder.is_dir():
            deeper = nested(self.root, "images")
            where = f"data.root={deeper} has it" if deeper else "data.root=FOLDER names the folder that holds it"
            raise UserError(
                f"{folder} is not there: {where}, with captions.csv beside it, and preset=toy or "
                "data.source=procedural with data=cub draws birds instead."
            )
        return folder

    def _files(self) -> tuple[dict[str, Path], dict[str, Path]]:
        """Key -> image, in the order of the keys, and key -> the text beside it."""
        folder, images, texts = self.find(), dict[str, Path](), dict[str, Path]()
        for path in files_below(folder):
            key, suffix = composed(path.relative_to(folder).with_suffix("").as_posix()), path.suffix.lower()
            if not key.isprintable() and suffix in SUFFIXES:  # bytes that are no UTF-8, control characters
                raise UserError(f"{str(path)!r} has a name that cannot be written in UTF-8: rename it.")
            if suffix == ".txt":
                texts[key] = path
            elif suffix in SUFFIXES and images.setdefault(key, path) != path:
                raise UserError(f"{images[key]} and {path.name} have one name, which captions go by: rename one.")
        return dict(sorted(images.items())), texts

    def _captions(
        self, paths: dict[str, Path], texts: dict[str, Path]
    ) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
        """Captions of each key that has any, and a note on what was skipped. texts: key -> the text beside it."""
        file = self.root / "captions.csv"
        if file.exists():
            rows, notes = self._rows(file, paths)
            captions: dict[str, tuple[str, ...]] = {}
            for _, key, text in rows:
                if WORD.search(text):
                    captions[key] = (*captions.get(key, ()), text)
            return captions, notes
        captions = {key: read_sentences(texts[key], stray=None) for key in paths if key in texts}
        if not captions:
            raise UserError(
                f'there is no {file} and no <image>.txt beside an image: write "<image>,<caption>" rows, or '
                "choose a model that reads none."
            )
        if not (empty := [key for key, sentences in captions.items() if not sentences]):
            return captions, ()
        if not self.allow_missing:
            raise UserError(
                f"{texts[empty[0]]} holds no caption: write one a line, or data.allow_missing=true leaves the image "
                "out."
            )
        kept = {key: sentences for key, sentences in captions.items() if sentences}
        return kept, (f"{len(empty):,} caption files without a caption, such as {texts[empty[0]]}",)

    def _classes(self, keys: tuple[str, ...]) -> tuple[list[str], tuple[str, ...]]:
        """The class of each key, and a note if there are no classes."""
        file = self.root / "labels.csv"
        names = {key: key.rpartition("/")[0] or "images" for key in keys}
        if file.exists():
            rows, _ = self._rows(file, names, skip=True)
            lines: dict[str, int] = {}
            for line, key, name in rows:
                if key in lines:
                    raise UserError(
                        f"{file} line {line} labels {key} again, after line {lines[key]}: keep one of them."
                    )
                lines[key], names[key] = line, name
            if absent := [key for key in keys if key not in lines]:
                raise UserError(f'{file} has no class for {absent[0]}: add a row "{absent[0]},<class>".')
        if len(set(names.values())) > 1:
            return list(names.values()), ()
        return list(keys), (f"{self.root} has no two classes, so each image is a class of its own",)

    def _rows(
        self, file: Path, keys: Collection[str], skip: bool = False
    ) -> tuple[list[tuple[int, str, str]], tuple[str, ...]]:
        """(line, key, text) of the rows of a table; skip: pass over images that are not in keys."""
        rows, strangers = [], 0
        for line, image, text in read_rows(file, keys):
            if (key := key_of(image)) in keys:
                rows.append((line, key, text))
            elif skip or self.allow_missing:
                strangers += 1
            else:
                raise UserError(
                    f"{file} line {line} is about {image}, which is not in {self.root}/images: add the image, or "
                    "data.allow_missing=true passes over it."
                )
        return rows, (f"{strangers:,} rows of {file.name} are about images that are not there",) if strangers else ()


def key_of(image: str) -> str:
    """The key of an image as a table names it: below images/, with or without that and an ending."""
    name = composed(image.strip()).replace("\\", "/").removeprefix("./").removeprefix("images/")
    stem, dot, ending = name.rpartition(".")
    return stem if dot + ending.lower() in SUFFIXES else name


def read_rows(file: Path, keys: Collection[str]) -> list[tuple[int, str, str]]:
    """(line, image, text) of a table. keys: of the images that are there.

    Columns are parted by commas, semicolons, tabs or bars, with or without blanks after them, whichever lets most rows
    name an image. A first row with one of HEADINGS is a heading. Of more than two columns the one with the images is
    told by them, the one with the text by its heading, or by being the only one that does not number rows.
    UserError: a row of another length, columns that cannot be told apart.
    """
    content = read_text(file)
    tables = [_parse(file, content, delimiter) for delimiter in DELIMITERS]
    hits = [sum(any(key_of(cell) in keys for cell in cells) for _, cells in rows) for rows in tables]
    rows = tables[int(np.argmax(hits))]
    if not rows:
        return []
    heading = [cell.lower() for cell in rows[0][1]]
    if HEADINGS.isdisjoint(heading) or any(key_of(cell) in keys for cell in rows[0][1]):
        heading = []
    width = len(heading) or Counter(len(cells) for _, cells in rows).most_common(1)[0][0]
    for line, cells in rows:
        if len(cells) != width or width < 2:
            wanted = f"{width} as the others" if width > 2 else "image and text"
            raise UserError(
                f"{file} line {line} has {len(cells)} columns, not {wanted}: put a text with a comma in double quotes."
            )
    rows = rows[bool(heading) :]
    place = int(np.argmax([sum(key_of(cells[column]) in keys for _, cells in rows) for column in range(width)]))
    others = [column for column in range(width) if column != place]
    if named := [column for column in others if heading and heading[column] in TEXTS]:
        others = named
    elif width > 2:
        others = [column for column in others if not all(cells[column].isdecimal() for _, cells in rows)]
    if len(others) != 1:
        raise UserError(
            f"{file} has {width} columns and which one holds the text is not certain: leave image and text alone, or "
            "begin with a row that names them image and caption (or class)."
        )
    return [(line, cells[place], cells[others[0]]) for line, cells in rows]


def _parse(file: Path, content: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """(line, cells) of the rows that are not empty."""
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, skipinitialspace=delimiter != "\t")
    try:
        return [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise UserError(f"{file} line {reader.line_num} is not CSV ({error}): save it as CSV again.") from error


def _test(keys: tuple[str, ...], labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """N bool, True = test; see `Folder`."""
    if len(classes) >= 4:
        chosen = sorted(range(len(classes)), key=lambda i: _hash(classes[i]))[: max(2, round(len(classes) / 5))]
        return np.isin(labels, chosen)
    test = np.zeros(len(keys), dtype=bool)
    for label, name in enumerate(classes):
        rows = sorted(np.flatnonzero(labels == label), key=lambda row: _hash(keys[row]))
        if len(rows) < 2:
            raise UserError(f"class {name} has one image: add another, as one is for training and one for testing.")
        test[rows[: max(1, round(len(rows) / 5))]] = True
    return test


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
