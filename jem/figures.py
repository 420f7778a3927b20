"""The figures of JEM and GAN-CLS, each a function (model, data, request) -> Sheet.

B pictures, S side. A request's images are the guides: test images, or photos (`photo.jpg::mask.png` with a mask); its
texts are sentences. Where none are named, test images and their own first sentences. Noise is seeded, so that the same
command makes the same picture.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from common.config import as_list
from common.data.module import ImageData
from common.data.readers.masks import BLUE
from common.errors import UserError
from common.metrics.functions import from_uint8
from common.pictures import FONT, INK, Images, Request, Sheet, find_images, first_images, pixels
from common.weights import read_weights
from jem.convergence import TOLERANCE, convergence_epoch, first_at, running_median
from jem.extractor import read_views
from jem.gan_cls import GANCLS
from jem.measures import FEWEST, points
from jem.model import JEM

Curves = dict[str, tuple[list[float], list[float]]]  # name -> epochs, values
MODELS: dict[str, type[GANCLS]] = {"jem": JEM, "gan_cls": GANCLS}
SIDE = 640  # pixels of a plot
COLOURS = ((196, 60, 40), (40, 90, 180), (40, 140, 70), (150, 80, 160), (200, 140, 30), (90, 90, 90))


def segmentation(model: JEM, data: ImageData, request: Request) -> Sheet:
    """Fig. 1: photos, and what the extractor sees of them."""
    images, _, _ = guides(model, data, request)
    return Sheet(
        {"photo": photos(model, data, images), "view": views(model, data, images)},
        images.names,
        {"images": images.names},
    )


def recoloured(model: JEM, data: ImageData, request: Request) -> Sheet:
    """Fig. 6: photos, the foreground on the data set's blue, and on white."""
    images, _, _ = guides(model, data, request)
    x = photos(model, data, images)
    mask = pixels(images, data, "mask").to(x.device)
    blue = from_uint8(torch.tensor(BLUE, device=x.device)).view(3, 1, 1)
    columns = {
        "photo": x,
        "segmim": torch.where(mask > 0, x, blue),
        "on white": torch.where(mask > 0, x, torch.ones_like(x)),
    }
    return Sheet(columns, images.names, {"images": images.names})


def compare(model: GANCLS, data: ImageData, request: Request) -> Sheet:
    """Fig. 4, 7 and 8: photos, what each other model (pictures.other) and this one make of their sentences, n each."""
    words, n = asked(data, request), max(request.settings["each"], 1)
    images, texts, v = conditions(model, data, request)
    columns: dict[str, Tensor] = {"photo": photos(model, data, images)}
    for path in as_list(request.settings["other"]):
        other = load(path, model)
        theirs = guides_of(other, words, data)[1]
        columns |= other.pictures(Path(path).stem, other.encode(texts), theirs, n, request.seed)
    columns |= model.pictures(type(model).__name__, model.encode(texts), v, n, request.seed)
    return Sheet(columns, texts, told(images, texts))


def follow(model: JEM, data: ImageData, request: Request) -> Sheet:
    """Fig. 5: photo, its view, the picture, and the training photo whose guide is nearest: is it learnt by heart?"""
    images, texts, v = conditions(model, data, request)
    assert model.codes is not None
    assert v is not None
    train = torch.from_numpy(data.rows("train")).to(v.device)
    known = F.normalize(model.look_up_guide(train).flatten(1), dim=1)
    nearest = train[(F.normalize(v.flatten(1), dim=1) @ known.T).argmax(1)].tolist()
    columns = {
        "photo": photos(model, data, images),
        "view": views(model, data, images),
        "picture": model.infer(model.one_noise(len(v), request.seed), model.encode(texts), v),
        "nearest guide": pixels(Images([data.records.keys[row] for row in nearest], nearest), data).to(v.device),
    }
    return Sheet(columns, texts, told(images, texts))


def guided(model: JEM, data: ImageData, request: Request) -> Sheet:
    """Every guide with every sentence: a column for each guide, a row for each sentence, one noise for all."""
    images, v, _ = guides(model, data, request)
    texts = list(request.texts) or own_texts(data, images, 4)
    t, z = model.encode(texts), model.one_noise(len(v), request.seed)
    rows = [photos(model, data, images), *(model.infer(z, one.expand(len(v), -1), v) for one in t)]
    columns = {f"guide {k}": column for k, column in enumerate(torch.stack(rows, 1), 1)}
    return Sheet(columns, ["the guides", *texts], told(images, texts))


