"""Reader of the 102 Category Flower Dataset in its original layout."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat

from common.data.readers.captions import CHOICES, caption_archives, captions_part, split_folders, with_captions
from common.data.readers.masks import read_segmim, with_masks
from common.data.readers.presence import Archive, Dataset, DatasetReader, Part, is_procedural, nested, present
from common.data.readers.splits import find_split
from common.data.records import Records
from common.errors import UserError, choose
from common.files import open_file

IMAGES, CLASSES, TEST = 8_189, 102, 1_155
DIVISIONS = ("classes", "permutation", "files")
HELD_OUT = 20  # classes of Reed's split and of the permutation
FIRST = 0.75  # of the files in their order: paarthneekhara/text-to-image
HOME = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
PLACES = ("oxford102", "flowers-102", "flowers")
SPLITS = ("test/filenames.pickle", "testclasses.txt", "testids.txt")
VGG = Dataset(
    "Oxford-102",
    "oxford102",
    "flowers",
    "102flowers.tgz",
    HOME.removeprefix("https://"),
    "python run.py task=prepare data=oxford102 fetches it or explains how",
    (  # less setid.mat: its split by image would show the test classes in training, and nothing reads it
        Archive(
            "102flowers.tgz",
            HOME,
            (Part("images", ("jpg",), IMAGES, at_home=True),),
            url=f"{HOME}102flowers.tgz",
            md5="52808999861908f626f3c1f4e79d11fa",
            top="jpg",
            terms="its photos are from the web, for research only",
        ),
        Archive(
            "imagelabels.mat",
            HOME,
            (Part("imagelabels.mat", ("imagelabels.mat",), at_home=True),),
            url=f"{HOME}imagelabels.mat",
            md5="e0620be6f572b9609742df49c70aed4d",
        ),
        Archive(
            "102segmentations.tgz",
            HOME,
            (Part("masks", ("segmim",), IMAGES, needed=False, at_home=True),),
            url=f"{HOME}102segmentations.tgz",
            md5="51375996b6c4f367a4b9f4492d7ecef5",
            top="segmim",
        ),
        *caption_archives(  # the split comes with the captions
            "flowers",
            (
                captions_part("flowers", IMAGES),
                Part(
                    "split by class",
                    tuple(f"{place}/{file}" for place in split_folders([Path()], "flowers") for file in SPLITS),
                ),
            ),
        ),
    ),
)


class Oxford102(DatasetReader):
    """Oxford 102 Category Flowers: 8,189 photos of 102 species with segmentations and ten captions each.

    Under root/oxford102, root/flowers-102, root/flowers, or root itself, or up to three folders deeper:
        jpg/image_00001.jpg ... image_08189.jpg          RGB, shorter side about 500 (102flowers.tgz)
        imagelabels.mat                                  `labels` 1,8189, 1 to 102
        segmim/segmim_00001.jpg ...                      the flower on blue (102segmentations.tgz)
    Under root or beside the above:
        captions                                         see common/data/readers/captions.py
        flowers_icml/{trainval,test}classes.txt          the split, "class_00001" a line; also in cvpr2016_flowers, or
                                                         as {train,test}/filenames.pickle in flowers or Data/flowers

    From:     www.robots.ox.ac.uk/~vgg/data/flowers/102/
    Splits:   by class (Reed et al.): 7,034 photos of 82 classes for training, 1,155 of 20 for testing. The classes are
              no range, and no list of them is known here, so that one of the split files must be there; setid.mat is
              another split, which would show the test classes in training. Others have another name in all results:
              permutation, 20 classes that NumPy's RandomState(0) draws, 6,590 and 1,599 photos; files, the first three
              quarters in the order of their names, which shows the test classes in training (paarthneekhara's)
    Records:  in the order of the image numbers; keys "image_00001", classes "class_00001"; masks by `read_segmim`
    """

    dataset = VGG
    caption_sources = CHOICES
    lacks = ("attributes",)

    def __init__(self, *, split: str = "classes", **reader: Any) -> None:
        """split: one of DIVISIONS. reader: as of `DatasetReader`."""
        super().__init__(**reader)
        self.split = choose("data.split", split, DIVISIONS)

    def read(self) -> Records:
        folder = self.find()
        bases = tuple(dict.fromkeys((self.root, folder, folder.parent)))
        procedural = is_procedural(bases)
        labels = _labels(VGG.need(folder / "imagelabels.mat"), procedural)
        keys = tuple(f"image_{number:05d}" for number in range(1, len(labels) + 1))
        places = present(folder / "jpg", [f"{key}.jpg" for key in keys])
        found = np.array([place is not None for place in places], bool)
        notes = VGG.count(
            found, "images", folder / "jpg", names=keys, expected=len(keys), allow_missing=self.allow_missing
        )
        if extra := {path.stem for path in (folder / "jpg").glob("image_*.jpg")} - set(keys):
            raise UserError(
                f"{folder / 'jpg'} has {min(extra)}.jpg but imagelabels.mat labels {len(keys):,} images: take both "
                "from one distribution."
            )
        test, told = self.divide(labels, dict(zip(keys, (labels + 1).tolist(), strict=True)), bases)
        if self.split == "classes" and not procedural and test.sum() != TEST:
            notes += (f"{told} leaves {test.sum():,} images for testing, not {TEST:,} as in the published split",)
        if self.split != "classes":
            notes += (told,)
        records = Records(
            name=VGG.name if self.split == "classes" else f"{VGG.name}-{self.split}",
            root=folder,
            keys=keys,
            images=tuple(place or folder / "jpg" for place in places),
            labels=labels,
            classes=tuple(f"class_{number:05d}" for number in range(1, int(labels.max()) + 2)),
            test=test,
            procedural=procedural,
            expected=len(keys),
            notes=notes,
        ).take(np.flatnonzero(found))
        records = with_captions(records, VGG, bases, source=self.captions, allow_missing=self.allow_missing)
        return with_masks(
            records,
            VGG,
            [folder / "segmim"],
            [f"{key.replace('image', 'segmim')}.jpg" for key in records.keys],
            read_segmim,
            origin=f"102segmentations.tgz from {VGG.source}",
            needed=self.masks,
            allow_missing=self.allow_missing,
        )

    def divide(self, labels: np.ndarray, images: dict[str, int], bases: Sequence[Path]) -> tuple[np.ndarray, str]:
        """Which images are for testing: N bool, and what says so. images: key -> class number."""
        if self.split == "files":
            return np.arange(len(labels)) >= int(FIRST * len(labels)), "data.split=files: test classes are trained on"
        if self.split == "permutation":
            classes = np.random.RandomState(0).permutation(CLASSES)[-HELD_OUT:]
            return np.isin(
                labels, classes
            ), "data.split=permutation: not the published split, compare with nothing else"
        split = find_split(split_folders(bases, VGG.kind), images)
        if split is None:
            raise UserError(
                f"there is no split by class of the flowers under {self.root}: it comes with the captions, as "
                "testclasses.txt and trainvalclasses.txt in flowers_icml or cvpr2016_flowers, or as {train,test}/"
                f"filenames.pickle in flowers ({VGG.remedy}; setid.mat would leak test classes); "
                "data.split=permutation takes 20 other classes."
            )
        return np.isin(labels + 1, sorted(split.test)), str(split.path)

    def find(self) -> Path:
        if folder := _home(self.root):
            return folder
        VGG.refuse_absent(self.root, [f"{place}/jpg" for place in PLACES])

    @classmethod
    def folders(cls, root: Path) -> list[Path]:
        home = _home(root) or root / PLACES[0]
        return list(dict.fromkeys((home, root, home.parent)))


def _home(root: Path) -> Path | None:
    """The folder of jpg/: where it belongs, or deeper."""
    folders = (*(root / place for place in PLACES), root)
    known = next((f for f in folders if (f / "jpg").is_dir() or (f / "imagelabels.mat").is_file()), None)
    return known or nested(root, "jpg", "imagelabels.mat")


def _labels(path: Path, procedural: bool) -> np.ndarray:
    """N int64, 0-based."""
    try:
        with open_file(path) as file:
            labels = loadmat(file)["labels"].astype(np.int64).ravel() - 1
    except UserError:
        raise
    except Exception as error:  # a cut or foreign file: scipy raises what its parser stumbles over
        raise UserError(f"{path} is not the labels of Oxford-102 ({error!r}): download it again.") from error
    if not labels.size or labels.min() < 0 or labels.max() >= CLASSES:
        raise UserError(f"{path} has labels outside 1 to {CLASSES}: download it again.")
    if not procedural and len(labels) != IMAGES:
        raise UserError(f"{path} labels {len(labels):,} images, not {IMAGES:,}: download it again.")
    return labels
