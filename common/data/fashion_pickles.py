"""Key points and pairs of PG2 (Ma et al. 2017), as its authors give them out: pickles of Python 2.

    PoseFiltered/all_peaks_dic_DeepFashion.p    photo -> 18 lists of peaks (x, y, score, id) of a joint
    PoseFiltered/subsets_dic_DeepFashion.p      photo -> P,20: the peaks of each of P people
    [DF_{train,test}_data/]p_pairs_{train,test}.p    list of [from, to]
The copies with Flip in their names are of mirrored photos, which training makes itself.
"""

from pathlib import Path
from typing import Any

import numpy as np

from common.data.fashion_csv import pair_of
from common.data.fashion_names import parse
from common.data.pickles import read_pickle
from common.data.pose_pairs import Pair
from common.data.poses import FRAME, JOINTS
from common.errors import UserError

PEAKS, PEOPLE = "PoseFiltered/all_peaks_dic_DeepFashion.p", "PoseFiltered/subsets_dic_DeepFashion.p"
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
