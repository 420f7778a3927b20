"""Pictures: what is asked for (Request), photos in, sheets of images with their words out.

B images, S side. Pixels are floats in [-1, 1]. A figure is a function of (model, data, request) that gives a Sheet; a
model's `respond` is one too, that of task=sample.
"""

import difflib
import json
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from common.config import as_list
from common.errors import UserError
from common.files import UNREADABLE, open_image

Config = dict[str, Any]
Columns = Mapping[str, Tensor | Sequence[Tensor]]  # heading -> R images of 3,H,W
GAP, LINE = 4, 15  # pixels
MOST = 256  # pixels that an image is shown at
FRAME_MS = 120  # of an animation
FIGURE_LIST = ("module", "figures", "discriminators")  # of `pictures`: which figures there are
INK = (40, 40, 90)
FONT = ImageFont.load_default(12)


# ---- what is asked for


@dataclass(frozen=True)
class Request:
    """What a user wants to see, checked once. A paper says what its images and texts may name.

    n: pictures of each condition, or of images where none are named. steps: of an interpolation, both ends included.
    every: each image with each text (task=sample); else one for all or as many of both. settings: of the paper, from
    `pictures` of conf/model.
    """

    images: Sequence[str] = ()
    texts: Sequence[str] = ()
    n: int = 1
    steps: int = 2
    seed: int = 0
    every: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, cfg: Config) -> "Request":
        """What task=sample or task=figure was asked for. UserError for a value that cannot be."""
        if not cfg.get("pictures"):
            raise UserError(f"model={cfg['chosen']['model']} makes no pictures: choose a model that draws.")
        one = cfg["task"] == "sample"
        return cls(
            images=[str(v) for v in as_list(cfg["image" if one else "images"])],
            texts=[str(v) for v in as_list(cfg["text" if one else "texts"])],
            n=number(cfg, "n", 1),
            steps=2 if one else number(cfg, "steps", 2),
            seed=cfg["seed"],
            every=one,
            settings={key: value for key, value in cfg["pictures"].items() if key not in FIGURE_LIST},
        )

    def said(self, cfg: Config) -> Config:
        """What the JSON beside a picture says of its command."""
        told = {key: cfg[key] for key in ("task", "figure", "checkpoint", "seed", "n", "steps") if key in cfg}
        return told | dict(self.settings)

    def pairs(self) -> tuple[list[int], list[int]]:
        """For each row, which of `images` and which of `texts` it is of; 0 where none are named."""
        images, texts = range(max(len(self.images), 1)), range(max(len(self.texts), 1))
        if self.every:
            both = list(product(images, texts))
            return [i for i, _ in both], [t for _, t in both]
        most = max(len(images), len(texts))
        if {len(images), len(texts)} - {1, most}:
            raise UserError(
                f"there are {len(images)} images and {len(texts)} texts: give one of either, or as many of both."
            )
        return [i % len(images) for i in range(most)], [t % len(texts) for t in range(most)]


def number(cfg: Config, name: str, least: int) -> int:
    """cfg[name] where it is a whole number from `least` on."""
    if not isinstance(cfg[name], int) or cfg[name] < least:
        raise UserError(f"{name}={cfg[name]} is not a whole number from {least} on: set {name}={max(least, 4)}, say.")
    return cfg[name]


# ---- photos in


class Images(NamedTuple):
    """Images by name: of the data set, each with its row in Records, or files, whose row is None."""

    names: list[str]
    rows: list[int | None]

    @property
    def known(self) -> bool:
        """Whether all are of the data set."""
        return None not in self.rows


def find_images(asked: Sequence[str], data: Any) -> Images:
    """Files by path, and test images by key or by the name behind its slash. UserError for what is neither.

    The data set is read only where a name is no file's.
    """
    found = [(name, None if Path(name).expanduser().is_file() else test_row(name, data)) for name in asked]
    names = [name if row is None else data.records.keys[row] for name, row in found]
    return Images(names, [row for _, row in found])


def test_row(name: str, data: Any) -> int:
    """The row of a test image in Records. UserError, with the nearest key, where there is none."""
    try:
        records = data.records
    except UserError as error:
        raise UserError(f"{name} is no file, and no test image can be looked for: {error}") from None
    known = {records.keys[row]: int(row) for row in records.rows("test")}
    short = {key.rpartition("/")[2]: row for key, row in known.items()}
    row = known.get(name, short.get(name))
    if row is None and name not in records.keys:
        nearest = difflib.get_close_matches(name, [*known, *short], n=1, cutoff=0)
        raise UserError(f"{name} is neither a file nor a test image: the nearest of these is {' '.join(nearest)}.")
    if row is None or row not in data.rows("test"):
        raise UserError(f"{name} is not among the test images that can be read: give the key of one that is.")
    return row


def first_images(data: Any, count: int) -> Images:
    """`count` test images: the first of each class, then the second of each, and so on."""
    rows, seen = data.rows("test"), Counter[int]()
    turn = []
    for label in data.records.labels[rows].tolist():
        turn.append(seen[label])
        seen[label] += 1
    chosen = rows[np.argsort(turn, kind="stable")][:count].tolist()
    return Images([data.records.keys[row] for row in chosen], chosen)


