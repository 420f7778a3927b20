"""The figures of FineGAN and of AttnGAN, each a function (model, data, request) -> Sheet.

B conditions, L tokens of the longest, S side. The k-th draw of a command has one noise for all rows of its sheet, so
that what differs between them is what the figure is about; the same command makes the same picture.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from common.data.module import ImageData
from common.errors import UserError
from common.pictures import Request, Responsive, Sheet, find_images, first_images, pixels
from common.weights import read_weights, settings_of
from finegan.conditions import Codes, groups, parse_attributes, parse_sentence, readable
from finegan.discriminators import quadrants
from finegan.figure_inputs import (
    Condition,
    asked_condition,
    attended,
    known_images,
    mask_values,
    masks_and_conditions,
    masks_of,
    own_condition,
    own_conditions,
    require_masks,
    scene,
    seeded_masks,
    short,
    shown,
    summary,
)
from finegan.losses import region_attention
from finegan.serving import Painter

COLOURS = ["wing color: red", "wing color: blue", "wing color: yellow", "wing color: white"]  # where none are given
TOP = 5  # tokens of figure=attention


def grid(model: Responsive, data: ImageData, request: Request) -> Sheet:
    """Test images, their masks and two pictures of each."""
    sheet = responded(model, data, replace(request, n=2), request.n)
    images = find_images(sheet.facts["images"], data)
    photos = {"photo": pixels(images, data)} if images.names and images.known else {}
    return replace(sheet, columns={**photos, **sheet.columns})


def diversity(model: Responsive, data: ImageData, request: Request) -> Sheet:
    """Fig. 5: one condition, n draws of noise."""
    return responded(model, data, request, 1)


def responded(model: Responsive, data: ImageData, request: Request, count: int) -> Sheet:
    """The model's response, to `count` test images where nothing is named."""
    if not request.images and not request.texts:
        request = replace(request, images=first_images(data, count).names)
    sheet = model.respond(data, request)
    images, masks, conditions = ([row[key] for row in sheet.facts["rows"]] for key in ("image", "mask", "condition"))
    told = {"images": [name for name in images if name], "masks": masks if any(masks) else None}
    return Sheet(sheet.columns, sheet.above, {**told, "conditions": conditions})


def stages(model: Painter, data: ImageData, request: Request) -> Sheet:
    """The three stages' pictures of one draw, all shown at one size."""
    s = scene(model, data, request, request.n)
    generated = model.generate(model.encode(s.conditions), mask_values(s.masks), 1, request.seed)
    columns = {f"stage {k}: {x.shape[-1]} px": x for k, x in enumerate(generated.images, 1)}
    return Sheet(s.mask_column | columns, s.lines, s.facts)


def attributes(model: Painter, data: ImageData, request: Request) -> Sheet:
    """Fig. 10: a row for each text, a single attribute by default; a column for each noise and its mask."""
    texts, count = request.texts or default_texts(model, data), request.n
    conditions, asked = [asked_condition(text, model) for text in texts], request.images
    masks = masks_of(find_images(asked, data), model, data) if asked else seeded_masks(model, data, request.seed, count)
    codes, rows = model.encode(conditions), []
    for k in range(1, count + 1):
        mask = None if masks is None else masks.values[[(k - 1) % len(masks.names)]]
        column = model.generate(codes, None if mask is None else mask.expand(len(texts), -1, -1, -1), k, request.seed)
        rows.append(column.images[-1] if mask is None else torch.cat([shown(mask), column.images[-1]]))
    above = [*([] if masks is None else ["the masks"]), *map(summary, conditions)]
    facts = {"conditions": conditions, "masks": masks.names if masks else None}
    return Sheet({f"draw {k}": column for k, column in enumerate(rows, 1)}, above, facts)


def default_texts(model: Painter, data: ImageData) -> list[str]:
    """Colours of the wing, or the first sentences of four test images."""
    if model.inputs != "text":
        return COLOURS
    images = first_images(data, 4)
    return [str(own_condition(row, model, data)) for row in images.rows if row is not None]


