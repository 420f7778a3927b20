"""Reader of DeepFashion's In-shop Clothes Retrieval Benchmark, in its own layout and in that of pose transfer."""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from common.data import fashion_names as names
from common.data.completeness import Dataset
from common.data.fashion_csv import read_joints, read_pairs
from common.data.pose_pairs import HELD_BACK, TEST_PAIRS, TRAIN_PAIRS, Pair, drawn_pairs, held_items
from common.data.poses import FRAME, NAMED
from common.data.records import Records
from common.errors import UserError

log = logging.getLogger(__name__)

IMAGES = 52_712
INSHOP = Dataset(
    "DeepFashion In-shop Clothes Retrieval",
    "deepfashion",
    "people",
    "Img/img.zip",
    "mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
    "its authors send the password; unpack it there",
)
PLACES = ("deepfashion", "DeepFashion", "In-shop Clothes Retrieval Benchmark", "fashion_data", "fasion", "fashion", ".")
TREES, PARTS, HIGHRES = ("Img/img", "img"), ("train", "test"), ("Img/img_highres", "img_highres")
STEMS = ("fasion", "fasion-resize", "fashion-resize", "fashion")  # Deformable GAN, PATN, ADGAN, GFLA
SPLITS = ("auto", "disjoint", "inshop", "patn_lst", "csv")
PAIRS = ("pg2_counts", "valid4", "all")
PARTITION = "list_eval_partition.txt"
AGAIN = "download the file again"
LOOKED_AT = 24  # photos whose size is checked before the store is built
MOST_EMPTY = 0.05  # share of the paired photos that may show nobody
TRUNK = [NAMED[f"{side} {joint}"] for side in ("right", "left") for joint in ("shoulder", "hip")]
ENDINGS = (".jpg", ".png")


