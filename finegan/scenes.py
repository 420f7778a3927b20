"""What a user asked to be drawn: conditions, masks and photos from the command line or from the test images.

B conditions, S side. A condition is a sentence (model.inputs = text) or the list of its attributes' names. An image is
given by the key of a test image, or by a file.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data.geometry import UNREADABLE, open_image, to_grey
from common.data.module import ImageData
from common.errors import UserError
from common.pictures import Config, first_of_classes, listed, number, read_photos
from finegan.conditions import parse_attributes, parse_sentence, pick, readable
from finegan.model import FineGAN

Condition = str | list[str]
ATTRIBUTE = re.compile(r"\s*(has_)?[\w ]+:{1,2}\s?\S+\s*")  # 'wing color: red', 'has_wing_color::red'


class Images(NamedTuple):
    """Images asked for by name: keys of test images, or files."""

    names: list[str]
    rows: list[int | None]  # of test images in Records; None = a file

    @property
    def known(self) -> bool:
        return None not in self.rows


class Masks(NamedTuple):
    """M masks and where they come from."""

    names: list[str]
    values: Tensor  # M,1,S,S in {0, 1}


# ---- images and masks


def find_images(asked: Sequence[str], data: ImageData) -> Images:
    """Files by path, and test images by key or by the name behind its slash. UserError for what is neither.

    The data set is read only where a name is no file's.
    """
    found = [(name, None if Path(name).expanduser().is_file() else test_row(name, data)) for name in asked]
    names = [name if row is None else data.records.keys[row] for name, row in found]
    return Images(names, [row for _, row in found])


def test_row(name: str, data: ImageData) -> int:
    """The row of a test image in Records. UserError, with the nearest key, where there is none."""
    records = data.records
    usable = {records.keys[row]: int(row) for row in data.rows("test")}
    short = {key.rpartition("/")[2]: row for key, row in usable.items()}
    row = usable.get(name, short.get(name))
    if row is None and name in records.keys:
        raise UserError(f"{name} is not among the test images that can be read: give the key of one that is.")
    if row is None:
        nearest = difflib.get_close_matches(name, [*usable, *short], n=1, cutoff=0)
        raise UserError(f"{name} is neither a file nor a test image: the nearest of these is {' '.join(nearest)}.")
    return row


def first_images(data: ImageData, count: int) -> Images:
    """Test images of each class in turn."""
    rows = [int(row) for row in first_of_classes(data, count)]
    return Images([data.records.keys[row] for row in rows], list(rows))


def pixels(images: Images, data: ImageData, what: str) -> Tensor:
    """The photos (what=image) B,3,S,S in [-1, 1] or the masks (what=mask) B,1,S,S in {0, 1}, from wherever they are."""
    rows = np.array([row for row in images.rows if row is not None])
    loaded: list[Tensor] = []
    if len(rows):
        batch = next(iter(data.eval_loader(rows=rows, batch_size=len(rows), reads=(what,))))
        loaded = list(data.move(batch, "cpu")[what])  # type: ignore[literal-required]
    found = iter(loaded)
    read = (lambda name: read_photos([name], data)[0]) if what == "image" else (lambda name: read_mask(name, data))
    return torch.stack([read(n) if row is None else next(found) for n, row in zip(*images, strict=True)])


def read_mask(name: str, data: ImageData) -> Tensor:
    """A mask PNG as large as the drawing: 1,S,S in {0, 1}, foreground = value >= 128 as in CUB's own."""
    path, size = Path(name).expanduser(), data.image_size
    try:
        with open_image(path) as file:
            grey = np.asarray(to_grey(file))
    except UNREADABLE as error:
        raise UserError(f"{path} cannot be read as a mask ({error}): give a whole PNG, the bird white.") from None
    if grey.shape != (size, size):
        height, width = grey.shape
        raise UserError(f"the mask {path} is {width}x{height} and this model draws {size}x{size}: resize the mask.")
    if grey.max() < 128:
        raise UserError(f"the mask {path} has no foreground: paint the bird white.")
    return torch.from_numpy((grey >= 128).astype(np.float32))[None]


def masks_of(images: Images, model: FineGAN, data: ImageData) -> Masks | None:
    """The masks of these images; None where the model takes none."""
    if not model.masked:
        if not images.known:
            name = next(name for name, row in zip(*images, strict=True) if row is None)
            raise UserError(f"this model takes no mask and {name} would change nothing: leave it out.")
        return None
    if images.rows.count(None) < len(images.rows) and "mask" not in data.reads:
        raise UserError(
            "this model draws into a mask and no masks are read: add mask to data.reads, or give mask PNGs "
            f"of {data.image_size}x{data.image_size}."
        )
    return Masks(images.names, pixels(images, data, "mask").to(model.device))


def drawn_masks(cfg: Config, model: FineGAN, data: ImageData, count: int) -> Masks | None:
    """Masks of `count` test images drawn with the seed; None where the model takes none."""
    if not model.masked:
        return None
    pool, rng = data.rows("test"), np.random.default_rng(cfg["seed"])
    rows = [int(row) for row in rng.choice(pool, count, replace=count > len(pool))]
    return masks_of(Images([data.records.keys[row] for row in rows], list(rows)), model, data)


# ---- conditions


