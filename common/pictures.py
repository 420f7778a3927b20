"""Pictures: sheets of images with their sentences, what task=sample and task=figure share, the picture of progress."""

import difflib
import json
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image, ImageDraw, ImageFont
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from common.data.geometry import UNREADABLE, open_image
from common.data.records import Records, Sample
from common.errors import UserError

Config = dict[str, Any]
Columns = dict[str, Tensor]
GAP = 4
LONGEST = 160  # letters of a condition above the pictures of progress
INK = (40, 40, 90)
FONT = ImageFont.load_default(12)


def to_picture(image: Tensor) -> Image.Image:
    """3,H,W float in [-1, 1] -> an RGB picture, rounded and clipped."""
    pixels = ((image.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def sheet(
    columns: Mapping[str, Tensor | Sequence[Tensor]],
    sentences: Sequence[str] = (),
    below: Sequence[Sequence[str]] = (),
    side: int = 128,
) -> Image.Image:
    """Images in columns with a heading each, a sentence above each row and, where given, words below each image.

    columns: heading -> R images of 3,H,W in [-1, 1]; each is shown at `side` pixels (nearest when enlarged). below: for
    each of the R rows, what is said of each column's image.
    """
    headings = list(columns)
    rows = len(columns[headings[0]])
    width = len(headings) * (side + GAP) + GAP
    texts = [wrapped(s, width) or [""] for s in sentences] or [[] for _ in range(rows)]
    under = [[wrapped(words, side) for words in row] for row in below] or [[] for _ in range(rows)]
    depth = [15 * max(map(len, row), default=0) for row in under]
    heights = [len(lines) * 15 + side + 3 * GAP + room for lines, room in zip(texts, depth, strict=True)]
    canvas = Image.new("RGB", (width, 20 + sum(heights)), "white")
    pen = ImageDraw.Draw(canvas)
    for column, heading in enumerate(headings):
        pen.text((GAP + column * (side + GAP), 3), heading, fill="black", font=FONT)
    top = 20
    for row in range(rows):
        for number, line in enumerate(texts[row]):
            pen.text((GAP, top + number * 15), line, fill=INK, font=FONT)
        first = top + len(texts[row]) * 15 + GAP
        for column, heading in enumerate(headings):
            left = GAP + column * (side + GAP)
            picture = to_picture(columns[heading][row])
            how = Image.Resampling.NEAREST if picture.width < side else Image.Resampling.BILINEAR
            canvas.paste(picture.resize((side, side), how), (left, first))
            for number, line in enumerate(under[row][column] if under[row] else []):
                pen.text((left, first + side + number * 15), line, fill=INK, font=FONT)
        top += heights[row]
    return canvas


def wrapped(words: str, width: int) -> list[str]:
    """Words in lines of at most `width` pixels or so."""
    letters = max(FONT.getlength(words) / max(len(words), 1), 1)
    return textwrap.wrap(words, max(int(0.95 * width / letters), 10))


def save(picture: Image.Image, path: Path, facts: Mapping[str, Any]) -> Path:
    """The PNG and beside it a JSON that says how it was made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    path.with_suffix(".json").write_text(json.dumps(dict(facts), indent=1), encoding="utf-8")
    return path


# ---- what task=sample and task=figure are asked for


def listed(value: Any) -> list[str]:
    """One value, a list of them or null, as a list of words."""
    return [str(v) for v in (value if isinstance(value, list) else [value]) if v is not None]


def number(cfg: Config, name: str, least: int) -> int:
    """cfg[name] where it is a whole number from `least` on."""
    if not isinstance(cfg[name], int) or cfg[name] < least:
        raise UserError(f"{name}={cfg[name]} is not a whole number from {least} on: set {name}={max(least, 4)}, say.")
    return cfg[name]


def one_of(cfg: Config, name: str, known: Sequence[str]) -> str:
    """cfg[name] where it is one of the known; else the UserError names the nearest."""
    if cfg[name] not in known:
        nearest = difflib.get_close_matches(str(cfg[name]), known, n=1, cutoff=0)[0]
        raise UserError(f"{name}={cfg[name]} is not known: did you mean {nearest}? There are {', '.join(known)}.")
    return cfg[name]


def read_photos(paths: Sequence[str], data: Any) -> Tensor:
    """Photos of any size, cut as test images are: B,3,S,S in [-1, 1]. UserError for one that cannot be read."""
    photos = []
    for path in (Path(path).expanduser() for path in paths):
        if not path.is_file():
            raise UserError(f"there is no photo at {path}: correct the path.")
        try:
            with open_image(path) as photo:
                photos.append(data.crop_photo(photo))
        except UNREADABLE as error:
            raise UserError(f"{path} cannot be read as a photo ({error}): give a whole JPEG or PNG.") from None
    return torch.cat(photos)


def first_of_classes(data: Any, count: int) -> np.ndarray:
    """`count` rows of the test split: the first image of each class, then the second of each, and so on."""
    rows, seen = data.rows("test"), Counter[int]()
    turn = []
    for label in data.records.labels[rows].tolist():
        turn.append(seen[label])
        seen[label] += 1
    return rows[np.argsort(turn, kind="stable")][:count]


def destination(cfg: Config, folder: Path, name: str) -> Path:
    """Where the picture goes; found wanting before anything is drawn."""
    path = Path(cfg["output"]).expanduser() if cfg["output"] else folder / name
    if path.suffix.lower() != ".png":
        raise UserError(f"output={path} is not the name of a PNG: let it end in .png.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be made ({error.strerror}): choose another output=FILE.png.") from None
    return path


def write(
    cfg: Config,
    folder: Path,
    path: Path,
    columns: Mapping[str, Tensor | Sequence[Tensor]],
    above: Sequence[str],
    facts: Config,
    below: Sequence[Sequence[str]] = (),
) -> Path:
    """The sheet, its images at their own size within 128 to 256 pixels, and the JSON that says how it was made."""
    told = {"task": cfg["task"], "checkpoint": str(cfg["checkpoint"]), "seed": cfg["seed"], "columns": list(columns)}
    size = max(column[0].shape[-1] for column in columns.values())
    return save(sheet(columns, above, below, side=min(max(size, 128), 256)), path, told | facts)


# ---- the picture of progress


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
            spoken: list[str] = model.spoken(self.batch, records)  # type: ignore[operator]
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
