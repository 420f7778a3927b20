"""Fetches what can be had of CUB and Oxford-102, unpacks it where the readers look, and says what is left to get."""

import errno
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from filelock import FileLock

from common.data.readers.captions import PLACES, split_folders
from common.data.readers.download import AGAIN, check_md5, fetch, unpack
from common.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A file, or a folder with a number of files, that a dataset needs to be complete."""

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
    terms: str = ""

    def lacks(self, folders: Sequence[Path]) -> list[Part]:
        return [part for part in self.parts if part.count(folders) < part.files]

    def needed(self, folders: Sequence[Path]) -> bool:
        return any(part.needed for part in self.lacks(folders))

    def found(self, folders: Sequence[Path]) -> Path | None:
        """The archive itself, where a person has put it or an earlier start has downloaded it."""
        return next((folder / self.file for folder in folders if (folder / self.file).is_file()), None)


CALTECH, MASKS = "https://data.caltech.edu/records/65de6-vp158", "https://data.caltech.edu/records/w9d68-gec53"
VGG = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
CVPR = "the Google Drive linked at https://github.com/reedscot/cvpr2016"
ICML = "the Google Drive linked at https://github.com/reedscot/icml2016"
ATTNGAN = "the Google Drive linked at https://github.com/taoxugit/AttnGAN"
CUB_LISTS = ("images.txt", "image_class_labels.txt", "classes.txt", "bounding_boxes.txt")
CUB_LABELS = "attributes/image_attribute_labels.txt"


def _cub(path: str) -> tuple[str, ...]:
    return f"CUB_200_2011/{path}", path  # the second where the folder itself is paths.data


def _captions(reed: str, gan: str, files: int) -> Part:
    places = (place.format(reed=reed, gan=gan) for source in PLACES.values() for place in source)
    return Part("captions", tuple(places), files)


BIRDS = (
    Part("images", _cub("images"), 11_788),
    *(Part(file, _cub(file)) for file in CUB_LISTS),
    Part(CUB_LABELS, _cub(CUB_LABELS), needed=False),
    Part("attributes.txt", (*_cub("attributes.txt"), *_cub("attributes/attributes.txt")), needed=False),
)
BIRD_MASKS = Part("masks", ("segmentations", "CUB_200_2011/segmentations"), 11_788, needed=False)
BIRD_TEXT = _captions("cub", "birds", 11_788)
SPLITS = ("test/filenames.pickle", "testclasses.txt", "testids.txt")
FLOWER_TEXT = (  # the flowers' split comes with their captions
    _captions("flowers", "flowers", 8_189),
    Part("split by class", tuple(f"{place}/{file}" for place in split_folders([Path()], "flowers") for file in SPLITS)),
)

ARCHIVES: dict[str, tuple[Archive, ...]] = {
    "cub": (
        Archive(
            "CUB_200_2011.tgz",
            CALTECH,
            BIRDS,
            url=f"{CALTECH}/files/CUB_200_2011.tgz",
            md5="97eceeb196236b17998738112f37df78",
            terms="its photos are for non-commercial research and teaching only",
        ),
        Archive(
            "segmentations.tgz",
            MASKS,
            (BIRD_MASKS,),
            url=f"{MASKS}/files/segmentations.tgz",
            md5="4d47ba1228eae64f2fa547c47bc65255",
            top="segmentations",
        ),
        Archive("cvpr2016_cub.tar.gz", CVPR, (BIRD_TEXT,), top="cvpr2016_cub"),
        Archive("cub_icml.tar.gz", ICML, (BIRD_TEXT,), top="cub_icml"),
        Archive("birds.zip", ATTNGAN, (BIRD_TEXT,), top="birds"),
        # inside birds.zip, and often left packed; the word ids of captions.pickle beside it are no substitute
        Archive("birds/text.zip", ATTNGAN, (Part("AttnGAN's text.zip", ("text",), 11_788, needed=False),), top="text"),
    ),
    "oxford102": (  # less setid.mat: its split by image would show the test classes in training, and nothing reads it
        Archive(
            "102flowers.tgz",
            VGG,
            (Part("images", ("jpg",), 8_189, at_home=True),),
            url=f"{VGG}102flowers.tgz",
            md5="52808999861908f626f3c1f4e79d11fa",
            top="jpg",
            terms="its photos are from the web, for research only",
        ),
        Archive(
            "imagelabels.mat",
            VGG,
            (Part("imagelabels.mat", ("imagelabels.mat",), at_home=True),),
            url=f"{VGG}imagelabels.mat",
            md5="e0620be6f572b9609742df49c70aed4d",
        ),
        Archive(
            "102segmentations.tgz",
            VGG,
            (Part("masks", ("segmim",), 8_189, needed=False, at_home=True),),
            url=f"{VGG}102segmentations.tgz",
            md5="51375996b6c4f367a4b9f4492d7ecef5",
            top="segmim",
        ),
        Archive("cvpr2016_flowers.tar.gz", CVPR, FLOWER_TEXT, top="cvpr2016_flowers"),
        Archive("flowers_icml.tar.gz", ICML, FLOWER_TEXT, top="flowers_icml"),
    ),
}


def folders_of(name: str, root: Path) -> list[Path]:
    """Where the parts of a dataset may lie, as its reader looks; archives are unpacked into the first."""
    if name == "oxford102":
        known = [root / "oxford102", root / "flowers-102", root / "flowers", root]
        home = next((f for f in known if (f / "jpg").is_dir() or (f / "imagelabels.mat").is_file()), known[0])
        return list(dict.fromkeys((home, root, home.parent)))
    inside = [root.parent] if (root / "images.txt").is_file() else []  # root is the folder CUB_200_2011
    return [root, root / "birds", *inside]


def inventory(name: str, root: Path) -> dict[Part, int]:
    """Each part of a dataset and how many of its files are under root (paths.data)."""
    folders = folders_of(name, root)
    parts = dict.fromkeys(p for archive in ARCHIVES[name] for p in archive.parts if archive.url or p.needed)
    return {part: part.count(folders) for part in parts}


def prepare(name: str, root: Path, *, download: bool = True, captions: str = "auto") -> None:
    """Completes a dataset under root (paths.data): unpacks the archives that lie there and downloads the others.

    A dataset without archives (data=folder) and a procedural one are left as they are. download=False: only checks,
    writes nothing. captions="none": none are asked for. The same command goes on where it stopped. What cannot be had
    and only some models read (masks, attributes) is logged.
    UserError: one sentence with every file that is still needed, its page and where to put it; a damaged archive; a
    disk that cannot be written.
    """
    root = Path(root).expanduser().absolute()
    folders = folders_of(name, root)
    if any((folder / "procedural.json").is_file() for folder in folders):
        return
    archives = [a for a in ARCHIVES.get(name, ()) if a.url or captions != "none"]  # captions are what has no url
    if not any(a.lacks(folders) and (a.url or a.needed(folders) or a.found(folders)) for a in archives):
        return
    failures: dict[str, str] = {}
    try:
        if download:
            folders[0].mkdir(parents=True, exist_ok=True)
            lock = root / ".prepare.lock"
            with FileLock(lock):  # two commands would write into one .part
                try:
                    _supply(archives, folders, failures)
                finally:
                    lock.unlink(missing_ok=True)
    except OSError as error:
        why = f"{root} cannot be written ({error.strerror or error})"
        if any(archive.needed(folders) for archive in archives):
            raise UserError(f"{why}: free space there or choose paths.data=FOLDER, then {AGAIN}.") from error
        log.warning("%s", why)
    absent = [a for a in archives if a.lacks(folders) and (a.url or a.needed(folders))]
    needed = [archive for archive in absent if archive.needed(folders)]
    begun = [archive for archive in needed if any(part.count(folders) for part in archive.parts)]
    if not absent:
        return
    sentence = _sentence(name, root, folders, absent, failures)
    if not needed or (begun == needed and not download):  # the reader judges, which knows of data.allow_missing
        log.warning("%s", sentence)
    else:
        goes_on = ", or data.allow_missing=true download=false goes on with what is there" if begun else ""
        raise UserError(f"{sentence}{goes_on}.")


def _supply(archives: list[Archive], folders: Sequence[Path], failures: dict[str, str]) -> None:
    """Unpacks what is there and downloads what is not; failures gets why not, by the name of the archive."""
    offline = ""
    for archive in archives:
        if not archive.lacks(folders):
            continue
        path = archive.found(folders)
        if path:
            check_md5(path, archive.md5, f"delete it, then {AGAIN}")
        elif not archive.url:
            continue
        elif offline:
            failures[archive.file] = offline
            continue
        else:
            path = folders[0] / archive.file
            log.info("downloading %s", "; ".join(filter(None, (archive.url, archive.terms))))
            try:
                fetch(archive.url, path, archive.md5)
            except (OSError, HTTPException) as error:
                _raise_if_disk(error)
                failures[archive.file] = f"the download failed: {getattr(error, 'reason', None) or error}"
                offline = "" if isinstance(error, HTTPError) else failures[archive.file]
                continue
        _place(archive, path, folders[0])
        if lacking := archive.lacks(folders):
            failures[archive.file] = f"the one at {path} lacks {' and '.join(part.what for part in lacking)}"


def _place(archive: Archive, path: Path, home: Path) -> None:
    if path.suffix in (".tgz", ".gz", ".zip"):
        folder = (home / archive.file).parent
        log.info("unpacking %s into %s", path, folder)
        unpack(path, folder, archive.top)
        log.info("%s is unpacked and may be deleted", path)
    elif path != home / archive.file:
        shutil.copyfile(path, home / archive.file)


def _raise_if_disk(error: BaseException) -> None:
    """A full or read-only disk is no trouble of the network."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        raise error


def _sentence(name: str, root: Path, folders: Sequence[Path], wanted: list[Archive], failures: dict[str, str]) -> str:
    """What is lacking, which files hold it, where they come from and where they go: alternatives are joined by "or"."""
    lacking = dict.fromkeys(archive.lacks(folders)[0] for archive in wanted)
    tally = (f"{p.what} {p.count(folders):,} of {p.files:,}" if p.files > 1 else f"no {p.what}" for p in lacking)
    choices: dict[tuple[Part, ...], list[str]] = {}
    said: set[str] = set()
    for archive in wanted:
        why = failures.get(archive.file, "")
        facts = ["" if archive.needed(folders) else "only some models read it", "" if why in said else why]
        told = "; ".join(filter(None, facts))
        said.add(why)
        choices.setdefault(archive.parts, []).append(f"{archive.file} from {archive.page}{told and f' ({told})'}")
    files = ", and ".join(" or ".join(choice) for choice in choices.values())
    return f"{name} is not complete ({', '.join(tally)}): put {files} into {root}, then {AGAIN}"
