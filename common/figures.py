"""Pictures: sheets of images with their sentences, and the fixed inputs drawn every few epochs."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image, ImageDraw, ImageFont
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from common.data.records import Records, Sample

GAP = 4


def to_picture(image: Tensor) -> Image.Image:
    """3,H,W float in [-1, 1] -> an RGB picture, rounded and clipped."""
    pixels = ((image.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def sheet(
    columns: Mapping[str, Tensor | Sequence[Tensor]], sentences: Sequence[str] = (), side: int = 128
) -> Image.Image:
    """Images in columns with a heading each, and a sentence above each row.

    columns: heading -> R images of 3,H,W in [-1, 1]; each is shown at `side` pixels (nearest when enlarged).
    """
    headings = list(columns)
    rows = len(columns[headings[0]])
    font = ImageFont.load_default(12)
    width = len(headings) * (side + GAP) + GAP
    per_line = max(int(width / 6.2), 10)
    texts = [textwrap.wrap(s, per_line) or [""] for s in sentences] or [[] for _ in range(rows)]
    heights = [len(lines) * 15 + side + 3 * GAP for lines in texts]
    canvas = Image.new("RGB", (width, 20 + sum(heights)), "white")
    pen = ImageDraw.Draw(canvas)
    for column, heading in enumerate(headings):
        pen.text((GAP + column * (side + GAP), 3), heading, fill="black", font=font)
    top = 20
    for row in range(rows):
        for number, line in enumerate(texts[row]):
            pen.text((GAP, top + number * 15), line, fill=(40, 40, 90), font=font)
        below = top + len(texts[row]) * 15 + GAP
        for column, heading in enumerate(headings):
            picture = to_picture(columns[heading][row])
            how = Image.Resampling.NEAREST if picture.width < side else Image.Resampling.BILINEAR
            canvas.paste(picture.resize((side, side), how), (GAP + column * (side + GAP), below))
        top += heights[row]
    return canvas


def save(picture: Image.Image, path: Path, facts: Mapping[str, Any]) -> Path:
    """The PNG and beside it a JSON that says how it was made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    path.with_suffix(".json").write_text(json.dumps(dict(facts), indent=1), encoding="utf-8")
    return path


def fixed_batch(data: Any, count: int = 4, seed: int = 0) -> Sample:
    """The same few images in every epoch: half of the training, half of the test classes, each with a sentence of
    another class of its split."""
    records: Records = data.records
    rng = np.random.default_rng(seed)
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
            self.sentences = model.spoken(self.batch, records)  # type: ignore[operator]
            self.keys = [records.keys[int(row)] for row in self.batch["row"]]

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        if trainer.is_global_zero and trainer.current_epoch == 0:
            self.draw(trainer, model, 0)

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        done = trainer.current_epoch + 1
        if trainer.is_global_zero and (done % self.every == 0 or done == trainer.max_epochs):
            self.draw(trainer, model, done)

    def draw(self, trainer: pl.Trainer, model: pl.LightningModule, epoch: int) -> None:
        with torch.no_grad():
            columns = model.grid(self.batch)  # type: ignore[operator]
        facts = {"epoch": epoch, "images": self.keys, "sentences": self.sentences, "columns": list(columns)}
        path = save(sheet(columns, self.sentences), self.folder / f"e{epoch:04d}.png", facts)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("samples", [str(path)], step=trainer.global_step)
            elif type(logger).__name__ == "TensorBoardLogger":
                pixels = np.asarray(Image.open(path))
                board = logger.experiment  # type: ignore[attr-defined]
                board.add_image("samples", pixels, trainer.global_step, dataformats="HWC")
