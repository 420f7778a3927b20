"""Reader of the 102 Category Flower Dataset in its original layout."""

from pathlib import Path

import numpy as np
from scipy.io import loadmat

from common.data.readers.captions import split_folders, with_captions
from common.data.readers.masks import read_segmim, with_masks
from common.data.readers.presence import Dataset, present
from common.data.readers.splits import find_split
from common.data.records import Records
from common.errors import UserError

IMAGES, CLASSES, TEST = 8_189, 102, 1_155
VGG = Dataset(
    "Oxford-102",
    "oxford102",
    "flowers",
    "102flowers.tgz",
    "www.robots.ox.ac.uk/~vgg/data/flowers/102/",
    "python run.py task=prepare data=oxford102 fetches it or explains how",
)


class Oxford102:
    """Oxford 102 Category Flowers: 8,189 photos of 102 species with segmentations and ten captions each.

    Under root/oxford102, root/flowers-102, root/flowers, or root itself:
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
              another split, which would show the test classes in training
    Records:  in the order of the image numbers; keys "image_00001", classes "class_00001"; masks by `read_segmim`

    captions, allow_missing, masks, attributes: as in `CUB`; there are no attributes.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        captions: str = "auto",
        allow_missing: bool = False,
        masks: bool = False,
        attributes: bool = False,
    ) -> None:
        if attributes:
            raise UserError("Oxford-102 has no attributes: choose data=cub, or a model that reads none.")
        self.root = Path(root).expanduser().absolute()
        self.captions = captions
        self.allow_missing = allow_missing
        self.masks = masks

    def read(self) -> Records:
        """The dataset as it lies there. UserError, one sentence, for what is absent, damaged or does not fit."""
        folder = self.find()
        bases = tuple(dict.fromkeys((self.root, folder, folder.parent)))
        procedural = any((base / "procedural.json").is_file() for base in bases)
        labels = _labels(VGG.need(folder / "imagelabels.mat"), procedural)
        keys = tuple(f"image_{number:05d}" for number in range(1, len(labels) + 1))
        found = present(folder / "jpg", [f"{key}.jpg" for key in keys])
        notes = VGG.count(
            found, "images", folder / "jpg", names=keys, expected=len(keys), allow_missing=self.allow_missing
        )
        if extra := {path.stem for path in (folder / "jpg").glob("image_*.jpg")} - set(keys):
            raise UserError(
                f"{folder / 'jpg'} has {min(extra)}.jpg but imagelabels.mat labels {len(keys):,} images: take both "
                "from one distribution."
            )
        split = find_split(split_folders(bases, VGG.kind), dict(zip(keys, (labels + 1).tolist(), strict=True)))
        if split is None:
            raise UserError(
                f"there is no split by class of the flowers under {self.root}: it comes with the captions, as "
                "testclasses.txt and trainvalclasses.txt in flowers_icml or cvpr2016_flowers, or as {train,test}/"
                f"filenames.pickle in flowers ({VGG.remedy}; setid.mat would leak test classes)."
            )
        test = np.isin(labels + 1, sorted(split.test))
        if not procedural and test.sum() != TEST:
            notes += (f"{split.path} leaves {test.sum():,} images for testing, not {TEST:,} as in the published split",)
        records = Records(
            name=VGG.name,
            root=folder,
            keys=keys,
            images=tuple(folder / "jpg" / f"{key}.jpg" for key in keys),
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

    def find(self) -> Path:
        """The folder that holds the data set. UserError where there is none."""
        places = ("oxford102", "flowers-102", "flowers")
        for folder in (*(self.root / place for place in places), self.root):
            if (folder / "jpg").is_dir() or (folder / "imagelabels.mat").is_file():
                return folder
        VGG.refuse_absent(self.root, [f"{place}/jpg" for place in places])


def _labels(path: Path, procedural: bool) -> np.ndarray:
    """N int64, 0-based."""
    try:
        labels = loadmat(path)["labels"].astype(np.int64).ravel() - 1
    except Exception as error:  # a cut or foreign file: scipy raises what its parser stumbles over
        raise UserError(f"{path} is not the labels of Oxford-102 ({error!r}): download it again.") from error
    if not labels.size or labels.min() < 0 or labels.max() >= CLASSES:
        raise UserError(f"{path} has labels outside 1 to {CLASSES}: download it again.")
    if not procedural and len(labels) != IMAGES:
        raise UserError(f"{path} labels {len(labels):,} images, not {IMAGES:,}: download it again.")
    return labels
