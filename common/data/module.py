"""Batches of any dataset: which rows an epoch and an evaluation show, as common/data/windows.py cuts them.

N images, B batch, S side of an image. An epoch's draws are one function of (seed, epoch), made in the main process:
the stream is the same for any number of workers and ranks, and after a resume.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed
from PIL import Image
from pytorch_lightning import LightningDataModule
from torch import Tensor

from common.data.edit_pairs import Pairs, caption_counts
from common.data.geometry import centre_crop, check_colour, fit, upright
from common.data.pose_pairs import pairs_of
from common.data.records import Records, Sample
from common.data.sampling import Draws, EpochSampler, PairSampler
from common.data.store import ImageStore
from common.data.windows import Loader, Windows, prepare
from common.errors import UserError, check_ranges, choose

log = logging.getLogger(__name__)

READS = ("image", "mask", "other", "caption", "attributes", "label", "joints", "target")
VIEWS = 1_000_003  # sets the seeds of view_loader apart from those of epochs


class Reader(Protocol):
    """A dataset: CUB, Oxford102, Folder, ..."""

    def read(self) -> Records: ...


RANGES = {
    "image_size": "int [1, inf)",
    "batch_size": "int [1, inf)",
    "load_ratio": "[1, inf)",
    "rotate_deg": "[0, 180]",
    "workers": "int [0, inf)",
}


class ImageData(LightningDataModule):
    """The batches of one dataset, as Sample dicts.

    dataset: read() -> Records, called once, when first needed. image_size: S. batch_size: of all ranks together.
    load_ratio: the shorter side is resized to round(S * load_ratio) and S windows are cut from that (76/64: Reed et al.
    2016, StackGAN). reads: which of READS the model needs; `row` and `label` are always given, no pixel is touched
    without "image" or "mask"; with "target" an epoch visits pairs of one person in two poses, with "joints" the poses
    come too. bbox_crop: the square about the bird first (StackGAN, AttnGAN). squash: both sides are resized to
    round(S * load_ratio), so that the whole image is seen, its aspect not kept. background: a colour, behind what is
    transparent in a photo. allow_missing: unreadable images are left out instead of refused. store: folder for the
    image store, None = beside the data, or spare_store where that cannot be written. shrink: of fewer images than
    batch_size a batch has all, instead of a UserError; so it is for a network that another one needs.
    """

    def __init__(
        self,
        *,
        dataset: Reader,
        image_size: int,
        batch_size: int,
        load_ratio: float = 76 / 64,
        reads: Sequence[str] = ("image", "caption"),
        train_split: str = "train",
        flip: bool = True,
        rotate_deg: float = 0.0,
        bbox_crop: bool = False,
        squash: bool = False,
        background: str = "white",
        allow_missing: bool = False,
        workers: int = 0,
        seed: int = 0,
        store: str | Path | None = None,
        spare_store: str | Path = "artifacts/stores",
        shrink: bool = False,
    ) -> None:
        super().__init__()
        given = {"image_size": image_size, "batch_size": batch_size, "load_ratio": load_ratio}
        check_ranges("data", given | {"rotate_deg": rotate_deg, "workers": workers}, RANGES)
        choose("data.train_split", train_split, ("train", "test", "all"))
        if unknown := sorted(set(reads) - set(READS)):
            raise UserError(f"data.reads names {', '.join(unknown)}: choose from {', '.join(READS)}.")
        if rotate_deg and {"joints", "target"} & set(reads):
            raise UserError(
                f"data.rotate_deg={rotate_deg} would turn photos away from their poses: set data.rotate_deg=0."
            )
        self.dataset, self.image_size, self.batch_size = dataset, image_size, batch_size
        self.load_size = max(image_size, round(image_size * load_ratio))
        self.reads, self.train_split, self.flip, self.rotate_deg = tuple(reads), train_split, flip, rotate_deg
        self.bbox_crop, self.allow_missing, self.workers, self.seed = bbox_crop, allow_missing, workers, seed
        self.background, self.squash, self.shrink = check_colour(background), squash, shrink
        self.store_folder, self.spare_store = Path(store) if store else None, spare_store

    @cached_property
    def records(self) -> Records:
        """What the reader gives, read once, with how its photos are to be shown."""
        return replace(self.dataset.read(), background=self.background, squash=self.squash)

    @property
    def name(self) -> str:  # type: ignore[override]
        """Of the data set."""
        return self.records.name

    @cached_property
    def store(self) -> ImageStore:
        """The image store, built when first needed."""
        store = ImageStore.build(
            self.records,
            side=self.load_size,
            bbox_crop=self.bbox_crop,
            masks="mask" in self.reads,
            folder=self.store_folder,
            spare=self.spare_store,
            workers=self.workers,
            allow_missing=self.allow_missing,
        )
        if store.bad:
            first = next(iter(store.bad.values()))
            log.warning("%d of %d images are left out, the first: %s", len(store.bad), len(store), first)
        return store

    def prepare_data(self) -> None:
        if {"image", "mask"} & set(self.reads):
            _ = self.store

    def rows(self, split: str) -> np.ndarray:
        """Rows of a split that can be used: without unreadable images once the store is open or pixels are read."""
        return self._usable(self.records.rows(split))

    def _usable(self, rows: np.ndarray) -> np.ndarray:
        self.prepare_data()
        return rows[self.store.ok[rows]] if "store" in self.__dict__ else rows

    def train_dataloader(self) -> Loader:
        """Batches of an epoch. Without a Trainer call loader.batch_sampler.set_epoch(epoch) before each epoch."""
        rank, world = self._rank()
        draws: dict[str, Any] = {"seed": self.seed, "flip": self.flip, "rank": rank, "world": world}
        if "target" in self.reads:
            pairs = self.pose_pairs("train")
            draws["batch_size"] = self._batch(len(pairs), "pairs of photos", world)
            sampler: EpochSampler = PairSampler(pairs=pairs, mirrored=self.records.mirrored, **draws)
        else:
            rows, labels = self.rows(self.train_split), self.records.labels
            draws["batch_size"] = self._batch(len(rows), "images", world)
            captions = self._captions(rows) if "caption" in self.reads else None
            sampler = EpochSampler(rows=rows, labels=labels, captions=captions, rotate_deg=self.rotate_deg, **draws)
        return Loader(self._windows(self.reads), sampler, self.workers, self._batches_done)

    def eval_loader(
        self,
        split: str = "test",
        batch_size: int | None = None,
        rows: np.ndarray | None = None,
        reads: Sequence[str] | None = None,
    ) -> Loader:
        """Centre windows, no flip, file order, caption 0.

        rows: these instead of a split's. reads: other than the model's.
        """
        reads = self.reads if reads is None else reads
        rows = self.records.rows(split) if rows is None else np.asarray(rows)
        draws = {"row": rows}
        if "caption" in reads:
            draws["caption"] = np.zeros(len(rows), np.int64)
        return self._fixed(draws, batch_size, reads)

    def pair_loader(self, pairs: Pairs, batch_size: int | None = None) -> Loader:
        """Centre windows of the pairs' images, in order, with caption, other_row, other_caption and pair (pair_id)."""
        draws = {"row": pairs.row, "caption": pairs.caption, "pair": pairs.pair_id}
        draws |= {"other_row": pairs.other_row, "other_caption": pairs.other_caption}
        return self._fixed(draws, batch_size, ("image", *self.reads))

    def pose_pairs(self, split: str) -> np.ndarray:
        """P,2 int64 rows of source and target; split: "train", "val" or "test". Without unreadable images."""
        pairs = pairs_of(self.records, split)
        return pairs[np.isin(pairs, self._usable(np.unique(pairs))).all(1)]

    def pose_pair_loader(self, split: str, batch_size: int | None = None, pairs: np.ndarray | None = None) -> Loader:
        """image, target, joints and target_joints of the pairs of a split in their order, or of these pairs; `pair` is
        the place in that list."""
        chosen = self.pose_pairs(split) if pairs is None else np.asarray(pairs)
        draws = {"row": chosen[:, 0], "target_row": chosen[:, 1], "pair": np.arange(len(chosen))}
        return self._fixed(draws, batch_size, ("image", "target", "joints"))

    def view_loader(self, rows: np.ndarray, view: int, batch_size: int | None = None) -> Loader:
        """Images cut and flipped as in training, once each and in order; the same `view` gives the same cuts.

        Drawn for the whole dataset, so an image's cut does not depend on which other rows are asked for.
        """
        rng = np.random.default_rng([self.seed, VIEWS, view])
        u, v, flip = rng.random((3, len(self.records)))[:, rows]
        draws = {"row": np.asarray(rows), "u": u, "v": v} | ({"flip": flip < 0.5} if self.flip else {})
        return self._fixed(draws, batch_size, ("image",))

    def crop_photo(self, image: Image.Image) -> Tensor:
        """Any photo by the test-time geometry: 1,3,S,S in [-1, 1]."""
        photo = np.asarray(fit(upright(image, self.background), self.load_size, squash=self.squash))
        window = centre_crop(photo, self.image_size)
        return prepare({"image": torch.from_numpy(window.copy())[None]})["image"]

    def move(self, batch: dict[str, Tensor], device: torch.device | str) -> Sample:
        """A loader's batch as the model reads it, on the device: what a Trainer does by itself."""
        return prepare({name: value.to(device, non_blocking=True) for name, value in batch.items()})

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> Sample:
        return prepare(batch)

    def _windows(self, reads: Sequence[str]) -> Windows:
        records = self.records
        if "attributes" in reads and records.attributes is None:
            raise UserError(f"{records.name} in {records.root} has no attributes: choose a model that needs none.")
        if "joints" in reads:
            self._check_poses()
        return Windows(records, self.store if {"image", "mask"} & set(reads) else None, self.image_size, reads)

    def _check_poses(self) -> None:
        """Refuses photos without key points, and such as do not fill the square that key points are given in."""
        records, side = self.records, self.store.side
        if records.joints is None:
            raise UserError(
                f"{records.name} in {records.root} has no key points: put fasion-annotation-train.csv and -test.csv "
                "there, or choose a model that reads none."
            )
        for row in np.flatnonzero(self.store.ok).tolist():
            if self.store.shape(row) != (side, side):
                raise UserError(f"{records.images[row]} is not square, as the frame of its key points is: replace it.")

    def _fixed(self, draws: Draws, batch_size: int | None, reads: Sequence[str]) -> Loader:
        """A loader over draws as they are, without the rows that cannot be used."""
        windows, size = self._windows(reads), batch_size or self.batch_size
        kept = np.ones(len(draws["row"]), bool)
        for name in {"row", "target_row"} & draws.keys():
            kept &= np.isin(draws[name], self._usable(np.unique(draws[name])))
        half = np.full(len(kept), 0.5)
        draws = {name: column[kept] for name, column in ({"u": half, "v": half} | draws).items()}
        starts = range(0, int(kept.sum()), size)
        batches = [{name: column[i : i + size] for name, column in draws.items()} for i in starts]
        return Loader(windows, batches, self.workers)

    def _batch(self, count: int, what: str, world: int) -> int:
        """How many of `count` are in a batch of all ranks."""
        if self.batch_size % world:
            nearest = max(world, self.batch_size // world * world)
            raise UserError(
                f"data.batch_size={self.batch_size} is of all processes together and cannot be divided among {world}: "
                f"set data.batch_size={nearest}, say."
            )
        size = min(self.batch_size, count // world * world) if self.shrink else self.batch_size
        if count < max(size, 1):
            raise UserError(
                f"There are {count} {what} in the {self.train_split} split of {self.name}, fewer than "
                f"data.batch_size={self.batch_size}: set data.batch_size={count} or less, or add images to "
                f"{self.records.root}."
            )
        return size

    def _captions(self, rows: np.ndarray) -> np.ndarray:
        """How many captions each image has, where sentences of another class can be drawn."""
        if len(np.unique(self.records.labels[rows])) < 2:
            raise UserError(
                f"All images in the {self.train_split} split of {self.name} are of one class, so no sentence of another"
                f" can be drawn: add images of a second class to {self.records.root}."
            )
        return caption_counts(self.records)

    def _rank(self) -> tuple[int, int]:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _batches_done(self) -> int:
        """Batches of this epoch done before the run was resumed; 0 unless it is being resumed right now."""
        loop = self.trainer.fit_loop.epoch_loop if self.trainer else None
        return loop.batch_progress.current.ready if loop is not None and loop.restarting else 0
