"""What every fit does beside its steps: seeds, the status, the bar, the picture of progress, checkpoints that stay."""

import logging
import signal
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, ProgressBar
from rich.progress import Progress

from common.data.records import Records, Sample
from common.loggers import MetricsCSV
from common.pictures import Sheet, save
from common.progress import bar
from common.tasks.runs import RunFolder

log = logging.getLogger(__name__)
LONGEST = 160  # letters of a condition above the pictures of progress


class SeedEachBatch(Callback):
    """Random numbers as a function of (seed, epoch, batch, rank): a resumed run draws what the straight one drew.

    Saved generator states would not do it, because the order of draws between them differs.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: pl.Trainer, model: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        place = (self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(hash(place) % 2**63)  # a hash of ints is the same in every process


class Status(Callback):
    """status.json after every epoch and at every end."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder, self.began = folder, time.time()

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            seconds = round(time.time() - self.began, 1)
            epochs = trainer.current_epoch + 1
            self.folder.say("running", epochs=epochs, max_epochs=trainer.max_epochs, seconds=seconds)

    def on_exception(self, trainer: pl.Trainer, model: pl.LightningModule, exception: BaseException) -> None:
        if trainer.is_global_zero:
            stopped = isinstance(exception, KeyboardInterrupt | SystemExit)  # the latter: SIGTERM, as of a cluster
            facts = {} if stopped else {"error": f"{type(exception).__name__}: {exception}"}
            self.folder.say("interrupted" if stopped else "failed", **facts)


class TrimMetrics(Callback):
    """metrics.csv goes on from where the weights do. Done here, after a checkpoint that is refused would have been."""

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV) and trainer.is_global_zero:
                logger.forget_after(trainer.fit_loop.epoch_loop._batches_that_stepped)


class StopTogether(Callback):
    """After SIGTERM to any of several processes all of them stop behind the same batch.

    Lightning's own handler speaks to the others from wherever its process is in a batch, where they wait for something
    else, and each stops by itself: those left wait for the one that is gone, and end with a traceback.
    """

    asked = False

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            signal.signal(signal.SIGTERM, lambda number, frame: setattr(self, "asked", True))

    def on_train_batch_end(
        self, trainer: pl.Trainer, model: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            trainer._signal_connector.received_sigterm = True  # looked at when this batch is done


class Milestones(ModelCheckpoint):
    """Checkpoints that are never replaced. By its name Lightning tells its state from that of the last checkpoint."""


class RunProgressBar(ProgressBar):
    """Batches of all epochs in one bar; where standard error is no terminal, one line every `seconds` instead."""

    def __init__(self, seconds: float = 15.0) -> None:
        super().__init__()
        self.seconds, self.shown = seconds, 0.0
        self.bar: Progress | None = None

    def disable(self) -> None:
        """Lightning calls it on all processes but the first, which show nothing anyway."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        batches, epochs = int(trainer.num_training_batches), int(trainer.max_epochs or 1)
        self.total, self.first = batches * epochs, batches * trainer.current_epoch
        self.began = self.shown = time.monotonic()
        self.name = type(pl_module).__name__
        if sys.stderr.isatty() and trainer.is_global_zero:
            self.bar = bar()
            self.task = self.bar.add_task(f"train {self.name}", total=self.total, completed=self.first, numbers="")
            self.bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        done = int(trainer.num_training_batches) * trainer.current_epoch + batch_idx + 1
        if self.bar is not None:
            if now - self.shown > 0.5:  # reading the numbers waits for the device, so not at each batch
                self.shown = now
                self.bar.update(self.task, completed=done, numbers=self.numbers(trainer))
        elif now - self.shown > self.seconds and trainer.is_global_zero:
            self.shown = now
            left = (now - self.began) / (done - self.first) * (self.total - done)
            log.info(
                "train %s: epoch %d, batch %d of %d, %.0f s left  %s",
                self.name,
                trainer.current_epoch,
                done,
                self.total,
                left,
                self.numbers(trainer),
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close(self.total)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.close(None)

    def close(self, completed: int | None) -> None:
        """Takes the bar off the terminal, if there is one."""
        if self.bar is not None:
            if completed is not None:
                self.bar.update(self.task, completed=completed)
            self.bar.stop()
            self.bar = None

    @staticmethod
    def numbers(trainer: pl.Trainer) -> str:
        """The two totals, of the last time that they were logged."""
        logged = trainer.logged_metrics
        shown = {name: logged[f"train/{name}"] for name in ("loss_g", "loss_d", "loss") if f"train/{name}" in logged}
        return "  ".join(f"{name} {float(value):.3f}" for name, value in shown.items())


def fixed_batch(data: Any, count: int = 4, seed: int = 0) -> Sample:
    """The same few images in every epoch: half of the training, half of the test classes, each with a sentence of
    another class of its split; or pairs of poses, where the model reads such."""
    records: Records = data.records
    rng = np.random.default_rng(seed)
    if "target" in data.reads:
        pairs = np.concatenate([rng.permutation(data.pose_pairs(split))[:count] for split in ("train", "test")])
        return next(iter(data.pose_pair_loader("train", len(pairs), pairs)))
    rows, others = [], []
    for split in ("train", "test"):
        usable = data.rows(split)
        picked = rng.choice(usable, size=min(count, len(usable)), replace=False)
        for row in picked:
            far = usable[records.labels[usable] != records.labels[row]]
            if len(far):
                rows.append(int(row))
                others.append(int(rng.choice(far)))
    batch = next(iter(data.eval_loader(rows=np.array(rows), batch_size=len(rows))))
    batch["caption"] = torch.zeros(len(rows), dtype=torch.int64)
    batch["other_row"] = torch.tensor(others)
    batch["other_caption"] = torch.zeros(len(rows), dtype=torch.int64)
    return batch


class FixedGrid(Callback):
    """Every few epochs a picture of `model.grid` on the same inputs: PNG in the run folder first, then the loggers."""

    def __init__(self, folder: Path, *, every: int) -> None:
        self.folder, self.every = folder, every

    def on_fit_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            data = trainer.datamodule  # type: ignore[attr-defined]
            self.batch = data.move(fixed_batch(data), model.device)
            records = data.records
            spoken: list[str] = model.condition_text(self.batch, records)  # type: ignore[operator]
            self.sentences = [textwrap.shorten(words, LONGEST, placeholder=" ...") for words in spoken]
            self.keys = [records.keys[int(row)] for row in self.batch["row"]]

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        if trainer.is_global_zero and trainer.current_epoch == 0:
            self.draw(trainer, model, 0)

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        done = trainer.current_epoch + 1
        if trainer.is_global_zero and (done % self.every == 0 or done == trainer.max_epochs):
            self.draw(trainer, model, done)

    def draw(self, trainer: pl.Trainer, model: pl.LightningModule, epoch: int) -> None:
        """Writes the picture of an epoch: the same inputs each time."""
        with torch.no_grad():
            columns = model.grid(self.batch)  # type: ignore[operator]
        facts = {"epoch": epoch, "images": self.keys, "sentences": self.sentences, "columns": list(columns)}
        path = save(Sheet(columns, self.sentences).render(), self.folder / f"e{epoch:04d}.png", facts)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("samples", [str(path)], step=trainer.global_step)
            elif type(logger).__name__ == "TensorBoardLogger":
                pixels = np.asarray(Image.open(path))
                board = logger.experiment  # type: ignore[attr-defined]
                board.add_image("samples", pixels, trainer.global_step, dataformats="HWC")
