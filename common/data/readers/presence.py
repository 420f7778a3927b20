"""What a data set is, how much of it is there, and what is said of what is not: one sentence with the ways on."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn

import numpy as np

from common.data.records import Records
from common.errors import UserError, choose, tell
from common.files import composed

LITTER = ("__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir")  # of macOS, Windows, a NAS


@dataclass(frozen=True)
class Part:
    """A file, or a folder with a number of files, that a data set needs to be complete."""

    what: str
    places: tuple[str, ...]  # relative; any one of them will do; a file in place of a folder stands for all of it
    files: int = 1
    needed: bool = True  # False: only some models read it
    at_home: bool = False  # only in the first of the folders that are looked through

    def count(self, folders: Sequence[Path]) -> int:
        """How many of the files are there, in the place that has most."""
        bases = folders[:1] if self.at_home else folders
        return min(self.files, max(self._count(base / place) for base in bases for place in self.places))

    def _count(self, path: Path) -> int:
        if not path.is_dir():
            return self.files * path.is_file()
        subs = [entry.path for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith(".")]
        return sum(
            not e.name.startswith(".") and e.is_file() for folder in subs or [str(path)] for e in os.scandir(folder)
        )


@dataclass(frozen=True)
class Archive:
    """A file of a distribution and what it puts there. Archives with the same parts are alternatives."""

    file: str  # below the folder that it is unpacked in
    page: str  # where a person finds it
    parts: tuple[Part, ...]
    url: str = ""  # "" = only a browser can fetch it
    md5: str = ""  # "" = not known
    top: str = ""  # the folder that its members belong in, made if the archive has none
    terms: str = ""  # of use

    def lacks(self, folders: Sequence[Path]) -> list[Part]:
        """Parts of which files are absent from the folders."""
        return [part for part in self.parts if part.count(folders) < part.files]

    def needed(self, folders: Sequence[Path]) -> bool:
        """Whether it is to be fetched: a part that has to be there lacks files."""
        return any(part.needed for part in self.lacks(folders))

    def found(self, folders: Sequence[Path]) -> Path | None:
        """The archive itself, where a person has put it or an earlier start has downloaded it."""
        return next((folder / self.file for folder in folders if (folder / self.file).is_file()), None)


@dataclass(frozen=True)
class Dataset:
    """What is said of a data set, and what it consists of."""

    title: str  # "CUB-200-2011"
    name: str  # "cub", as on the command line
    kind: str  # "birds", what it shows and what the procedural stand-in draws
    archive: str  # "CUB_200_2011.tgz"; "" = a user's own
    source: str  # the page that the archive comes from
    remedy: str  # "python run.py task=prepare data=cub fetches it or explains how"
    archives: tuple[Archive, ...] = ()  # what task=prepare fetches and unpacks

    def refuse_absent(self, root: Path, places: Sequence[str]) -> NoReturn:
        """Nothing of the data set is there."""
        raise UserError(
            f"{self.title} is not there: no {' or '.join(str(root / place) for place in places)}; it comes from "
            f"{self.source} ({self.remedy}; paths.data=FOLDER looks elsewhere), and preset=toy or "
            f"data.source=procedural draws {self.kind} instead."
        )

    def need(self, path: Path, origin: str = "") -> Path:
        """path, which the archive, or the origin if it is another one, must have put there."""
        if not path.exists():
            origin = origin or f"{self.archive} from {self.source}"
            raise UserError(f"{path} is absent: it comes with {origin} ({self.remedy}).")
        return path

    def count(
        self, found: np.ndarray, what: str, folder: Path, *, names: Sequence[str], expected: int, allow_missing: bool
    ) -> tuple[str, ...]:
        """A note such as "543 of 11,788 images found", () when all are there, UserError when they may not be absent.

        found: N bool; names: what to call each of the N, for the first absent one; expected: how many there should be.
        """
        count = int(found.sum())
        if count == len(found) == expected:
            return ()
        tally = f"{count:,} of {expected:,} {what}"
        absent = f" (the first absent one is {names[int(np.argmin(found))]})" if count < len(found) else ""
        if not count:
            raise UserError(f"{folder} holds {tally}{absent}: {self.remedy}.")
        if not allow_missing:
            raise UserError(
                f"{folder} holds {tally}{absent}: data.allow_missing=true goes on with what is there, or {self.remedy}."
            )
        return (f"{tally} found",)


class DatasetReader:
    """A data set of files, read from where they lie.

    root: paths.data, or a user's own folder. captions: one of `caption_sources`. allow_missing: go on with the images
    that are there and say so in the notes. masks, attributes: they are needed, and refused with a UserError where the
    data set has none; what is not needed is left out where it is not complete.
    """

    dataset: ClassVar[Dataset]
    caption_sources: ClassVar[tuple[str, ...]] = ("auto", "none")
    lacks: ClassVar[tuple[str, ...]] = ()  # "masks", "attributes": what no copy has

    def __init__(
        self,
        *,
        root: str | Path,
        captions: str = "auto",
        allow_missing: bool = False,
        masks: bool = False,
        attributes: bool = False,
    ) -> None:
        for what in self.lacks:
            if {"masks": masks, "attributes": attributes}[what]:
                raise UserError(f"{self.dataset.title} has no {what}: choose data=cub, or a model that reads none.")
        self.root = Path(root).expanduser().absolute()
        self.captions = choose("data.captions", captions, self.caption_sources)
        self.allow_missing, self.masks, self.attributes = allow_missing, masks, attributes

    def read(self) -> Records:
        """The data set as it lies there. UserError, one sentence, for what is absent, damaged or does not fit."""
        raise NotImplementedError

    def find(self) -> Path:
        """The folder that holds the data set. UserError where there is none."""
        raise NotImplementedError

    @classmethod
    def folders(cls, root: Path) -> list[Path]:
        """Where the parts may lie, as `read` looks; archives are unpacked into the first."""
        return [root]

    @classmethod
    def inventory(cls, root: Path) -> dict[Part, int]:
        """Each part and how many of its files are there; nothing is opened."""
        folders = cls.folders(root)
        parts = dict.fromkeys(p for archive in cls.dataset.archives for p in archive.parts if archive.url or p.needed)
        return {part: part.count(folders) for part in parts}


def is_procedural(folders: Sequence[Path]) -> bool:
    """Do the folders hold what was drawn here (common/data/procedural)?"""
    return any((folder / "procedural.json").is_file() for folder in folders)


def present(folder: Path, names: Sequence[str]) -> list[Path | None]:
    """Where the files of these names lie below a folder, however their letters are composed; None = absent. One listing
    for each sub-folder, not one look for each file."""
    listings: dict[str, dict[str, Path]] = {}

    def listing(sub: str) -> dict[str, Path]:
        if sub not in listings:
            above, _, name = sub.rpartition("/")
            place = listing(above).get(composed(name)) if sub else folder
            listings[sub] = {composed(e.name): Path(e.path) for e in entries(place)} if place and place.is_dir() else {}
        return listings[sub]

    return [listing(sub).get(composed(name)) for sub, _, name in (name.rpartition("/") for name in names)]


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name. UserError for one that cannot be listed."""
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error.strerror}): make it a folder that you may read.") from None


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder in the order of their folders; links to folders are followed.

    What systems and editors leave (names that begin with a dot, and LITTER) is passed over, which is logged once.
    UserError for a link to a folder that it lies in, which has no end.
    """
    litter: list[str] = []
    yield from _files_below(folder, (), litter)
    if litter:
        tell(f"{folder}: {len(litter)} files and folders are passed over, such as {litter[0]}")


def _files_below(folder: Path, above: tuple[tuple[int, int], ...], litter: list[str]) -> Iterator[Path]:
    found = folder.stat()
    if (place := (found.st_dev, found.st_ino)) in above:
        raise UserError(f"{folder} is a link to a folder that it lies in: remove the link.")
    for entry in entries(folder):
        if entry.name.startswith(".") or entry.name in LITTER:
            litter.append(entry.path)
        elif entry.is_dir():
            yield from _files_below(Path(entry.path), (*above, place), litter)
        else:
            yield Path(entry.path)


def nested(root: Path, *holding: str) -> Path | None:
    """The first of root and the folders up to three levels below that holds all of these: archives are often unpacked
    once too deep."""
    level = [root]
    for _ in range(4):
        if found := next((f for f in level if all((f / name).exists() for name in holding)), None):
            return found
        level = [Path(e.path) for f in level if f.is_dir() for e in entries(f) if e.name[0] != "." and e.is_dir()]
    return None
