"""Foreground masks as the datasets store them: grey PNGs of votes, and flowers cut out on blue.

A reader is a module-level function `(mask path, photo: H,W,3 uint8) -> H,W uint8 in {0, 1}`, 1 = foreground, so that it
travels to worker processes by name.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from common.data.geometry import to_grey, to_rgb
from common.data.readers.presence import Dataset, present
from common.data.records import MaskReader, Records
from common.errors import UserError
from common.files import UNREADABLE, open_image

log = logging.getLogger(__name__)

BLUE = (0, 0, 254)  # the background of segmim/*.jpg
EIGHT = np.ones((3, 3), dtype=bool)  # 8-neighbourhood


def with_masks(
    records: Records,
    dataset: Dataset,
    folders: Sequence[Path],
    names: Sequence[str],
    reader: MaskReader,
    *,
    origin: str,
    needed: bool,
    allow_missing: bool,
) -> Records:
    """The records with the masks of the first folder that is there; names: N, relative to it.

    Needed: absent masks are refused, or their images left out if allow_missing. Not needed: all of them or none.
    """
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        if needed:
            dataset.need(folders[0], origin)
        return records
    places = present(folder, names)
    found = np.array([place is not None for place in places], bool)
    if not needed and not found.all():
        return replace(records, notes=(*records.notes, f"{found.sum():,} of {len(found):,} masks found, none used"))
    notes = dataset.count(found, "masks", folder, names=names, expected=len(records), allow_missing=allow_missing)
    paths = tuple(place for place in places if place is not None)
    records = records.take(np.flatnonzero(found))
    return replace(records, masks=paths, read_mask=reader, notes=records.notes + notes)


def read_votes(path: Path, photo: np.ndarray) -> np.ndarray:
    """A grey mask: foreground = value >= 128. Raises UserError for a mask of another size than the photo.

    CUB stores the votes of five annotators as 0, 51, 102, 153, 204, 255, where this is 3 votes or more; a mask saved as
    0/255 or with a palette comes out right too, as the file is taken to mode L first.
    """
    grey = np.asarray(_open(path, to_grey))
    if grey.shape != photo.shape[:2]:
        raise UserError(
            f"{path} is {grey.shape[1]}x{grey.shape[0]} but its image is {photo.shape[1]}x{photo.shape[0]}: "
            "put the mask and the image of one distribution there, or resize the mask to the image."
        )
    return (grey >= 128).astype(np.uint8)


def read_segmim(path: Path, photo: np.ndarray) -> np.ndarray:
    """The flower of an Oxford-102 segmim image; all ones, with a warning, where no flower can be told from it."""
    cutout = _open(path, to_rgb)
    if cutout.size != photo.shape[1::-1]:
        cutout = cutout.resize(photo.shape[1::-1], Image.Resampling.NEAREST)
    mask = segmim_foreground(np.asarray(cutout), photo)
    if mask is None:
        log.warning("%s shows no flower or no background: the whole image counts as foreground.", path)
        return np.ones(photo.shape[:2], np.uint8)
    return mask


def segmim_foreground(cutout: np.ndarray, photo: np.ndarray) -> np.ndarray | None:
    """cutout, photo: H,W,3 uint8 -> H,W uint8 in {0, 1}, or None if < 1 % or > 99.5 % is foreground.

    Blue alone does not decide, as there are blue flowers and JPEG blurs the border: background is what is blue, was not
    blue in the photo, and hangs together with a spot of pure blue. Tolerances are for JPEG noise.
    """
    from_blue = np.abs(cutout.astype(np.int16) - BLUE).max(2)
    repainted = np.abs(cutout.astype(np.int16) - photo).max(2) > 20
    parts, _ = ndimage.label((from_blue <= 60) & repainted, EIGHT)
    pure = np.unique(parts[(from_blue <= 10) & repainted])
    foreground = ndimage.binary_opening(~np.isin(parts, pure[pure > 0]), EIGHT)
    holes, _ = ndimage.label(ndimage.binary_fill_holes(foreground) & ~foreground, EIGHT)
    small = np.bincount(holes.ravel()) < 0.001 * holes.size
    small[0] = False  # label 0 is what is no hole
    foreground |= small[holes]
    return foreground.astype(np.uint8) if 0.01 <= foreground.mean() <= 0.995 else None


def _open(path: Path, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    try:
        with open_image(path) as image:
            return convert(image)
    except UNREADABLE as error:
        raise UserError(f"{path} is not a readable mask ({error}): copy or unpack it again.") from error