def diversity(model: GANCLS, data: ImageData, request: Request) -> Sheet:
    """One sentence, and one guide, and n draws of noise."""
    images, texts, v = conditions(model, data, request)
    drawn = model.pictures("noise", model.encode(texts), v, max(request.settings["each"], 1), request.seed)
    return Sheet({"photo": photos(model, data, images), **drawn}, texts, told(images, texts))


def flips(model: JEM, data: ImageData, request: Request) -> Sheet:
    """Photo, its picture, the picture after the mirrored guide, and that one mirrored back: is direction controlled?"""
    images, texts, v = conditions(model, data, request)
    rows = torch.tensor([row for row in images.rows if row is not None], device=model.device)
    if not images.known:
        raise UserError("figure=flips mirrors guides of test images: give images=[KEY,...] of these.")
    z, t = model.one_noise(len(texts), request.seed), model.encode(texts)
    mirrored = model.infer(z, t, model.look_up_guide(rows, True))
    columns = {"photo": photos(model, data, images), "picture": model.infer(z, t, v), "guide mirrored": mirrored}
    return Sheet(columns | {"mirrored back": mirrored.flip(3)}, texts, told(images, texts))


def interp(model: GANCLS, data: ImageData, request: Request) -> Sheet:
    """Steps from one guide to the next (pictures.between=guide) or from one sentence to the next (text), z the same."""
    images, texts, v = conditions(model, data, request)
    if len(texts) < 2:
        raise UserError("figure=interp goes from one to another: name two images or texts, or give n=2 or more.")
    t, z = model.encode(texts), model.one_noise(len(texts) - 1, request.seed)
    by_text = request.settings["between"] == "text" or v is None
    columns: dict[str, Tensor] = {}
    for alpha in torch.linspace(0, 1, request.steps).tolist():
        t_now = torch.lerp(t[:-1], t[1:], alpha) if by_text else t[:-1]
        v_now = v if v is None else v[:-1] if by_text else torch.lerp(v[:-1], v[1:], alpha)
        columns[f"alpha {alpha:.3f}"] = model.infer(z, t_now, v_now)
    above = [f"A: {a} | B: {b}" for a, b in pairwise(texts)] if by_text else texts[:-1]
    return Sheet(columns, above, told(images, texts))


def curve(model: GANCLS, data: ImageData, request: Request) -> Sheet:
    """Table 1: FID over the epochs on training and test images, each with its E*; and of other models."""
    curves = {type(model).__name__: model.curve}
    for path in as_list(request.settings["other"]):
        curves[Path(path).stem] = read_weights(path, mapped=True).get("curve", [])
    if not any(curves.values()):
        raise UserError("this model was trained without looks at its curve: train it with model.monitor.every=10.")
    splits = ("train", "test")
    lines = {f"{name}, {split}": points(one, f"fid_{split}") for name, one in curves.items() if one for split in splits}
    pixels_of = torch.from_numpy(np.array(plot(lines))).permute(2, 0, 1)
    facts = {"curves": curves, "common_level": {split: at_one_level(lines, split) for split in splits}}
    return Sheet({"FID over epochs, dashed: E*": from_uint8(pixels_of)[None]}, facts=facts, side=SIDE)


def at_one_level(lines: Curves, split: str) -> dict[str, Any]:
    """The level that every curve of a split comes to, the worst of their ends and a twentieth of its gain above, and
    the first epoch at which each is there: they may end at different levels."""
    mine = {name: line for name, line in lines.items() if name.endswith(split)}
    ends = [(convergence_epoch(*line).final, line[1][0]) for line in mine.values()]
    final, first = max(ends)
    level = final + TOLERANCE * abs(first - final)
    return {"fid": level} | {name: first_at(epochs, values, level) for name, (epochs, values) in mine.items()}