def swap(model: Painter, data: ImageData, request: Request) -> Sheet:
    """One group of an image's attributes replaced by each text; the rest, noise and mask stay."""
    if model.inputs == "text":
        raise UserError("figure=swap replaces attributes and this model reads sentences: choose figure=interp.")
    images = known_images(data, request)
    changes = [asked_condition(text, model) for text in request.texts or COLOURS]
    own = own_conditions(images, model, data)
    assert model.encoders is not None
    names = model.encoders.names
    masks = masks_of(images, model, data)
    lists = [own]
    for change in changes:
        new = parse_attributes(change, names)
        lists.append([[names[i - 1] for i in replaced(parse_attributes(c, names), new, groups(names))] for c in own])
    columns = {"photo": pixels(images, data)} | ({} if masks is None else {"mask": shown(masks.values)})
    labels = [*([""] * len(columns)), "as listed", *map(summary, changes)]
    for k, conditions in enumerate(lists):
        generated = model.generate(model.encode(conditions), mask_values(masks), 1, request.seed)
        columns[f"swap {k}" if k else "own"] = generated.images[-1]
    above = [f"{short(name)}: {summary(c)}" for name, c in zip(images.names, own, strict=True)]
    facts = {"images": images.names, "masks": masks.names if masks else None, "conditions": lists, "changes": changes}
    return Sheet(columns, above, facts, below=[labels] * len(own))


def mask_swap(model: Painter, data: ImageData, request: Request) -> Sheet:
    """Every condition in every mask, with one noise: a row for each condition, a column for each mask."""
    masks, conditions = masks_and_conditions(model, data, request, request.n)
    count = len(conditions)
    codes = model.encode(conditions)
    columns = {}
    for k, mask in enumerate(masks.values, 1):
        generated = model.generate(codes, mask.expand(count, -1, -1, -1), 1, request.seed)
        columns[f"mask {k}"] = torch.cat([shown(mask[None]), generated.images[-1]])
    facts = {"masks": masks.names, "conditions": conditions}
    return Sheet(columns, ["the masks", *map(summary, conditions)], facts)


def mask_interp(model: Painter, data: ImageData, request: Request) -> Sheet:
    """From one mask to another by their signed distances; a row for each condition, one noise."""
    masks, conditions = masks_and_conditions(model, data, request, 2)
    if len(masks.names) != 2:
        raise UserError(
            f"figure=mask_interp goes from one mask to another, and {len(masks.names)} are given: give two."
        )
    conditions = conditions if request.texts else conditions[:1]
    codes, columns = model.encode(conditions), {}
    a, b = masks.values[:, 0]
    for alpha in torch.linspace(0, 1, request.steps).tolist():
        mask = mask_between(a, b, alpha)[None, None]
        generated = model.generate(codes, mask.expand(len(conditions), -1, -1, -1), 1, request.seed)
        columns[f"alpha {alpha:.3f}"] = torch.cat([shown(mask), generated.images[-1]])
    return Sheet(columns, ["the masks", *map(summary, conditions)], {"masks": masks.names, "conditions": conditions})


def interp(model: Painter, data: ImageData, request: Request) -> Sheet:
    """From one sentence code to another in `steps`, with one noise and mask: once with the words of each end."""
    s = scene(model, data, request, 2)
    if len(s.conditions) != 2:
        raise UserError(
            f"figure=interp goes between two conditions, and {len(s.conditions)} are given: give two texts."
        )
    codes = model.encode(s.conditions)
    a, b = take(codes, [0]), take(codes, [1])
    mask = s.masks.values[:1] if s.masks else None
    columns = {}
    for alpha in torch.linspace(0, 1, request.steps).tolist():
        ends = between(a, b, alpha), between(b, a, 1 - alpha)
        columns[f"alpha {alpha:.3f}"] = torch.cat([model.generate(c, mask, 1, request.seed).images[-1] for c in ends])
    above = [f"A to B, words of {end}: {summary(c)}" for end, c in zip("AB", s.conditions, strict=True)]
    facts = s.facts | ({"masks": s.masks.names[:1]} if s.masks else {})
    return Sheet(columns, above, facts)


