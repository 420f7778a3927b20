"""What a user asked to be drawn: conditions, masks and photos from the command line or from the test images.

B conditions, S side. A condition is a sentence (model.inputs = text) or the list of its attributes' names. An image is
given by the key of a test image, or by a file.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data.geometry import to_grey
from common.data.module import ImageData
from common.errors import UserError
from common.files import UNREADABLE, open_image
from common.pictures import Images, Request, find_images, first_images, pixels
from finegan.conditions import parse_attributes, parse_sentence, pick, readable
from finegan.serving import Painter

Condition = str | list[str]
ATTRIBUTE = re.compile(r"\s*(has_)?[\w ]+:{1,2}\s?\S+\s*")  # 'wing color: red', 'has_wing_color::red'


class Masks(NamedTuple):
    """M masks and where they come from."""

    names: list[str]
    values: Tensor  # M,1,S,S in {0, 1}


def mask_values(masks: Masks | None) -> Tensor | None:
    """B,1,S,S in {0, 1}, or None for a model without masks."""
    return None if masks is None else masks.values


def shown(masks: Tensor) -> Tensor:
    """Masks as pictures: B,1,S,S in {0, 1} -> B,3,S,S, white on black."""
    return (2 * masks - 1).expand(-1, 3, -1, -1)


# ---- masks


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


def masks_of(images: Images, model: Painter, data: ImageData) -> Masks | None:
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
    return Masks(images.names, pixels(images, data, "mask", read_mask).to(model.device))


def seeded_masks(model: Painter, data: ImageData, seed: int, count: int) -> Masks | None:
    """Masks of `count` test images chosen by the seed; None where the model takes none."""
    if not model.masked:
        return None
    pool, rng = data.rows("test"), np.random.default_rng(seed)
    rows = [int(row) for row in rng.choice(pool, count, replace=count > len(pool))]
    return masks_of(Images([data.records.keys[row] for row in rows], list(rows)), model, data)


# ---- conditions


def asked_condition(text: str, model: Painter) -> Condition:
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


def own_condition(row: int, model: Painter, data: ImageData) -> Condition:
    """What evaluation draws a test image from: its first sentence, or its attributes."""
    if model.conditions is None:
        model.read_conditions(data.records)
    assert model.conditions is not None
    if model.inputs == "text":
        return data.records.captions[row][0]
    sequences = model.conditions.sequences
    index = sequences.of(torch.tensor([row]))
    ids, lengths, _ = pick(sequences, index, max_len=model.conditions.max_len_eval, train=False)
    return [sequences.names[one - 1] for one in ids[0, : int(lengths[0])].tolist()]


def summary(condition: Condition, most: int = 6) -> str:
    """A condition in a line: the sentence, or the first attributes and how many more."""
    if isinstance(condition, str):
        return condition
    more = f" and {len(condition) - most} more" if len(condition) > most else ""
    return ", ".join(map(readable, condition[:most])) + more


def short(name: str) -> str:
    """The name of an image behind its folders."""
    return name.rpartition("/")[2]


# ---- what is drawn


class Scene(NamedTuple):
    """B pictures to be drawn."""

    names: list[str]  # of the images; "" where only texts were given
    rows: list[int | None]  # of test images
    conditions: list[Condition]
    masks: Masks | None  # B

    @property
    def lines(self) -> list[str]:
        """What stands above each picture's row."""
        pairs = zip(self.names, self.conditions, strict=True)
        return [f"{short(name)}: {summary(condition)}" if name else summary(condition) for name, condition in pairs]

    @property
    def mask_column(self) -> dict[str, Tensor]:
        """A column of the masks, where there are any."""
        return {} if self.masks is None else {"mask": shown(self.masks.values)}

    @property
    def facts(self) -> dict[str, object]:
        masks = self.masks.names if self.masks else None
        return {"images": [name for name in self.names if name], "masks": masks, "conditions": self.conditions}


def scene(model: Painter, data: ImageData, request: Request, count: int) -> Scene:
    """The user's images by their own conditions, or by the user's (one image or one condition for all, or one each).

    Without images the user's conditions in masks of test images; without either, `count` test images.
    """
    texts = asked_conditions(model, request)
    if texts and not request.images:
        masks = seeded_masks(model, data, request.seed, len(texts))
        return Scene([""] * len(texts), [None] * len(texts), texts, masks)
    asked = asked_images(data, request, count)
    image, text = replace(request, images=asked.names).pairs()
    images = Images([asked.names[i] for i in image], [asked.rows[i] for i in image])
    masks = masks_of(images, model, data)
    conditions = [texts[t] for t in text] if texts else own_conditions(images, model, data)
    return Scene(images.names, images.rows, conditions, masks)


def asked_images(data: ImageData, request: Request, count: int) -> Images:
    """The user's images, or `count` test images."""
    return find_images(request.images, data) if request.images else first_images(data, count)


def asked_conditions(model: Painter, request: Request) -> list[Condition]:
    """The user's conditions."""
    return [asked_condition(text, model) for text in request.texts]


def own_conditions(images: Images, model: Painter, data: ImageData) -> list[Condition]:
    """The images' own conditions. UserError for a file, which has none."""
    for name, row in zip(*images, strict=True):
        if row is None:
            raise UserError(
                f"{name} is a file and says nothing of what to draw: give a text too, such as 'wing color: red'."
            )
    return [own_condition(row, model, data) for row in images.rows if row is not None]


def attended(model: Painter, data: ImageData, request: Request) -> tuple[Scene, Tensor | None]:
    """What figure=attention looks at, and the photos B,3,S,S. Its files are photos: their masks are test images'."""
    images = find_images(request.images, data)
    if images.known:
        s = scene(model, data, request, request.n)
        photos = Images(s.names, s.rows)
        return s, pixels(photos, data).to(model.device) if photos.known else None
    texts, (image, text) = asked_conditions(model, request), request.pairs()
    images = Images([images.names[i] for i in image], [images.rows[i] for i in image])
    masks = seeded_masks(model, data, request.seed, len(images.names))
    conditions = [texts[t] for t in text] if texts else own_conditions(images, model, data)
    return Scene(images.names, images.rows, conditions, masks), pixels(images, data).to(model.device)


def known_images(data: ImageData, request: Request) -> Images:
    """The user's test images, or `n` of them. UserError for a file, which has no attributes."""
    images = asked_images(data, request, request.n)
    if not images.known:
        raise UserError(
            f"this figure needs the attributes of test images, and {images.names[images.rows.index(None)]} is a file: "
            "give keys of test images."
        )
    return images


def masks_and_conditions(
    model: Painter, data: ImageData, request: Request, count: int
) -> tuple[Masks, list[Condition]]:
    """Masks of the user's images (or of `count` test images); the user's conditions, or those of the images that have
    some."""
    require_masks(model)
    images = asked_images(data, request, count)
    masks = masks_of(images, model, data)
    assert masks is not None
    rows = [row for row in images.rows if row is not None]
    if not request.texts and not rows:
        raise UserError("mask files say nothing of what to draw: give a text too, such as 'wing color: red'.")
    return masks, asked_conditions(model, request) or [own_condition(row, model, data) for row in rows]


def require_masks(model: Painter) -> None:
    """UserError for a model that takes no masks."""
    if not model.masked:
        raise UserError("this figure shows masks and this model takes none: choose model=finegan.")
