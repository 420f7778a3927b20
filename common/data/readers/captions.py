"""Captions of CUB and Oxford-102 in the four distributions they come in.

    cvpr2016  cvpr2016_{cub,flowers}/text_c10/<class>/<image>.txt     ten lines each (Reed et al.)
    icml2016  {cub,flowers}_icml/<class>/<image>.t7                   `char` matrices, 201 characters long (Reed et al.)
    attngan   {birds,flowers}/text/<class>/<image>.txt, else {birds,flowers}/captions.pickle with
              {birds,flowers}/{train,test}/filenames.pickle           word ids only: lower case, no punctuation
    stackgan  Data/{birds,flowers}/text_c10/<class>/<image>.txt       (also without Data/)

They are joined to the images by the image's name alone: each distribution has another order.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.data.readers.old_formats import decode_char, read_pickle, read_t7
from common.data.readers.presence import Archive, Dataset, Part, entries
from common.data.readers.splits import read_keys
from common.data.records import Records
from common.errors import UserError
from common.files import read_text

PLACES = {  # in the order in which "auto" tries them
    "cvpr2016": ("cvpr2016_{reed}/text_c10",),
    "icml2016": ("{reed}_icml",),
    "attngan": ("{gan}/text", "text", "{gan}/captions.pickle", "captions.pickle"),
    "stackgan": ("Data/{gan}/text_c10", "{gan}/text_c10", "text_c10"),
}
REED = ("cvpr2016", "https://github.com/reedscot/cvpr2016"), ("icml2016", "https://github.com/reedscot/icml2016")
CHOICES = ("auto", "none", *PLACES)
WORD = re.compile(r"\w")


def captions_part(kind: str, files: int) -> Part:
    """The captions of birds or flowers, in any of the distributions."""
    return Part("captions", tuple(place for source in PLACES for place in _names(kind, source)), files)


def caption_archives(kind: str, parts: tuple[Part, ...]) -> tuple[Archive, ...]:
    """Reed et al.'s two archives of captions."""
    reed = "cub" if kind == "birds" else kind
    tops = {"cvpr2016": f"cvpr2016_{reed}", "icml2016": f"{reed}_icml"}
    return tuple(
        Archive(f"{tops[source]}.tar.gz", f"the Google Drive linked at {page}", parts, top=tops[source])
        for source, page in REED
    )


class Captions(NamedTuple):
    """Sentences as one source has them."""

    source: str  # a key of PLACES
    path: Path
    sentences: dict[str, tuple[str, ...]]  # image name -> one sentence or more
    notes: tuple[str, ...] = ()


def read_captions(
    bases: Sequence[Path], dataset: Dataset, images: Mapping[str, int], *, source: str, allow_missing: bool
) -> Captions:
    """Captions of the images from a source, or with "auto" from the first that has any.

    bases: folders that may hold a distribution; images: image name -> class number, which must be the number in the
    name of the folder that the captions lie in. An image without a caption file is absent from the result; a caption
    file without a sentence is refused, or with allow_missing left out and noted.
    """
    wanted = [name for name in PLACES if source in ("auto", name)]
    for name in wanted:
        for path in _places(bases, dataset.kind, name):
            files = {} if path.suffix == ".pickle" else _files(path, images)
            texts = {image: _read(file) for image, file in files.items()}
            found = _read_captions_pickle(path, images) if path.suffix == ".pickle" else texts
            if found:
                return _usable(Captions(name, path, found), files, allow_missing)
    expected = ", ".join(place for name in wanted for place in _names(dataset.kind, name))
    raise UserError(
        f"there are no captions of the {dataset.kind} under {bases[0]} (looked for {expected}): {dataset.remedy}, or "
        "choose a model that reads none."
    )


def with_captions(
    records: Records, dataset: Dataset, bases: Sequence[Path], *, source: str, allow_missing: bool
) -> Records:
    """The records with captions, less the images that have none if allow_missing; as they are if source is "none"."""
    if source == "none":
        return records
    names = [key.rpartition("/")[2] for key in records.keys]
    numbers = dict(zip(names, (records.labels + 1).tolist(), strict=True))
    captions = read_captions(bases, dataset, numbers, source=source, allow_missing=allow_missing)
    found = np.array([name in captions.sentences for name in names])
    notes = dataset.count(
        found, "images' captions", captions.path, names=names, expected=len(names), allow_missing=allow_missing
    )
    records = replace(records.take(np.flatnonzero(found)), notes=records.notes + captions.notes + notes)
    sentences = (captions.sentences[name] for name, kept in zip(names, found, strict=True) if kept)
    return replace(records, captions=tuple(sentences))