class DeepFashion:
    """52,712 photos, 256x256, of 7,982 items in 13,029 colours; what one model wears is seen from several sides.

    Under root/deepfashion (or DeepFashion, fashion_data, ...; or root itself):
        Img/img/{WOMEN,MEN}/<category>/id_<8 digits>/<colour>_<n>_<view>.jpg       or img/...: the official tree
        train/<name>.jpg, test/<name>.jpg         or all photos flat, in one of the spellings of fashion_names.py
        Eval/list_eval_partition.txt              count, column names, "<image> <item> train|query|gallery" a line
        fasion-annotation-{train,test}.csv        key points and
        fasion-pairs-{train,test}.csv             pairs, see fashion_csv.py; both optional
        train.lst, test.lst                       PATN's split, a name a line; optional
    From:     mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html; key points and pairs from the repositories
              of Deformable GAN, PATN, ADGAN and GFLA
    Records:  in the order of the keys, "WOMEN/Tees_Tanks/id_00007838/05_7_additional"; classes are the 23 folders of
              gender and category; an identity is a garment in a colour (on one person)

    split: which photos are for testing, and the pairs.
        disjoint   item-disjoint (`held_items`): 148,736 / 13,090 pairs, cut to 146,680 / 12,800 (GGB, Sec. 4)
        inshop     list_eval_partition.txt: test = query and gallery
        patn_lst   train.lst, test.lst: half of the test items are in training in another colour
        csv        the files of pairs, as they are
        auto       csv where there are files of pairs, else disjoint
    pairs: pg2_counts, cut to n_train_pairs / n_test_pairs; valid4, only photos with shoulders and hips (Deformable GAN,
    PATN, VUNet), and cut; all. count_flips: half as many training pairs, each seen plain and mirrored (PG2). drop_flat:
    without the 683 photos of a garment that nobody wears. files: stem of the csv files, one of STEMS, or auto: the one
    that is there. annotation_frame: see `read_joints`. allow_missing: go on without the photos that are absent and say
    so in the notes. There are no captions, masks or attributes.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        split: str = "auto",
        pairs: str = "pg2_counts",
        n_train_pairs: int = TRAIN_PAIRS,
        n_test_pairs: int = TEST_PAIRS,
        count_flips: bool = False,
        drop_flat: bool = True,
        files: str = "auto",
        annotation_frame: str | int = "auto",
        allow_missing: bool = False,
        captions: str = "none",
        masks: bool = False,
        attributes: bool = False,
    ) -> None:
        for key, value, known in (
            ("split", split, SPLITS),
            ("pairs", pairs, PAIRS),
            ("files", files, ("auto", *STEMS)),
        ):
            if value not in known:
                raise UserError(f"data.{key}={value} is not known: choose from {', '.join(known)}.")
        if masks or attributes:
            raise UserError("DeepFashion has no masks and no attributes: choose data=cub, or a model that reads none.")
        self.root = Path(root).expanduser().absolute()
        self.split, self.pairs, self.n_train_pairs, self.n_test_pairs = split, pairs, n_train_pairs, n_test_pairs
        self.count_flips, self.drop_flat, self.files = count_flips, drop_flat, files
        self.annotation_frame, self.allow_missing = str(annotation_frame), allow_missing

    def read(self) -> Records:
        """The dataset as it lies there. UserError, one sentence, for what is absent, damaged or does not fit."""
        folder = self.find()
        procedural = any((base / "procedural.json").is_file() for base in (folder, folder.parent))
        status = _partition(folder)
        photos, notes = _photos(folder)
        listed = sorted(status or photos)
        found = np.array([key in photos for key in listed])
        expected = len(listed) if procedural else IMAGES
        notes += INSHOP.count(
            found, "photos", folder, names=listed, expected=expected, allow_missing=self.allow_missing
        )
        named = [key for key in listed if not (self.drop_flat and names.view(key) == "flat")]
        keys = [key for key in named if key in photos]
        _check_sizes([photos[key] for key in keys], procedural)
        row = {key: i for i, key in enumerate(keys)}
        joints = self._joints(folder, row, procedural)
        pairs, tested = self._pairs(folder, named, status, joints, row)
        identity = {group: i for i, group in enumerate(sorted({names.group(key) for key in keys}))}
        records = Records(
            name=INSHOP.name,
            root=folder,
            keys=tuple(keys),
            images=tuple(photos[key] for key in keys),
            labels=np.array([names.FOLDERS.index(names.folder(key)) for key in keys], np.int64),
            classes=names.FOLDERS,
            test=np.array([key in tested for key in keys], bool),
            joints=joints,
            identities=np.array([identity[names.group(key)] for key in keys], np.int64),
            pose_pairs={split: _rows(each, row) for split, each in pairs.items()},
            mirrored=self.count_flips,
            procedural=procedural,
            expected=expected - len(listed) + len(named),
        )
        log.info("pairs: %s", ", ".join(f"{len(e):,} {split}" for split, e in records.pose_pairs.items()))
        return replace(records, notes=notes + _leaks(keys, tested) + _empty(records))

    def find(self) -> Path:
        """The folder that holds the data set. UserError where there is none."""
        for place in PLACES:
            folder = self.root / place
            if any((folder / tree / gender).is_dir() for tree in TREES for gender in ("MEN", "WOMEN")):
                return folder
            if any(_first_name(folder / part) for part in PARTS):
                return folder
            if any((folder / tree).is_dir() for tree in HIGHRES):
                raise UserError(
                    f"{folder} has only the high-resolution photos (750x1101): unpack the 256x256 ones beside them, "
                    f"{INSHOP.archive} from {INSHOP.source}."
                )
        INSHOP.refuse_absent(self.root, [f"{place}/Img/img" for place in PLACES[:2]])

    def _joints(self, folder: Path, row: dict[str, int], procedural: bool) -> np.ndarray | None:
        """N,18,2 int16 by row; None where there are no files of key points."""
        paths = self._csv(folder, "annotation")
        if not paths:
            return None
        frame = "256" if procedural and self.annotation_frame == "auto" else self.annotation_frame
        table, frame = read_joints(paths, frame)
        log.info("key points: %s, frame %s", " and ".join(path.name for path in paths), frame)
        self._refuse_absent((key for key in table if key not in row), "has key points", paths[0])
        joints = np.full((len(row), 18, 2), -1, np.int16)
        for key, points in table.items():
            if key in row:
                joints[row[key]] = points
        return joints

    def _pairs(
        self, folder: Path, keys: list[str], status: dict[str, str], joints: np.ndarray | None, row: dict[str, int]
    ) -> tuple[dict[str, list[Pair]], set[str]]:
        """The pairs of each split, and the photos for testing. keys: of the complete data set."""
        files = self._csv(folder, "pairs") if self.split in ("auto", "csv") else []
        if len(files) == len(PARTS):
            train, test = (read_pairs(path) for path in files)
            for path, pairs in zip(files, (train, test), strict=True):
                self._refuse_absent((key for pair in pairs for key in pair if key not in row), "is in a pair of", path)
            used = set(train)
            left = [pair for pair in drawn_pairs({key for pair in train for key in pair})[0] if pair not in used]
            return {"train": train, "val": left[:HELD_BACK], "test": test}, {key for pair in test for key in pair}
        if self.split == "csv":
            raise UserError(
                f"{folder} lacks fasion-pairs-train.csv or -test.csv: data.split=disjoint needs no such files."
            )
        tested = self._tested(folder, keys, status)
        if self.pairs == "valid4":
            if joints is None:
                raise UserError(
                    f"data.pairs=valid4 needs key points, which {folder} lacks: choose data.pairs=pg2_counts."
                )
            keys = [key for key in keys if key in row and (joints[row[key]][TRUNK] >= 0).all()]
        most = (
            (self.n_train_pairs // (1 + self.count_flips), self.n_test_pairs) if self.pairs != "all" else (None, None)
        )
        train, left = drawn_pairs((key for key in keys if key not in tested), most[0])
        test, _ = drawn_pairs((key for key in keys if key in tested), most[1])
        return {"train": train, "val": left[:HELD_BACK], "test": test}, tested

    def _tested(self, folder: Path, keys: Sequence[str], status: dict[str, str]) -> set[str]:
        """The photos for testing where no files of pairs say so."""
        if self.split == "patn_lst":
            listed: dict[str, set[str]] = {}
            for part in PARTS:
                path = INSHOP.need(folder / f"{part}.lst", "the repository of PATN")
                lines = enumerate(path.read_text(encoding="utf-8-sig", errors="replace").split(), 1)
                listed[part] = {_key(name, path, line) for line, name in lines}
                self._refuse_absent(sorted(listed[part] - set(keys)), "is listed in", path)
            return listed["test"]
        if self.split == "inshop":
            if not status:
                INSHOP.need(folder / "Eval" / PARTITION)
            return {key for key in keys if status[key] != "train"}
        items = held_items(keys, self.n_test_pairs)
        return {key for key in keys if names.item(key) in items}

    def _csv(self, folder: Path, what: str) -> list[Path]:
        """The files for training and testing of one stem, as far as they are there."""
        stems = STEMS if self.files == "auto" else (self.files,)
        found = [[p for part in PARTS if (p := folder / f"{stem}-{what}-{part}.csv").is_file()] for stem in stems]
        found = [paths for paths in found if paths]
        if len(found) > 1:
            raise UserError(
                f"{folder} has {what} files of {len(found)} sources, {' and '.join(p[0].name for p in found)}: choose "
                f"one with data.files={found[0][0].name.partition(f'-{what}')[0]}."
            )
        return found[0] if found else []

    def _refuse_absent(self, absent: Iterable[str], what: str, path: Path) -> None:
        """Refuses a file that is about photos that are not there, but for flat ones, which were dropped."""
        gone = list(dict.fromkeys(key for key in absent if not (self.drop_flat and names.view(key) == "flat")))
        if gone and not self.allow_missing:
            raise UserError(
                f"{gone[0]} {what} {path} and is absent, as are {len(gone) - 1:,} more photos: put them there, or "
                "data.allow_missing=true goes on without them."
            )


def _partition(folder: Path) -> dict[str, str]:
    """Key -> train, query or gallery, of list_eval_partition.txt; empty where there is no such file."""
    path = next((p for p in (folder / "Eval" / PARTITION, folder / PARTITION) if p.is_file()), None)
    if path is None:
        return {}
    status: dict[str, str] = {}
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for line, text in enumerate(lines[2:], 3):  # after the count and the names of the columns
        fields = text.split()
        if fields and (len(fields) != 3 or fields[2] not in ("train", "query", "gallery")):
            raise UserError(f"{path} line {line} is not an image, an item and a status ({text[:80]!r}): {AGAIN}.")
        if fields:
            status[_key(fields[0], path, line)] = fields[2]
    if lines[:1] != [str(len(status))]:
        raise UserError(f"{path} lists {len(status):,} photos, not {' '.join(lines[:1]) or 'any'} as it says: {AGAIN}.")
    return status


def _photos(folder: Path) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Key -> file of all photos there, and a note about files that are none."""
    tree = next((folder / tree for tree in TREES if (folder / tree).is_dir()), None)
    tops = [tree] if tree else [folder / part for part in PARTS if (folder / part).is_dir()]
    photos: dict[str, Path] = {}
    strange: list[Path] = []
    for top in tops:
        spelt: dict[str, str] = {}  # spelling -> the first name in it
        for place, _, files in os.walk(top):
            for name in files:
                if not name.endswith(ENDINGS):
                    continue
                path = Path(place, name)
                key = names.parse(str(path.relative_to(top)))
                if key is None:
                    strange.append(path)
                    continue
                spelt.setdefault(names.spelling(name), name)
                if photos.setdefault(key, path) != path:
                    raise UserError(f"{photos[key]} and {path} are names of the same photo: keep one of them.")
        if len(spelt) > 1:
            mixed = " and ".join(sorted(spelt.values()))
            raise UserError(f"{top} has names of both spellings, {mixed}: keep the photos of one source.")
    note = f"{len(strange):,} files are no photos of the data set, the first: {min(strange)}" if strange else ""
    return photos, (note,) if note else ()