def attention(model: Painter, data: ImageData, request: Request) -> Sheet:
    """Fig. 3: where stages 2 and 3 attend to the tokens, and DAMSM's regions of them in the picture and in the photo.

    The five tokens that stage 3 attends to most, each map stretched over its own range; below it its largest value.
    """
    s, photos = attended(model, data, request)
    codes = model.encode(s.conditions)
    generated = model.generate(codes, mask_values(s.masks), 1, request.seed)
    picture = generated.images[-1]
    views = {
        "stage 2": (F.interpolate(generated.images[1], picture.shape[-2:]), generated.attention[0]),
        "stage 3": (picture, generated.attention[1]),
        "DAMSM on the picture": (picture, regions_of(model, picture, codes)),
    }
    if photos is not None:
        views["DAMSM on the photo"] = (photos, regions_of(model, photos, codes))
    tiles, above, below = [], [], []
    for b, (name, condition) in enumerate(zip(s.names, s.conditions, strict=True)):
        tokens = tokens_of(condition, model)
        best = strongest(generated.attention[1][b], len(tokens), TOP)
        for view, (pictures, maps) in views.items():
            lit = [spotlight(pictures[b], maps[b, token]) for token in best]
            blank = [torch.ones_like(pictures[b])] * (TOP - len(best))
            tiles.append([pictures[b], *lit, *blank])
            above.append(f"{short(name)} | {view}" if name else view)
            peaks = [f"{tokens[token]} ({maps[b, token].max():.3f})" for token in best]
            below.append(["", *peaks, *[""] * len(blank)])
    headings = ["picture", *(f"token {k}" for k in range(1, TOP + 1))]
    columns = {heading: torch.stack(column) for heading, column in zip(headings, zip(*tiles, strict=True), strict=True)}
    return Sheet(columns, above, s.facts, below)


@torch.no_grad()
def regions_of(model: Painter, pictures: Tensor, codes: Codes) -> Tensor:
    """DAMSM's attention of each picture's own tokens over its regions: B,3,S,S -> B,L,h,w, summing to 1 over h,w."""
    assert model.image_encoder is not None
    regions, _ = model.image_encoder(pictures)
    flat = regions.float().flatten(2)
    each = [region_attention(flat[[b]], codes.words[[b]], codes.pad[[b]], model.gammas[0])[0] for b in range(len(flat))]
    return torch.cat(each)[:, 0].unflatten(2, regions.shape[-2:])


def tokens_of(condition: Condition, model: Painter) -> list[str]:
    """What stands at each place of a condition."""
    if not isinstance(condition, str):
        return [readable(name) for name in condition]
    assert model.encoders is not None
    return [model.encoders.names[one - 1] for one in parse_sentence(condition, model.encoders.names)]


def inputs(model: Painter, data: ImageData, request: Request) -> Sheet:
    """Fig. 6 and 7: what the discriminators see of a photo and of a drawing, whole and under the mask, in quadrants."""
    require_masks(model)
    images = known_images(data, request)
    masks, conditions = masks_of(images, model, data), own_conditions(images, model, data)
    assert masks is not None
    m = masks.values
    generated = model.generate(model.encode(conditions), m, 1, request.seed).images[-1]
    x = torch.stack([pixels(images, data).to(generated), generated], 1).flatten(0, 1)  # photo, drawing, photo, ...
    m = m.repeat_interleave(2, 0)
    columns = {"x": x, "m": shown(m), "x * m": model.under(x, m)}
    for name in ("x", "x * m"):
        for corner, part in zip(("TL", "TR", "BL", "BR"), quadrants(columns[name]).chunk(4), strict=True):
            columns[f"{name}, {corner}"] = part
    above = [f"{short(name)}: {what}" for name in images.names for what in ("photo", "drawing")]
    return Sheet(columns, above, {"images": images.names, "conditions": conditions})


