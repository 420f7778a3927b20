"""Reader of a user's own images with captions, labels or masks beside them."""

import csv
import hashlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from common.data.readers.captions import WORD, read_sentences
from common.data.readers.masks import read_votes, with_masks
from common.data.readers.presence import Dataset, DatasetReader
from common.data.records import Records
from common.errors import UserError

OWN = Dataset("data=folder", "folder", "images", "", "", "add what is absent")
SUFFIXES = (".jpg", ".jpeg", ".png")
FEWEST = 4  # images: two to train on and two to test on


class Folder(DatasetReader):
    """A user's own images.

    root/images/**/*.jpg, .jpeg or .png
         captions.csv        "<image>,<caption>" a row, as many rows for an image as it has captions; <image> as below
                             root/images, with or without its ending; a first row "image,caption" is a heading
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
        paths = self._images()
        captions, notes = self._captions(paths) if self.captions == "auto" else ({}, ())
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
            raise UserError(
                f"{folder} is not there: data.root=FOLDER names the folder that holds images/ and captions.csv, and "
                "preset=toy or data.source=procedural draws birds instead."
            )
        return folder

    def _images(self) -> dict[str, Path]:
        """Key -> path, in the order of the keys."""
        folder = self.find()
        paths: dict[str, Path] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
                key = path.relative_to(folder).with_suffix("").as_posix()
                if key in paths:
                    raise UserError(f"{paths[key]} and {path.name} have one name, which captions go by: rename one.")
                paths[key] = path
        return dict(sorted(paths.items()))

    def _captions(self, paths: dict[str, Path]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
        """Captions of each key that has any, and a note on what was skipped."""
        file = self.root / "captions.csv"
        if file.is_file():
            rows, notes = self._rows(file, paths)
            captions: dict[str, tuple[str, ...]] = {}
            for _, key, text in rows:
                if WORD.search(text):
                    captions[key] = (*captions.get(key, ()), text)
            return captions, notes
        texts = {key: path.with_suffix(".txt") for key, path in paths.items()}
        captions = {key: read_sentences(text) for key, text in texts.items() if text.is_file()}
        if not captions:
            raise UserError(
                f'there is no {file} and no <image>.txt beside an image: write "<image>,<caption>" rows, or '
                "data.captions=none goes on without."
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
        if file.is_file():
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
        """(line, key, text) of the rows "<image>,<text>" of a CSV file; skip: pass over images that are not in keys."""
        rows, strangers = [], 0
        with file.open(newline="", encoding="utf-8-sig", errors="replace") as lines:
            reader = csv.reader(lines)
            try:
                for cells in reader:
                    if not cells or (reader.line_num == 1 and cells[0].strip().lower() == "image"):
                        continue
                    if len(cells) != 2:
                        raise UserError(
                            f"{file} line {reader.line_num} has {len(cells)} columns, not image and text: put a text "
                            "with a comma in double quotes."
                        )
                    key = cells[0].strip().replace("\\", "/").removeprefix("images/")
                    stem, dot, ending = key.rpartition(".")
                    key = stem if dot + ending.lower() in SUFFIXES else key
                    if key in keys:
                        rows.append((reader.line_num, key, cells[1].strip()))
                    elif skip or self.allow_missing:
                        strangers += 1
                    else:
                        raise UserError(
                            f"{file} line {reader.line_num} is about {cells[0]}, which is not in {self.root}/images: "
                            "add the image, or data.allow_missing=true passes over it."
                        )
            except csv.Error as error:
                raise UserError(f"{file} line {reader.line_num} is not CSV ({error}): save it as CSV again.") from error
        return rows, (f"{strangers:,} rows of {file.name} are about images that are not there",) if strangers else ()


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
