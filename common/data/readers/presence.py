"""What a reader says of files that are absent: one sentence with the count, the place and the ways on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from common.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """What the sentences about a dataset name."""

    title: str  # "CUB-200-2011"
    name: str  # "cub", as on the command line
    kind: str  # "birds", what it shows and what the procedural stand-in draws
    archive: str  # "CUB_200_2011.tgz"
    source: str  # the page that the archive comes from
    remedy: str  # "python run.py task=prepare data=cub fetches it or explains how"

    def refuse_absent(self, root: Path, places: Sequence[str]) -> NoReturn:
        """Nothing of the dataset is there."""
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


def present(folder: Path, names: Sequence[str]) -> np.ndarray:
    """Which paths exist under a folder, N bool; one listing for each sub-folder, not one look for each file."""
    parts = [name.rpartition("/") for name in names]
    subs = {sub for sub, _, _ in parts}
    listed = {sub: set(os.listdir(folder / sub)) if (folder / sub).is_dir() else set() for sub in subs}
    return np.array([name in listed[sub] for sub, _, name in parts], dtype=bool)