def read_photo(name: str, data: Any) -> Tensor:
    """A photo's file of any size, cut as test images are: 3,S,S. UserError for one that cannot be read."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"there is no photo at {path}: correct the path.")
    try:
        with open_image(path) as photo:
            return data.crop_photo(photo)[0]
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read as a photo ({error}): give a whole JPEG or PNG.") from None


def pixels(images: Images, data: Any, what: str = "image", read: Callable[[str, Any], Tensor] = read_photo) -> Tensor:
    """The images from wherever they are: photos B,3,S,S, or with what=mask B,1,S,S in {0, 1}. read: of a file."""
    rows = np.array([row for row in images.rows if row is not None], np.int64)
    loaded: list[Tensor] = []
    if len(rows):
        batch = next(iter(data.eval_loader(rows=rows, batch_size=len(rows), reads=(what,))))
        loaded = list(data.move(batch, "cpu")[what])
        if len(loaded) < len(rows):
            raise UserError(f"an image of {', '.join(images.names)} cannot be read: name others.")
    found = iter(loaded)
    return torch.stack([read(name, data) if row is None else next(found) for name, row in zip(*images, strict=True)])


# ---- pictures out


@dataclass
class Sheet:
    """R rows of images in columns with a heading each, a line above each row, words below each image."""

    columns: Columns
    above: Sequence[str] = ()  # R, or none
    facts: Mapping[str, Any] = field(default_factory=dict)  # what the JSON says besides
    below: Sequence[Sequence[str]] = ()  # for each row, of each column
    generated: Sequence[str] = ()  # the columns that a model's `respond` made; the rest is what it was given
    moving: Sequence[str] = ()  # the columns that an animation shows one after another, beside the rest
    side: int | None = None  # as `render` has it

    def render(self, side: int | None = None) -> Image.Image:
        """The sheet as a picture.

        side: pixels that each image is shown at (nearest when enlarged); None = as the sheet has it, else its own size
        within 128 to MOST.
        """
        size = max(column[0].shape[-1] for column in self.columns.values())
        side = side or self.side or min(max(size, 128), MOST)
        rows = range(len(next(iter(self.columns.values()))))
        width = len(self.columns) * (side + GAP) + GAP
        above = [wrapped(line, width) or [""] for line in self.above] or [[] for _ in rows]
        below = [[wrapped(words, side) for words in row] for row in self.below] or [[] for _ in rows]
        tall = [len(above[r]) * LINE + side + 3 * GAP + LINE * max(map(len, below[r]), default=0) for r in rows]
        top = 5 + LINE
        canvas = Image.new("RGB", (width, top + sum(tall)), "white")
        pen = ImageDraw.Draw(canvas)

        def say(lines: Sequence[str], left: int, at: int, fill: Any = INK) -> None:
            for number, line in enumerate(lines):
                pen.text((left, at + number * LINE), line, fill=fill, font=FONT)

        lefts = [GAP + k * (side + GAP) for k in range(len(self.columns))]
        for left, heading in zip(lefts, self.columns, strict=True):
            say([heading], left, 3, "black")
        for row in rows:
            say(above[row], GAP, top)
            first = top + len(above[row]) * LINE + GAP
            for k, (left, column) in enumerate(zip(lefts, self.columns.values(), strict=True)):
                picture = to_picture(column[row])
                how = Image.Resampling.NEAREST if picture.width < side else Image.Resampling.BILINEAR
                canvas.paste(picture.resize((side, side), how), (left, first))
                say(below[row][k] if below[row] else (), left, first + side)
            top += tall[row]
        return canvas


Figure = Callable[[Any, Any, Request], Sheet]  # of a model, its data and what is asked for


class Responsive(Protocol):
    """A model that a user can ask: task=sample, figures, a demo and a study come through here."""

    def respond(self, data: Any, request: Request) -> Sheet:
        """What the model makes of a user's images and texts.

        `generated` of the sheet names the columns that it made; facts["rows"] say what each row is of.
        """


def to_picture(image: Tensor) -> Image.Image:
    """3,H,W float in [-1, 1] -> an RGB picture, rounded and clipped."""
    levels = ((image.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).numpy())


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


def destination(output: str | None, folder: Path, name: str) -> Path:
    """Where the picture goes; found wanting before anything is drawn."""
    path = Path(output).expanduser() if output else folder / name
    if path.suffix.lower() != ".png":
        raise UserError(f"output={path} is not the name of a PNG: let it end in .png.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be made ({error.strerror}): choose another output=FILE.png.") from None
    return path


def write(sheet: Sheet, path: Path, facts: Mapping[str, Any]) -> None:
    """The sheet, each generated image alone beside it, the animation, and the JSON that says how all were made."""
    told = {**facts, "columns": list(sheet.columns), "rows": list(sheet.above), **sheet.facts}
    if sheet.generated:
        told["rows"] = [
            dict(row, files=[alone(sheet.columns[heading][r], path, r, k) for k, heading in enumerate(sheet.generated)])
            for r, row in enumerate(told["rows"])
        ]
    if sheet.moving:
        still = {heading: images for heading, images in sheet.columns.items() if heading not in sheet.moving}
        sheets = [Sheet(still | {heading: sheet.columns[heading]}) for heading in sheet.moving]
        first, *rest = [each.render().convert("P", palette=Image.Palette.ADAPTIVE) for each in sheets]
        told["animation"] = path.with_suffix(".gif").name
        first.save(path.with_suffix(".gif"), save_all=True, append_images=rest, duration=FRAME_MS, loop=0)
    save(sheet.render(), path, told)


def alone(image: Tensor, path: Path, row: int, k: int) -> str:
    """The k-th generated image of a row as a PNG beside the sheet; its name."""
    file = path.with_name(f"{path.stem}-{row + 1}-{k + 1}.png")
    to_picture(image).save(file)
    return file.name