def plot(curves: Curves) -> Image.Image:
    """Curves with their running medians, the level of each end and its E*, dashed where the run has converged."""
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    pen = ImageDraw.Draw(canvas)
    left, right, top, bottom = 50, SIDE - 15, 15 + 16 * len(curves), SIDE - 30
    last = max(epochs[-1] for epochs, _ in curves.values())
    values = [value for _, column in curves.values() for value in column]
    low, high = min(values), max(values) + 1e-9

    def at(epoch: float, value: float) -> tuple[float, float]:
        return left + (right - left) * epoch / last, bottom - (bottom - top) * (value - low) / (high - low)

    pen.rectangle((left, top, right, bottom), outline=INK)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        pen.text(
            (4, at(0, low + share * (high - low))[1] - 6), f"{low + share * (high - low):.0f}", fill=INK, font=FONT
        )
        pen.text((at(share * last, low)[0] - 10, bottom + 6), f"{share * last:.0f}", fill=INK, font=FONT)
    for k, (name, (epochs, column)) in enumerate(curves.items()):
        colour = COLOURS[k % len(COLOURS)]
        found = convergence_epoch(epochs, column)
        smooth = running_median(np.array(column), 5)
        pen.line([at(e, v) for e, v in zip(epochs, column, strict=True)], fill=tuple((c + 255) // 2 for c in colour))
        pen.line([at(e, v) for e, v in zip(epochs, smooth.tolist(), strict=True)], fill=colour, width=2)
        told = len(epochs) >= FEWEST
        if found.epoch is not None and told:
            x = at(found.epoch, low)[0]
            for y in range(top, bottom, 8):
                pen.line((x, y, x, min(y + 4, bottom)), fill=colour)
        where = "" if found.epoch is None else f" {found.epoch:.0f}"
        words = f"{found.status.replace('_', ' ')}{where}" if told else f"{len(epochs)} looks are no curve"
        pen.text((left, 8 + 16 * k), f"{name}: {words}", fill=colour, font=FONT)
    return canvas


# ---- what is drawn from what


def guides(model: JEM, data: ImageData, request: Request) -> tuple[Images, Tensor, list[str]]:
    """The user's guides, or those of `n` test images."""
    return model.read_photos(list(request.images) or first_images(data, request.n).names, data)


def asked(data: ImageData, request: Request) -> list[str]:
    """The user's images as they are named, or one for each text, and `n` at least, of the test images."""
    return list(request.images) or first_images(data, max(request.n, len(request.texts))).names


def conditions(model: GANCLS, data: ImageData, request: Request) -> tuple[Images, list[str], Tensor | None]:
    """Images, a sentence for each, and their guides where the model has such."""
    names = asked(data, request)
    if len(request.texts) not in (0, 1, len(names)):
        raise UserError(f"there are {len(names)} images and {len(request.texts)} texts: give one, or as many of both.")
    images, v = guides_of(model, names, data)
    texts = list(request.texts) * (len(names) if len(request.texts) == 1 else 1) or own_texts(data, images, len(names))
    return images, texts, v


def guides_of(model: GANCLS, words: list[str], data: ImageData) -> tuple[Images, Tensor | None]:
    """Images as a user names them, and their guides where the model has such."""
    if isinstance(model, JEM):
        return model.read_photos(words, data)[:2]
    return find_images([word.partition("::")[0] for word in words], data), None


def own_texts(data: ImageData, images: Images, count: int) -> list[str]:
    if not images.known:
        raise UserError("a user's photo has no sentence: give texts=['this flower has red petals'].")
    return [data.records.captions[row][0] for row in images.rows[:count] if row is not None]


def load(path: str, model: GANCLS) -> GANCLS:
    """Another exported model, with the sentence vectors and the guides that its settings ask for."""
    kind = read_weights(path, mapped=True).get("kind")
    if kind not in MODELS:
        raise UserError(f"{path} is of {kind}, not of {' or '.join(MODELS)}: give an exported file of these.")
    other = MODELS[kind].load(path).to(model.device)
    if isinstance(other, JEM) and isinstance(model, JEM) and other.guide == model.guide:
        other.codes, other.guidance = model.codes, model.guidance
    return other


def photos(model: GANCLS, data: ImageData, images: Images) -> Tensor:
    """B,3,S,S on the model's device."""
    return pixels(images, data).to(model.device)


def views(model: JEM, data: ImageData, images: Images) -> Tensor:
    """B,3,S,S: what the extractor sees of test images, at the size of the pictures."""
    if not images.known:
        raise UserError("the views of test images are kept, not those of a user's photos: give images=[KEY,...].")
    kept = read_views(model.guidance["views_file"], len(data.records))
    shown = from_uint8(torch.from_numpy(kept[np.array(images.rows)])).permute(0, 3, 1, 2).to(model.device)
    return F.interpolate(shown, (data.image_size, data.image_size), mode="bilinear", antialias=True)


def told(images: Images, texts: list[str]) -> dict[str, Any]:
    return {"images": images.names, "texts": texts}