def _first_name(folder: Path) -> str:
    """Some flat name of a photo in a folder, or ""."""
    if not folder.is_dir():
        return ""
    return next((entry.name for entry in os.scandir(folder) if names.parse(entry.name)), "")


def _check_sizes(paths: Sequence[Path], procedural: bool) -> None:
    """Refuses photos of another size, by the headers of a few of them; the others are seen when they are decoded."""
    for path in paths[:: max(1, len(paths) // LOOKED_AT)]:
        try:
            with Image.open(path) as photo:
                width, height = photo.size
        except OSError:
            continue  # the store says so, or leaves it out
        if width != height or not (procedural or width == FRAME):
            raise UserError(
                f"{path} is {width}x{height}, not {FRAME}x{FRAME}: take the photos of {INSHOP.archive}, which the key "
                "points and the published scores are of."
            )


def _key(name: str, path: Path, line: int) -> str:
    if (key := names.parse(name)) is None:
        raise UserError(f"{path} line {line} is no name of a DeepFashion photo ({name[:80]!r}): {AGAIN}.")
    return key


def _rows(pairs: Iterable[Pair], row: dict[str, int]) -> np.ndarray:
    """P,2 int64; without the pairs of absent photos."""
    rows = [(row[source], row[target]) for source, target in pairs if source in row and target in row]
    return np.array(rows, np.int64).reshape(-1, 2)


def _empty(records: Records) -> tuple[str, ...]:
    """A note about paired photos that show nobody. UserError if they are many."""
    if records.joints is None:
        return ()
    rows = np.unique(np.concatenate([pairs.ravel() for pairs in records.pose_pairs.values()]))
    empty = rows[(records.joints[rows] < 0).all((1, 2))]
    tally = f"{len(empty):,} of {len(rows):,} paired photos have no key points"
    if len(empty) > MOST_EMPTY * len(rows):
        raise UserError(
            f"{tally}, the first of them {records.keys[empty[0]]}: add their lines to fasion-annotation-train.csv in "
            f"{records.root}, or leave them out with data.split=disjoint data.pairs=valid4."
        )
    return (tally,) if len(empty) else ()


def _leaks(keys: Sequence[str], tested: set[str]) -> tuple[str, ...]:
    """A note about items on both sides of the split."""
    test = {names.item(key) for key in keys if key in tested}
    both = test & {names.item(key) for key in keys if key not in tested}
    return (
        (f"{len(both):,} of {len(test):,} test items are in training too, in other colours or views",) if both else ()
    )
