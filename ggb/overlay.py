"""The one-off job `task=prepare prepare=skeletons`: key points drawn over the photos that they are said to be of.

Key points read in a wrong frame (x counted from another column, photos that were squeezed) raise no error and train a
model that ignores its poses; one look at a few photos tells.
"""

import logging

import numpy as np
import torch
from torch import Tensor

from common.data.module import ImageData
from common.data.poses import pose_maps
from common.data.records import FRAME
from common.errors import UserError
from common.pictures import Sheet, save
from common.tasks.job import Job

log = logging.getLogger(__name__)
COLUMNS = 4


def draw(job: Job) -> None:
    """A sheet of photos with their skeletons: job.path (.png), and beside it which they are (.json)."""
    data = job.data
    rows = chosen(data, job.settings["photos"])
    batch = data.move(next(iter(data.eval_loader(rows=rows, batch_size=len(rows), reads=("image", "joints")))), "cpu")
    keys = [data.records.keys[row] for row in batch["row"].tolist()]
    pictures = list(overlaid(batch["image"], batch["joints"]))
    pictures += [torch.ones_like(pictures[0])] * (-len(pictures) % COLUMNS)
    names = [*keys, *[""] * (len(pictures) - len(keys))]
    columns = {f"key points on photos, {k + 1}": pictures[k::COLUMNS] for k in range(COLUMNS)}
    below = [names[start : start + COLUMNS] for start in range(0, len(names), COLUMNS)]
    facts = {"photos": keys, "missing_joints": (batch["joints"] < 0).all(-1).sum(1).tolist()}
    save(Sheet(columns, below=below).render(FRAME), job.path, facts)
    log.info("the limbs must lie on the people; beside them means another data.annotation_frame or other photos")


def chosen(data: ImageData, count: int) -> np.ndarray:
    """Rows from all over the data set, of photos that have key points. UserError where none has."""
    records = data.records
    seen = np.zeros(0, np.int64) if records.joints is None else np.flatnonzero((records.joints >= 0).any((1, 2)))
    if not len(seen):
        raise UserError(
            f"{records.name} in {records.root} has no key points: make them with task=prepare prepare=poses."
        )
    return seen[np.linspace(0, len(seen) - 1, min(count, len(seen))).astype(int)]


def overlaid(photos: Tensor, joints: Tensor) -> Tensor:
    """Photos in [-1, 1] with limbs over them. photos: B,3,S,S, joints: B,18,2 in their pixels -> B,3,S,S."""
    side = photos.shape[-1]
    limbs = pose_maps(joints, side, kind="stickman", radius=max(2.0, side / 64)) + 1  # [0, 2]; 0 = no limb
    return limbs + photos - (limbs.amax(1, keepdim=True) / 2) * (photos + 1)