def split_folders(bases: Sequence[Path], kind: str) -> list[Path]:
    """Folders of the same distributions that may hold the class-disjoint split."""
    reed, gan = ("cub" if kind == "birds" else kind), kind
    names = (gan, "", f"Data/{gan}", f"cvpr2016_{reed}", f"{reed}_icml", f"cvpr2016_{reed}/text_c10")
    return [base / name for name in names for base in bases]


def read_sentences(file: Path, stray: str | None = " ") -> tuple[str, ...]:
    """The lines of a caption file that hold a word. stray: see `read_text`; some published files have such bytes."""
    return tuple(line.strip() for line in read_text(file, stray).split("\n") if WORD.search(line))


def _names(kind: str, source: str) -> Iterable[str]:
    return (place.format(reed="cub" if kind == "birds" else kind, gan=kind) for place in PLACES[source])


def _places(bases: Sequence[Path], kind: str, source: str) -> list[Path]:
    paths = (base / place for place in _names(kind, source) for base in bases)
    return [path for path in paths if path.is_dir() or (path.suffix == ".pickle" and path.is_file())]


def _files(folder: Path, images: Mapping[str, int]) -> dict[str, Path]:
    """Image name -> its caption file in one of the folder's class folders; refuses a file under another class."""
    files = {}
    for class_dir in (entry.name for entry in entries(folder) if entry.is_dir() and entry.name[0] != "."):
        number = re.search(r"\d+", class_dir)
        for entry in entries(folder / class_dir):
            name, suffix = os.path.splitext(entry.name)
            if suffix not in (".txt", ".t7") or name not in images:
                continue
            if number is not None and int(number[0]) != images[name]:
                raise UserError(
                    f"{entry.path} lies under {class_dir} but its image is of class {images[name]}: move it."
                )
            files[name] = Path(entry.path)
    return files


def _read(file: Path) -> tuple[str, ...]:
    if file.suffix == ".txt":
        return read_sentences(file)
    table = read_t7(file)
    if not isinstance(table, dict) or not hasattr(table.get("char"), "ndim"):
        raise UserError(f"{file} holds no `char` matrix: take the file of cub_icml or flowers_icml.")
    image = str(table.get("img", file.stem)).rpartition("/")[2]  # with and without jpg/ in front
    if os.path.splitext(image)[0] != file.stem:
        raise UserError(f"{file} holds the captions of {image}: rename it or take the original file.")
    return tuple(text for text in decode_char(table["char"], file) if WORD.search(text))


def _read_captions_pickle(path: Path, images: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """AttnGAN's [train captions, test captions, id -> word, word -> id]; equally many for each key, id 0 = <end>."""
    content = read_pickle(path)
    if not isinstance(content, list) or len(content) != 4 or not isinstance(content[2], dict):
        raise UserError(f"{path} is not [train captions, test captions, ixtoword, wordtoix]: take AttnGAN's own file.")
    found: dict[str, tuple[str, ...]] = {}
    for part, captions in zip(("train", "test"), content[:2], strict=True):
        file = path.parent / part / "filenames.pickle"
        if not file.is_file():
            raise UserError(f"{path} needs {file} for the order of its captions: both are in AttnGAN's birds.zip.")
        keys = read_keys(file)
        each, rest = divmod(len(captions), max(1, len(keys)))
        if rest or (keys and not each):
            raise UserError(
                f"{path} has {len(captions):,} {part} captions for the {len(keys):,} images of {file}: take both from "
                "one build."
            )
        for row, key in enumerate(keys):
            if (name := key.rpartition("/")[2]) in images:
                texts = (_words(ids, content[2], path) for ids in captions[row * each : (row + 1) * each])
                found[name] = tuple(text for text in texts if WORD.search(text))
    return found


def _words(ids: Iterable[int], ixtoword: Mapping[int, Any], path: Path) -> str:
    try:
        return " ".join(str(ixtoword[i]) for i in ids if i != 0)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} has a caption with the word id {error}, which its vocabulary lacks: take AttnGAN's own file."
        ) from None


def _usable(captions: Captions, files: Mapping[str, Path], allow_missing: bool) -> Captions:
    empty = sorted(name for name, sentences in captions.sentences.items() if not sentences)
    if not empty:
        return captions
    where = f"{files.get(empty[0], captions.path)} holds no usable caption for {empty[0]}"
    if not allow_missing:
        raise UserError(f"{where}: write one sentence a line there, or data.allow_missing=true leaves the image out.")
    note = where if len(empty) == 1 else f"{where} (and {len(empty) - 1:,} more images)"
    kept = {name: sentences for name, sentences in captions.sentences.items() if sentences}
    return captions._replace(sentences=kept, notes=(note,))
