"""Key points and pairs in pickles: those of PG2 (Ma et al. 2017) and VUNet (Esser et al. 2018), as their authors wrote
them.

PG2, with Python 2:
    PoseFiltered/all_peaks_dic_DeepFashion.p    photo -> 18 lists of peaks (x, y, score, id) of a joint
    PoseFiltered/subsets_dic_DeepFashion.p      photo -> P,20: the peaks of each of P people
    [DF_{train,test}_data/]p_pairs_{train,test}.p    list of [from, to]
The copies with Flip in their names are of mirrored photos, which training makes itself: neither they nor
filted_up_train_flip are read.

VUNet:
    index.p    imgs: N paths; joints: N,J,2 x, y in [0, 1], negative = missing; joint_order: J names such as rshoulder
"""

from pathlib import Path
from typing import Any

import numpy as np

from common.data.pose_pairs import Pair
from common.data.poses import JOINTS, NAMED
from common.data.readers.fashion_csv import pair_of
from common.data.readers.fashion_names import parse
from common.data.readers.old_formats import read_pickle
from common.data.records import FRAME
from common.errors import UserError

PEAKS, PEOPLE = "PoseFiltered/all_peaks_dic_DeepFashion.p", "PoseFiltered/subsets_dic_DeepFashion.p"
INDEX = "index.p"
VUNET = {"cnose": NAMED["nose"]} | {
    f"{side[0]}{joint}": NAMED[f"{side} {joint}"]
    for side in ("right", "left")
    for joint in ("ankle", "knee", "hip", "shoulder", "elbow", "wrist", "eye")
}
SHOULDERS = [NAMED["right shoulder"], NAMED["left shoulder"]]
AGAIN = "download the file again"


def pairs_file(folder: Path, part: str) -> Path | None:
    """PG2's pairs for "train" or "test", where they are there."""
    places = (folder, folder / f"DF_{part}_data")
    return next((path for place in places if (path := place / f"p_pairs_{part}.p").is_file()), None)


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file, by key. UserError as in `fashion_csv.read_pairs`."""
    listed = read_pickle(path)
    if not isinstance(listed, list):
        raise UserError(f"{path} is not a list of pairs: {AGAIN}.")
    return [pair_of(row, f"{path} entry {n}", AGAIN) for n, row in enumerate(listed)]


def read_peaks(folder: Path) -> dict[str, np.ndarray]:
    """Key -> 18,2 int16: x, y in the frame of 256x256, -1, -1 = missing, as PG2 sees them.

    A joint is its first peak in the photo, of whichever person: PG2 picks the best person and then takes all peaks
    (`_get_valid_peaks` of its datasets/convert_DF.py). A photo without a person in the other file shows nobody.
    """
    path = folder / PEAKS
    peaks, people = read_pickle(path), read_pickle(folder / PEOPLE) if (folder / PEOPLE).is_file() else {}
    if not isinstance(peaks, dict) or not isinstance(people, dict):
        raise UserError(f"{path if isinstance(people, dict) else folder / PEOPLE} is not a table of photos: {AGAIN}.")
    found = {}
    for name, joints in peaks.items():
        if (key := parse(str(name))) is None:
            raise UserError(f"{path} is about {str(name)[:80]!r}, which is no name of a DeepFashion photo: {AGAIN}.")
        nobody = name in people and not np.size(people[name])
        found[key] = np.full((len(JOINTS), 2), -1, np.int16) if nobody else _first_peaks(joints, f"{path}: {name}")
    return found


def _first_peaks(joints: Any, where: str) -> np.ndarray:
    """18,2 of the lists of peaks of a photo. A peak outside the photo is missing."""
    try:
        firsts = [peaks[0][:2] if len(peaks) else (-1, -1) for peaks in joints[: len(JOINTS)]]
        points = np.array(firsts, np.float64).astype(np.int64).reshape(len(JOINTS), 2)  # cut off, as PG2 does
    except (TypeError, ValueError, IndexError, KeyError):
        raise UserError(f"{where} has no {len(JOINTS)} lists of peaks (x, y, score, id): {AGAIN}.") from None
    inside = ((points >= 0) & (points < FRAME)).all(1, keepdims=True)
    return np.where(inside, points, -1).astype(np.int16)


def read_index(path: Path) -> dict[str, np.ndarray]:
    """Key -> 18,2 int16 of VUNet's index: x, y in the frame of 256x256, -1, -1 = missing.

    The neck, which VUNet lacks, is the middle of the shoulders; the ears are missing. Which eye is which is taken as
    VUNet names it.
    """
    index = read_pickle(path)
    try:
        images, order = list(index["imgs"]), [str(name) for name in index["joint_order"]]
        shares = np.array(index["joints"], np.float64).reshape(len(images), len(order), 2)
        places = {VUNET[name]: k for k, name in enumerate(order) if name in VUNET}
    except (TypeError, ValueError, KeyError):
        raise UserError(
            f"{path} is not VUNet's index, imgs, joint_order and joints of as many photos and names: {AGAIN}."
        ) from None
    if not {*SHOULDERS} <= places.keys():
        raise UserError(f"{path} names no rshoulder and lshoulder among its joints, {', '.join(order)}: {AGAIN}.")
    if shares.size and shares.max() > 1:
        raise UserError(f"{path} has joints beyond 1, and x, y should be shares of the photo's side: {AGAIN}.")
    points = np.full((len(images), len(JOINTS), 2), -1.0)
    points[:, list(places)] = shares[:, list(places.values())] * FRAME
    seen = np.asarray((points >= 0).all(2))
    points[:, NAMED["neck"]] = points[:, SHOULDERS].mean(1)
    seen[:, NAMED["neck"]] = seen[:, SHOULDERS].all(1)
    joints = np.where(seen[..., None], np.rint(points).clip(max=FRAME - 1), -1).astype(np.int16)
    keys = [parse(str(name)) or parse(str(name).rpartition("/")[2]) for name in images]
    if None in keys:
        raise UserError(
            f"{path} is about {str(images[keys.index(None)])[:80]!r}, which is no name of a DeepFashion photo: {AGAIN}."
        )
    return {key: each for key, each in zip(keys, joints, strict=True) if key}