def asked_condition(text: str, model: FineGAN) -> Condition:
    """A sentence, or names of attributes with commas between. UserError for the one where the other is read."""
    model.read_conditions()
    assert model.encoders is not None
    names, parts = model.encoders.names, [part.strip() for part in text.split(",") if part.strip()]
    if model.inputs != "text":
        try:
            return [names[token - 1] for token in parse_attributes(parts, names)]
        except UserError:
            if ":" in text:
                raise
            raise UserError(
                f"this model reads attributes and '{text}' names none: give some such as 'wing color: red, belly "
                "color: white', or choose model=attngan."
            ) from None
    if parts and all(ATTRIBUTE.fullmatch(part) for part in parts):
        raise UserError(
            f"this model reads sentences and '{text}' names attributes: give a sentence such as 'a red bird with white "
            "wings', or choose model=finegan."
        )
    parse_sentence(text, names)  # refuses one without a known word
    return text


def own_condition(row: int, model: FineGAN, data: ImageData) -> Condition:
    """What evaluation draws a test image from: its first sentence, or its attributes."""
    if model.conditions is None:
        model.read_conditions(data.records)
    assert model.conditions is not None
    if model.inputs == "text":
        return data.records.captions[row][0]
    sequences = model.conditions.sequences
    index = sequences.of(torch.tensor([row]))
    ids, lengths, _ = pick(sequences, index, max_len=model.max_len_eval, train=False)
    return [sequences.names[one - 1] for one in ids[0, : int(lengths[0])].tolist()]


def summary(condition: Condition, most: int = 6) -> str:
    """A condition in a line: the sentence, or the first attributes and how many more."""
    if isinstance(condition, str):
        return condition
    more = f" and {len(condition) - most} more" if len(condition) > most else ""
    return ", ".join(map(readable, condition[:most])) + more


# ---- scenes


class Scene(NamedTuple):
    """B pictures to be drawn."""

    names: list[str]  # of the images; "" where only texts were given
    rows: list[int | None]  # of test images
    conditions: list[Condition]
    masks: Masks | None  # B


def scene(cfg: Config, model: FineGAN, data: ImageData, count: int) -> Scene:
    """The user's images by their own conditions, or by the user's (one image or one condition for all, or one each).

    Without images the user's conditions in drawn masks; without either, `count` test images.
    """
    asked, texts = listed(cfg["images"]), [asked_condition(text, model) for text in listed(cfg["texts"])]
    if texts and not asked:
        masks = drawn_masks(cfg, model, data, len(texts))
        return Scene([""] * len(texts), [None] * len(texts), texts, masks)
    images = find_images(asked, data) if asked else first_images(data, count)
    if len(images.names) == 1 and texts:
        images = Images(images.names * len(texts), images.rows * len(texts))
    masks = masks_of(images, model, data)
    return Scene(images.names, images.rows, conditions_for(images, texts, model, data), masks)


def conditions_for(images: Images, texts: list[Condition], model: FineGAN, data: ImageData) -> list[Condition]:
    """The user's conditions, one for all images or one each; else the images' own."""
    if texts and len(texts) not in (1, len(images.names)):
        raise UserError(f"there are {len(images.names)} images and {len(texts)} texts: give one text, or one for each.")
    if texts:
        return texts * len(images.names) if len(texts) == 1 else texts
    found = []
    for name, row in zip(*images, strict=True):
        if row is None:
            raise UserError(f"{name} is a file and says nothing of what to draw: add texts=['wing color: red'], say.")
        found.append(own_condition(row, model, data))
    return found


def attended(cfg: Config, model: FineGAN, data: ImageData) -> tuple[Scene, Tensor | None]:
    """What figure=attention looks at, and the photos B,3,S,S. Its files are photos: their masks are drawn ones."""
    asked = listed(cfg["images"])
    images = find_images(asked, data) if asked else None
    if images is None or images.known:
        s = scene(cfg, model, data, number(cfg, "n", 1))
        photos = Images(s.names, s.rows)
        return s, pixels(photos, data, "image").to(model.device) if photos.known else None
    texts = [asked_condition(text, model) for text in listed(cfg["texts"])]
    masks = drawn_masks(cfg, model, data, len(images.names))
    s = Scene(images.names, images.rows, conditions_for(images, texts, model, data), masks)
    return s, pixels(images, data, "image").to(model.device)


def known_images(cfg: Config, data: ImageData) -> Images:
    """The user's test images, or `n` of them. UserError for a file, which has no attributes."""
    asked = listed(cfg["images"])
    images = find_images(asked, data) if asked else first_images(data, number(cfg, "n", 1))
    if not images.known:
        raise UserError(
            f"figure={cfg['figure']} needs the attributes of test images, and {asked[images.rows.index(None)]} is a "
            "file: give keys of test images."
        )
    return images


def masks_and_conditions(cfg: Config, model: FineGAN, data: ImageData, count: int) -> tuple[Masks, list[Condition]]:
    """Masks of the user's images (or of `count` test images); the user's conditions, or those of the images that have
    some."""
    require_masks(cfg, model)
    asked = listed(cfg["images"])
    images = find_images(asked, data) if asked else first_images(data, count)
    masks = masks_of(images, model, data)
    assert masks is not None
    texts = [asked_condition(text, model) for text in listed(cfg["texts"])]
    rows = [row for row in images.rows if row is not None]
    if not texts and not rows:
        raise UserError("mask files say nothing of what to draw: add texts=['wing color: red'], say.")
    return masks, texts or [own_condition(row, model, data) for row in rows]


def require_masks(cfg: Config, model: FineGAN) -> None:
    if not model.masked:
        raise UserError(f"figure={cfg['figure']} shows masks and this model takes none: choose model=finegan.")
