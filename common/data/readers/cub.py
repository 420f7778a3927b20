"""Reader of CUB-200-2011 in its original layout."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.data.readers.captions import CHOICES, caption_archives, captions_part, split_folders, with_captions
from common.data.readers.masks import read_votes, with_masks
from common.data.readers.presence import Archive, Dataset, DatasetReader, Part, is_procedural, nested, present
from common.data.readers.splits import find_split
from common.data.records import Records
from common.errors import UserError
from common.files import open_file, read_text

IMAGES, CLASSES, ATTRIBUTES, TRAIN, TEST = 11_788, 200, 312, 8_855, 2_933
BLOCK = 1 << 22  # bytes of attribute labels parsed at a time
AGAIN = "unpack CUB_200_2011.tgz again"

# Reed et al. 2016: the 50 test classes; the other 150 are for training. The same as in AttnGAN's filenames.pickle.
TEST_CLASSES = frozenset(
    map(
        int,
        """1 4 6 8 9 14 23 29 31 33 34 35 36 37 38 43 49 51 53 66 72 79 83 84 86 91 95 96 98 101 102 103 112 114 119 121
        130 135 138 147 156 163 165 166 180 183 185 186 187 197""".split(),
    )
)

HOME, MASKS = "https://data.caltech.edu/records/65de6-vp158", "https://data.caltech.edu/records/w9d68-gec53"
ATTNGAN = "the Google Drive linked at https://github.com/taoxugit/AttnGAN"
PLACES = ("CUB_200_2011", "birds/CUB_200_2011")


def _part(path: str, files: int = 1, needed: bool = True) -> Part:
    return Part(path, (f"CUB_200_2011/{path}", path), files, needed)  # the second where the folder itself is paths.data


CALTECH = Dataset(
    "CUB-200-2011",
    "cub",
    "birds",
    "CUB_200_2011.tgz",
    HOME.removeprefix("https://"),
    "python run.py task=prepare data=cub fetches it or explains how",
    (
        Archive(
            "CUB_200_2011.tgz",
            HOME,
            (
                _part("images", IMAGES),
                *map(_part, ("images.txt", "image_class_labels.txt", "classes.txt", "bounding_boxes.txt")),
                _part("attributes/image_attribute_labels.txt", needed=False),
                Part(
                    "attributes.txt",
                    tuple(
                        f"{folder}attributes.txt"
                        for folder in ("", "attributes/", "CUB_200_2011/", "CUB_200_2011/attributes/")
                    ),
                    needed=False,
                ),
            ),
            url=f"{HOME}/files/CUB_200_2011.tgz",
            md5="97eceeb196236b17998738112f37df78",
            terms="its photos are for non-commercial research and teaching only",
        ),
        Archive(
            "segmentations.tgz",
            MASKS,
            (Part("masks", ("segmentations", "CUB_200_2011/segmentations"), IMAGES, needed=False),),
            url=f"{MASKS}/files/segmentations.tgz",
            md5="4d47ba1228eae64f2fa547c47bc65255",
            top="segmentations",
        ),
        *caption_archives("birds", (captions_part("birds", IMAGES),)),
        Archive("birds.zip", ATTNGAN, (captions_part("birds", IMAGES),), top="birds"),
        # inside birds.zip, and often left packed; the word ids of captions.pickle beside it are no substitute
        Archive("birds/text.zip", ATTNGAN, (Part("AttnGAN's text.zip", ("text",), IMAGES, needed=False),), top="text"),
    ),
)


class CUB(DatasetReader):
    """Caltech-UCSD Birds 200-2011: 11,788 photos of 200 species with boxes, masks, 312 attributes and ten captions.

    Under root, or root/birds, or up to three folders deeper, or with root the folder CUB_200_2011 itself:
        CUB_200_2011/images.txt                  "<image id> <class_dir>/<name>.jpg", ids from 1
                     image_class_labels.txt      "<image id> <class id>"
                     classes.txt                 "<class id> <class_dir>"
                     bounding_boxes.txt          "<image id> <x> <y> <width> <height>", pixels
                     images/<class_dir>/<name>.jpg             of any size, a few are grey
                     attributes/image_attribute_labels.txt     "<image id> <attribute id> <present> <certainty> <time>"
        attributes.txt                           "<attribute id> <group>::<value>", beside CUB_200_2011 or in it
        segmentations/<class_dir>/<name>.png     votes of five annotators, beside CUB_200_2011 or in it
        captions                                 four distributions, see common/data/readers/captions.py

    From:     data.caltech.edu/records/65de6-vp158 (CUB_200_2011.tgz), .../w9d68-gec53 (segmentations.tgz)
    Splits:   by class (Reed et al.): 8,855 photos of 150 classes for training, 2,933 of 50 for testing; from the split
              files beside the captions if there are any, else TEST_CLASSES; never from train_test_split.txt
    Records:  in the order of the image ids; keys "<class_dir>/<name>"; masks are read by `read_votes`

    Complete masks are listed even when they are not needed; the 3,677,856 attribute labels are read only when they are.
    """

    dataset = CALTECH
    caption_sources = CHOICES

    def read(self) -> Records:
        folder = self.find()
        bases = tuple(dict.fromkeys((folder.parent, self.root, self.root / "birds")))
        procedural = is_procedural((folder, *bases))
        keys, labels, classes = _lists(folder, procedural)
        places = present(folder / "images", [f"{key}.jpg" for key in keys])
        found = np.array([place is not None for place in places], bool)
        expected = len(keys) if procedural else IMAGES
        notes = CALTECH.count(
            found, "images", folder / "images", names=keys, expected=expected, allow_missing=self.allow_missing
        )
        test, split_notes = _split(bases, keys, labels)
        names: tuple[str, ...] = ()
        attributes = certainty = None
        if self.attributes:
            names = _attribute_names((*bases, folder, folder / "attributes"), procedural)
            label_file = CALTECH.need(folder / "attributes" / "image_attribute_labels.txt")
            attributes, certainty = read_attribute_labels(label_file, len(keys), len(names))
        records = Records(
            name=CALTECH.name,
            root=folder,
            keys=keys,
            images=tuple(place or folder / "images" for place in places),
            labels=labels,
            classes=classes,
            test=test,
            boxes=_boxes(folder / "bounding_boxes.txt", len(keys)),
            attributes=attributes,
            certainty=certainty,
            attribute_names=names,
            procedural=procedural,
            expected=expected,
            notes=notes + split_notes,
        ).take(np.flatnonzero(found))
        records = with_captions(records, CALTECH, bases, source=self.captions, allow_missing=self.allow_missing)
        return with_masks(
            records,
            CALTECH,
            [base / "segmentations" for base in (*bases, folder)],
            [f"{key}.png" for key in records.keys],
            read_votes,
            origin=f"segmentations.tgz from {MASKS}",
            needed=self.masks,
            allow_missing=self.allow_missing,
        )

    def find(self) -> Path:
        if folder := _home(self.root):
            return folder
        CALTECH.refuse_absent(self.root, PLACES)

    @classmethod
    def folders(cls, root: Path) -> list[Path]:
        beside = [home.parent] if (home := _home(root)) else []
        return list(dict.fromkeys((root, root / "birds", *beside)))


def _home(root: Path) -> Path | None:
    """The folder CUB_200_2011: where it belongs, or deeper."""
    known = [root / place for place in PLACES if (root / place).is_dir()]
    whole = next((folder for folder in known if (folder / "images.txt").is_file()), None)
    return whole or nested(root, "images.txt", "classes.txt") or next(iter(known), None)


def _lists(folder: Path, procedural: bool) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...]]:
    """Keys and labels (N int64, 0-based) in the order of image ids, and the names of the classes."""
    classes = tuple(name for _, (name,) in _table(folder / "classes.txt", 1))
    if not procedural and len(classes) != CLASSES:
        raise UserError(f"{folder / 'classes.txt'} has {len(classes)} classes, not {CLASSES}: {AGAIN}.")
    paths = _table(folder / "images.txt", 1)
    label_file = folder / "image_class_labels.txt"
    labels = np.zeros(len(paths), np.int64)
    lines: dict[str, int] = {}  # image name -> its line
    rows = zip(paths, _table(label_file, 1, len(paths)), strict=True)
    for row, ((line, (path,)), (label_line, (label,))) in enumerate(rows):
        if not label.isdecimal() or not 1 <= int(label) <= len(classes):
            raise UserError(f"{label_file} line {label_line} has class {label}, not 1 to {len(classes)}: {AGAIN}.")
        labels[row] = int(label) - 1
        class_dir, _, name = path.removesuffix(".jpg").partition("/")
        if class_dir != classes[labels[row]] or not path.endswith(".jpg") or "/" in name:
            raise UserError(
                f"{folder / 'images.txt'} line {line} has {path}, not {classes[labels[row]]}/<name>.jpg as "
                f"{label_file.name} line {label_line} says: {AGAIN}."
            )
        if name in lines:  # captions are joined by the name
            raise UserError(
                f"{folder / 'images.txt'} line {line} repeats the name {name} of line {lines[name]}: {AGAIN}."
            )
        lines[name] = line
    return tuple(path.removesuffix(".jpg") for _, (path,) in paths), labels, classes


def _split(bases: Sequence[Path], keys: Sequence[str], labels: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """N bool, True = test, and a note where the split files give a split of another size than the published one."""
    numbers = dict(zip((key.rpartition("/")[2] for key in keys), (labels + 1).tolist(), strict=True))
    split = find_split(split_folders(bases, CALTECH.kind), numbers)
    test = np.isin(labels + 1, sorted(split.test if split else TEST_CLASSES))
    if split is None or len(keys) != IMAGES or test.sum() == TEST:
        return test, ()
    return test, (f"{split.path} leaves {test.sum():,} images for testing, not {TEST:,} as in the published split",)


def _boxes(path: Path, count: int) -> np.ndarray:
    """N,4 float32: x, y, width, height in pixels."""
    boxes = np.zeros((count, 4), np.float32)
    for row, (line, fields) in enumerate(_table(path, 4, count)):
        try:
            boxes[row] = [float(field) for field in fields]
        except ValueError:
            boxes[row] = np.nan
        if not np.isfinite(boxes[row]).all() or boxes[row, 2:].min() <= 0:
            raise UserError(f"{path} line {line} is no box ({' '.join(fields)}): {AGAIN}.")
    return boxes


def _attribute_names(folders: Sequence[Path], procedural: bool) -> tuple[str, ...]:
    path = next((folder / "attributes.txt" for folder in folders if (folder / "attributes.txt").is_file()), None)
    path = path or CALTECH.need(folders[0] / "attributes.txt")
    names = tuple(name for _, (name,) in _table(path, 1))
    if not procedural and len(names) != ATTRIBUTES:
        raise UserError(f"{path} names {len(names)} attributes, not {ATTRIBUTES}: {AGAIN}.")
    return names


def _table(path: Path, fields: int, count: int | None = None) -> list[tuple[int, list[str]]]:
    """(line, fields) of the ids 1 to count in that order. Refuses a cut line and an id absent or there twice."""
    text = read_text(CALTECH.need(path), stray="?")
    rows: dict[int, tuple[int, list[str]]] = {}
    for line, row in enumerate(text.splitlines(), 1):
        number, *rest = row.split() or [""]
        if not row.strip():
            continue
        if len(rest) != fields or not number.isdecimal() or len(number) > 9:
            raise UserError(f"{path} line {line} is not an id and {fields} more ({row[:80]!r}): {AGAIN}.")
        if int(number) in rows:
            raise UserError(f"{path} line {line} repeats the id {number} of line {rows[int(number)][0]}: {AGAIN}.")
        rows[int(number)] = line, rest
    ids = range(1, (count or max(1, len(rows))) + 1)
    if odd := set(rows) ^ set(ids):
        what = f"the {count:,} ids of images.txt" if count else f"the ids 1 to {len(ids):,}"
        raise UserError(f"{path} has {len(rows):,} lines, not {what} (the first difference is id {min(odd)}): {AGAIN}.")
    return [rows[i] for i in ids]


def read_attribute_labels(path: Path, images: int, attributes: int) -> tuple[np.ndarray, np.ndarray]:
    """is_present and certainty (1 not visible ... 4 definitely), both N,A uint8, of image_attribute_labels.txt.

    Of each line the first four fields are read: the lines of images 2275 and 9364 have stray zeros before the time.
    Refuses a line that is no label, a label given twice and a label that is absent.
    """
    is_present, certainty = np.zeros((2, images * attributes), np.uint8)
    line_of = np.zeros(images * attributes, np.int32)  # 1-based line of each label, 0 = none yet
    done = 0
    with open_file(path) as file:
        while block := file.read(BLOCK):
            block = (block + file.readline()).rstrip(b"\n") + b"\n"
            values, bad = _first_four(np.frombuffer(block, np.uint8))
            limits = np.array([[1, images], [1, attributes], [0, 1], [1, 4]])
            bad |= ((values < limits[:, :1]) | (values > limits[:, 1:])).any(0)
            lines = np.arange(done + 1, done + 1 + len(bad), dtype=np.int32)
            if bad.any():
                text = block.split(b"\n", int(bad.argmax()) + 1)[bad.argmax()][:80].decode("latin1")
                raise UserError(f"{path} line {lines[bad.argmax()]} is no attribute label ({text!r}): {AGAIN}.")
            cells = (values[0] - 1) * attributes + values[1] - 1
            before = line_of[cells]
            line_of[cells] = lines
            if (twice := (before > 0) | (line_of[cells] != lines)).any():
                where = f"{path} line {lines[twice.argmax()]}"
                raise UserError(f"{where} is about the same image and attribute as another line: {AGAIN}.")
            is_present[cells], certainty[cells] = values[2], values[3]
            done += len(bad)
    if not line_of.all():
        image, attribute = divmod(int(np.argmin(line_of > 0)), attributes)
        raise UserError(
            f"{path} lacks {int((line_of == 0).sum()):,} of {line_of.size:,} labels, the first of them image "
            f"{image + 1} attribute {attribute + 1}: {AGAIN}."
        )
    return is_present.reshape(images, attributes), certainty.reshape(images, attributes)


def _first_four(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """text: whole lines, uint8 -> their first four numbers, 4,L int64, and which lines have none such, L bool."""
    gaps = np.flatnonzero(text <= 32)  # the byte after each field
    last = np.flatnonzero(text[gaps] == 10)  # the gap that ends each line
    first = np.concatenate(([0], last[:-1] + 1))
    bad = np.zeros(len(last), dtype=bool)
    values = np.zeros((4, len(last)), np.int64)
    for field in range(4):
        stop = gaps[np.minimum(first + field, last)]  # a field too many is empty, so that its line is bad
        previous = gaps[np.maximum(first + field - 1, 0)] if field else np.where(first > 0, gaps[first - 1], -1)
        width = stop - previous - 1
        bad |= (width < 1) | (width > 5)
        for place in range(5):
            digit = text[np.maximum(stop - 1 - place, 0)].astype(np.int64) - ord("0")
            used = place < width
            bad |= used & ((digit < 0) | (digit > 9))
            values[field] += np.where(used, digit * 10**place, 0)
    return values, bad
