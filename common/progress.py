"""One progress bar for the whole run, with the time left until its last epoch."""

import logging
import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

log = logging.getLogger(__name__)


def bar(**options: Any) -> Progress:
    """A rich progress bar on standard error: what, bar, done/total, time gone and left, and a few numbers."""
    from rich.console import Console

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
        console=Console(stderr=True),
        **options,
    )


class WholeRun(ProgressBar):
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
