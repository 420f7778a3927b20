"""Reader of DeepFashion's In-shop Clothes Retrieval Benchmark, in its own layout and in that of pose transfer."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.data.pose_pairs import (
    HELD_BACK,
    TEST_PAIRS,
    TRAIN_PAIRS,
    Pair,
    drawn,
    drawn_pairs,
    held_items,
    ordered_pairs,
    without_groups,
)
from common.data.poses import NAMED
from common.data.readers import fashion_names as names
from common.data.readers import fashion_pickles as pickles
from common.data.readers.fashion_csv import FRAMES, read_joints, read_pairs
from common.data.readers.fashion_photos import HIGHRES_WAYS, INSHOP, PARTS, TREES, Place, check_sizes, locate, photos
from common.data.readers.presence import DatasetReader, Part, is_procedural
from common.data.records import Records
from common.errors import UserError, choose, tell
from common.files import read_text

IMAGES = 52_712
STEMS = ("fasion", "fasion-resize", "fashion-resize", "fashion")  # Deformable GAN, PATN, ADGAN, GFLA
SPLITS = ("auto", "disjoint", "inshop", "patn_lst", "csv", "pg2")
PAIRS = ("pg2_counts", "valid4", "all")
PARTITION = "list_eval_partition.txt"
AGAIN = "download the file again"
MOST_EMPTY = 0.05  # share of the paired photos that may show nobody
FITTING = {"": FRAMES, "pad": ("256", "crop176"), "squeeze": ("squeeze176",)}  # framing -> frames of key points
NARROW = {"": "crop176", "pad": "crop176", "squeeze": "squeeze176"}  # framing -> the frame of key points below x = 176
TRUNK = [NAMED[f"{side} {joint}"] for side in ("right", "left") for joint in ("shoulder", "hip")]
PHOTOS = Part("photos", TREES, IMAGES)
JOINTS, FILES_OF_PAIRS = (
    Part(what, tuple(f"{stem}-{kind}-test.csv" for stem in STEMS) + pickled, needed=False)
    for what, kind, pickled in (
        ("key points", "annotation", (pickles.PEAKS, pickles.INDEX)),
        ("pairs", "pairs", ("p_pairs_test.p", "DF_test_data/p_pairs_test.p")),
    )
)


class DeepFashion(DatasetReader):
    """52,712 photos, 256x256, of 7,982 items in 13,029 colours; what one model wears is seen from several sides.

    Under root/deepfashion (or DeepFashion, fashion_data, ...; or root itself):
        Img/img/{WOMEN,MEN}/<category>/id_<8 digits>/<colour>_<n>_<view>.jpg       or img/...: the official tree
        Img/img_highres/...                       the same of 750x1101, read where those of 256x256 are absent
        train/<name>.jpg, test/<name>.jpg         or all photos flat, in one of the spellings of fashion_names.py
        Eval/list_eval_partition.txt              count, column names, "<image> <item> train|query|gallery" a line
        fasion-annotation-{train,test}.csv        key points and
        fasion-pairs-{train,test}.csv             pairs, see fashion_csv.py; both optional
        index.p                                   VUNet's key points, see fashion_pickles.py; optional
        train.lst, test.lst                       PATN's split, a name a line; optional
    or under root/DF_img_pose (or root/deepfashion/DF_img_pose, ...), of PG2's authors:
        filted_up_train/<name>.jpg, filted_up_test/<name>.jpg    a choice of these photos; and fashion_pickles.py
    From:     mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html; key points and pairs from the repositories
              of Deformable GAN, PATN, ADGAN, GFLA, PG2 and VUNet
    Records:  in the order of the keys, "WOMEN/Tees_Tanks/id_00007838/05_7_additional"; classes are the 23 folders of
              gender and category; an identity is a garment in a colour (on one person)

    split: which photos are for testing, and the pairs.
        disjoint   item-disjoint (`held_items`): 148,736 / 13,090 pairs, cut to 146,680 / 12,800 (GGB, Sec. 4)
        inshop     list_eval_partition.txt: test = query and gallery
        patn_lst   train.lst, test.lst: half of the test items are in training in another colour
        csv        the files of pairs, as they are
        pg2        PG2's photos, key points and pairs, see fashion_pickles.py
        auto       csv where there are files of pairs, pg2 where there are PG2's photos alone, else disjoint
    pairs: pg2_counts, cut to n_train_pairs / n_test_pairs; valid4, only photos with shoulders and hips (Deformable GAN,
    PATN, VUNet), and cut; all. count_flips: half as many training pairs, each seen plain and mirrored (PG2).
    val_groups: so many garments in a colour are taken out of training before the cut, and the pairs to watch a run with
    are theirs; None: those are what the cut leaves over, of photos that other training pairs show.
    drop_flat: without the 683 photos of a garment that nobody wears. There are no captions, masks or attributes.
    files: stem of the csv files, one of STEMS, or vunet: key points of index.p, or auto: what is there, a csv first.
    annotation_frame: see `read_joints`. highres: how the photos of 750x1101 are made 256x256 where the small ones are
    absent, see `geometry.framed`; squeeze goes with key points in squeeze176, GFLA's.
    """

    dataset = INSHOP
    lacks = ("masks", "attributes")

    def __init__(
        self,
        *,
        split: str = "auto",
        pairs: str = "pg2_counts",
        n_train_pairs: int = TRAIN_PAIRS,
        n_test_pairs: int = TEST_PAIRS,
        count_flips: bool = False,
        drop_flat: bool = True,
        files: str = "auto",
        annotation_frame: str | int = "auto",
        highres: str = "pad",
        val_groups: int | None = None,
        captions: str = "none",
        **reader: Any,
    ) -> None:
        """reader: what every `DatasetReader` takes."""
        super().__init__(captions=captions, **reader)
        for key, value, known in (
            ("split", split, SPLITS),
            ("pairs", pairs, PAIRS),
            ("files", files, ("auto", *STEMS, "vunet")),
            ("highres", highres, HIGHRES_WAYS),
        ):
            choose(f"data.{key}", value, known)
        if (val_groups or 0) < 0:
            raise UserError(f"data.val_groups={val_groups} is no number of groups: choose 500, say, or null.")
        self.split, self.pairs, self.n_train_pairs, self.n_test_pairs = split, pairs, n_train_pairs, n_test_pairs
        self.count_flips, self.drop_flat, self.files = count_flips, drop_flat, files
        self.annotation_frame, self.highres, self.val_groups = str(annotation_frame), highres, val_groups

    def read(self) -> Records:
        place = locate(self.root, split=self.split, highres=self.highres)
        folder = place.folder
        procedural = is_procedural((folder, folder.parent))
        status = {} if place.pg2 else _partition(folder)
        files, notes = photos(place.tops)
        if place.framing:
            notes += (f"the photos of 750x1101 stand in for those of 256x256, data.highres={place.framing}",)
            tell(notes[-1])
        listed = sorted(status or files)
        found = np.array([key in files for key in listed])
        expected = len(listed) if procedural or place.pg2 else IMAGES  # PG2's are a choice, of unknown number
        notes += INSHOP.count(
            found, "photos", folder, names=listed, expected=expected, allow_missing=self.allow_missing
        )
        named = [key for key in listed if not (self.drop_flat and names.view(key) == "flat")]
        keys = [key for key in named if key in files]
        check_sizes([files[key] for key in keys], place.framing, procedural)
        row = {key: i for i, key in enumerate(keys)}
        joints = self._joints(place, row, procedural)
        if place.pg2:
            tested = {key for key in keys if place.tops[1] in files[key].parents}
            pairs, told = self._pg2_pairs(folder, tested, joints, row)
            notes += told
        else:
            pairs, tested = self._pairs(folder, named, status, joints, row)
        identity = {group: i for i, group in enumerate(sorted({names.group(key) for key in keys}))}
        records = Records(
            name=INSHOP.name,
            root=folder,
            keys=tuple(keys),
            images=tuple(files[key] for key in keys),
            labels=np.array([names.FOLDERS.index(names.folder(key)) for key in keys], np.int64),
            classes=names.FOLDERS,
            test=np.array([key in tested for key in keys], bool),
            joints=joints,
            identities=np.array([identity[names.group(key)] for key in keys], np.int64),
            pose_pairs={split: _rows(each, row) for split, each in pairs.items()},
            framing=place.framing,
            mirrored=self.count_flips,
            procedural=procedural,
            expected=expected - len(listed) + len(named),
        )
        tell("pairs: " + ", ".join(f"{len(e):,} {split}" for split, e in records.pose_pairs.items()))
        return replace(records, notes=notes + _leaks(keys, tested) + _empty(records))

    def find(self) -> Path:
        return locate(self.root, split=self.split, highres=self.highres).folder

    @classmethod
    def inventory(cls, root: Path) -> dict[Part, int]:
        try:
            place = locate(root, split="auto", highres="pad")
        except UserError:
            return {PHOTOS: 0, JOINTS: 0, FILES_OF_PAIRS: 0}
        known = {PHOTOS: len(photos(place.tops)[0])}
        return known | {part: part.count([place.folder]) for part in (JOINTS, FILES_OF_PAIRS)}

    def _joints(self, place: Place, row: dict[str, int], procedural: bool) -> np.ndarray | None:
        """N,18,2 int16 by row; None where there are no files of key points."""
        paths, frame = self._csv(place.folder, "annotation") if self.files != "vunet" else [], "256"
        peaks, index = place.folder / pickles.PEAKS, place.folder / pickles.INDEX
        if paths:
            given = "256" if procedural and self.annotation_frame == "auto" else self.annotation_frame
            table, frame = read_joints(paths, given, narrow=NARROW[place.framing])
        elif place.pg2 and self.files == "auto" and peaks.is_file():
            paths, table = [peaks], pickles.read_peaks(place.folder)
            if not table.keys() & row.keys():
                raise UserError(f"{peaks} has peaks of no photo in {place.folder}: take both from one download.")
        elif self.files == "vunet" or (self.files == "auto" and index.is_file()):
            paths = [INSHOP.need(index, "the data of VUNet")]
            table = pickles.read_index(index)
        else:
            return None
        own = paths[0].suffix == ".csv" and frame == self.annotation_frame == "256"  # found on these very photos
        if not own and frame not in FITTING[place.framing]:
            other = "squeeze" if place.framing == "pad" else "pad"
            raise UserError(
                f"{paths[0]} has key points in the frame {frame}, and photos of data.highres={place.framing} are not "
                f"in it: choose data.highres={other}, or another data.annotation_frame if that is not their frame."
            )
        if not place.pg2:
            self._refuse_absent((key for key in table if key not in row), "has key points", paths[0])
        tell(f"key points: {' and '.join(path.name for path in paths)}, frame {frame}")
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
            train, val = self._without_groups(train)
            tested = {key for pair in test for key in pair}
            return {"train": train, "val": (val or left)[:HELD_BACK], "test": test}, tested
        if self.split == "csv":
            raise UserError(
                f"{folder} lacks fasion-pairs-train.csv or -test.csv: data.split=disjoint needs no such files."
            )
        tested = self._tested(folder, keys, status)
        whole = self._whole(keys, joints, row, folder)
        own = ([key for key in whole if (key in tested) == for_test] for for_test in (False, True))
        return self._drawn(*map(ordered_pairs, own)), tested

    def _pg2_pairs(
        self, folder: Path, tested: set[str], joints: np.ndarray | None, row: dict[str, int]
    ) -> tuple[dict[str, list[Pair]], tuple[str, ...]]:
        """The pairs of PG2's files, or of its photos where there are none; and a note about what is left out: pairs of
        a photo without peaks, as in PG2's own datasets/convert_DF.py."""
        whole = set(self._whole(row, joints, row, folder))
        pairs: list[list[Pair]] = []
        for part, own in zip(PARTS, (row.keys() - tested, tested), strict=True):
            listed, usable = ordered_pairs(own), whole & own
            if path := pickles.pairs_file(folder, part):
                tell(f"pairs: {path}")
                listed = pickles.read_pairs(path)
                absent = (key for pair in listed for key in pair if key not in own)
                self._refuse_absent(absent, f"is in a {part} pair of", path)
            pairs.append([pair for pair in listed if usable.issuperset(pair)])
        seen = whole if joints is None else {key for key in whole if (joints[row[key]] >= 0).any()}
        kept = [[pair for pair in part if seen.issuperset(pair)] for part in pairs]
        left = sum(map(len, pairs)) - sum(map(len, kept))
        note = f"{left:,} pairs are left out, one of their photos has no key points"
        return self._drawn(*kept), (note,) if left else ()

    def _whole(self, keys: Iterable[str], joints: np.ndarray | None, row: dict[str, int], folder: Path) -> list[str]:
        """The photos that data.pairs lets in."""
        if self.pairs != "valid4":
            return list(keys)
        if joints is None:
            raise UserError(f"data.pairs=valid4 needs key points, which {folder} lacks: choose data.pairs=pg2_counts.")
        return [key for key in keys if key in row and (joints[row[key]][TRUNK] >= 0).all()]

    def _drawn(self, train: list[Pair], test: list[Pair]) -> dict[str, list[Pair]]:
        """As many pairs as are asked for of all that there are."""
        most = (
            (self.n_train_pairs // (1 + self.count_flips), self.n_test_pairs) if self.pairs != "all" else (None, None)
        )
        train, val = self._without_groups(train)
        chosen, left = drawn(train, most[0])
        return {"train": chosen, "val": (val or left)[:HELD_BACK], "test": drawn(test, most[1])[0]}

    def _without_groups(self, train: list[Pair]) -> tuple[list[Pair], list[Pair]]:
        """The pairs to train on, and those of the groups that data.val_groups takes out."""
        if not self.val_groups:
            return train, []
        kept, held = without_groups(train, self.val_groups)
        left, watched = f"{len(kept):,} are left to train on", f"{min(len(held), HELD_BACK)} to watch the run with"
        tell(f"data.val_groups={self.val_groups}: {len(held):,} pairs of them are taken out, {left}, {watched}")
        return kept, held

    def _tested(self, folder: Path, keys: Sequence[str], status: dict[str, str]) -> set[str]:
        """The photos for testing where no files of pairs say so."""
        if self.split == "patn_lst":
            listed: dict[str, set[str]] = {}
            for part in PARTS:
                path = INSHOP.need(folder / f"{part}.lst", "the repository of PATN")
                lines = enumerate(read_text(path).split(), 1)
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
        stems = (self.files,) if self.files in STEMS else STEMS
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
    lines = read_text(path).splitlines()
    for line, text in enumerate(lines[2:], 3):  # after the count and the names of the columns
        fields = text.split()
        if fields and (len(fields) != 3 or fields[2] not in ("train", "query", "gallery")):
            raise UserError(f"{path} line {line} is not an image, an item and a status ({text[:80]!r}): {AGAIN}.")
        if fields:
            status[_key(fields[0], path, line)] = fields[2]
    if lines[:1] != [str(len(status))]:
        raise UserError(f"{path} lists {len(status):,} photos, not {' '.join(lines[:1]) or 'any'} as it says: {AGAIN}.")
    return status


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