def triplets(model: Painter, data: ImageData, request: Request) -> Sheet:
    """Fig. 11: test images, what another model makes of its own conditions (pictures.other=FILE), and this model."""
    images = known_images(data, request)
    columns = {"ground truth": pixels(images, data)}
    file = request.settings["other"]
    facts: dict[str, Any] = {"images": images.names}
    models, below = {"ours": model}, [[""] * len(images.names)]
    if file:
        other = load_other(file, model)
        if other.inputs == "text" and not data.records.captions:
            raise UserError(f"{file} reads captions: add data.reads=[image,mask,attributes,caption].")
        models = {"AttnGAN" if other.inputs == "text" else "other": other} | models
    for heading, each in models.items():
        conditions = own_conditions(images, each, data)
        masks = mask_values(masks_of(images, each, data))
        generated = each.generate(each.encode(conditions), masks, 1, request.seed)
        columns[heading], facts[heading] = generated.images[-1], conditions
        below.append([summary(condition) for condition in conditions])
    return Sheet(columns, list(map(short, images.names)), facts, below=list(zip(*below, strict=True)))


def load_other(file: str, model: Painter) -> Painter:
    """The model of a checkpoint or an exported file, on this model's device."""
    content = read_weights(file)
    if content.get("kind") == "finegan":
        other = type(model).load(file)
    elif content.get("suite", {}).get("model") == "FineGAN":
        with settings_of(file):
            other = type(model)(**content["hyper_parameters"])
        other.restore(file)
    else:
        raise UserError(
            f"pictures.other={file} is not of model=attngan or finegan: give a checkpoint or an export of theirs."
        )
    if other.image_size != model.image_size:
        raise UserError(
            f"pictures.other={file} draws {other.image_size}x{other.image_size} and this model "
            f"{model.image_size}x{model.image_size}: give two models of one size."
        )
    other.denoised = other.denoised or model.denoised
    return other.to(model.device).eval()


# ---- what figures change and point at: attributes, masks, sentence codes, the tokens that a picture attends to


def replaced(ids: Iterable[int], new: Iterable[int], groups: Mapping[str, Sequence[int]]) -> list[int]:
    """Attribute ids with those of `new` in place of all others of their groups, ascending (Sec. 4.3)."""
    new = set(new)
    gone = {one for group in groups.values() if new & set(group) for one in group}
    return sorted((set(ids) - gone) | new)


def mask_between(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """From mask a (alpha 0) to mask b (alpha 1) by their signed distances: S,S in {0, 1} each, with foreground."""
    distance = (1 - alpha) * signed_distance(a) + alpha * signed_distance(b)
    return torch.from_numpy(distance > 0).to(a)


def signed_distance(mask: Tensor) -> np.ndarray:
    """Pixels to the border, positive inside: S,S in {0, 1} -> S,S. All that lies beyond the picture is background."""
    inside = np.pad(mask.cpu().numpy() > 0.5, 1)
    return (distance_transform_edt(inside) - distance_transform_edt(~inside))[1:-1, 1:-1]


def between(a: Codes, b: Codes, alpha: float) -> Codes:
    """The sentence code from a (alpha 0) to b (alpha 1); the words stay a's, as lists of words have no middle."""
    return a._replace(sent=(1 - alpha) * a.sent + alpha * b.sent)


def take(codes: Codes, index: Sequence[int]) -> Codes:
    """The conditions of these places, in this order."""
    return Codes(*(part[list(index)] for part in codes))


def strongest(attention: Tensor, tokens: int, count: int) -> list[int]:
    """The `count` tokens that most of the picture attends to, the first one most: L,s,s -> indices below `tokens`.

    By the share of places that give a token more than twice an equal share, 2 / L [AttnGAN miscc/utils.py]; then by its
    mean.
    """
    maps = attention[:tokens].flatten(1)
    order = zip((maps > 2 / tokens).float().mean(1).tolist(), maps.mean(1).tolist(), range(tokens), strict=True)
    return [token for _, _, token in sorted(order, key=lambda each: (-each[0], -each[1], each[2]))[:count]]


def spotlight(image: Tensor, attention: Tensor) -> Tensor:
    """The image as it is where it is attended to, dark grey elsewhere: 3,S,S in [-1, 1] and s,s -> 3,S,S.

    The attention is stretched over its range, so that the brightest place is its largest value, whatever that is.
    """
    weight = F.interpolate(attention[None, None], image.shape[-2:], mode="bilinear", align_corners=False)[0]
    low, high = weight.aminmax()
    weight = (weight - low) / (high - low).clamp_min(1e-12)
    dark = 0.25 * (image.mean(0, keepdim=True) + 1) - 1
    return torch.lerp(dark.expand_as(image), image, weight)
