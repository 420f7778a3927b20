"""The paper's figures, each a function (cfg, model, data) -> Sheet; finegan/figures.py is what calls them.

B conditions, L tokens of the longest, S side. The k-th draw of a command has one noise for all rows of its sheet, so
that what differs between them is what the figure is about; the same command makes the same picture.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.module import ImageData
from common.errors import UserError
from common.pictures import Columns, Config, listed, number
from common.weights import read_weights
from finegan.conditions import Codes, groups, parse_attributes, parse_sentence, readable
from finegan.discriminators import quadrants
from finegan.edits import between, mask_between, replaced, spotlight, strongest, take
from finegan.losses import region_attention
from finegan.model import FineGAN
from finegan.networks import Drawn
from finegan.scenes import (
    Condition,
    Images,
    Masks,
    Scene,
    asked_condition,
    attended,
    conditions_for,
    drawn_masks,
    find_images,
    first_images,
    known_images,
    masks_and_conditions,
    masks_of,
    own_condition,
    pixels,
    require_masks,
    scene,
    summary,
)

COLOURS = ["wing color: red", "wing color: blue", "wing color: yellow", "wing color: white"]  # where none are given
TOP = 5  # tokens of figure=attention
STRIDE = 1_000_003  # sets the noise of one seed apart from the next's


@dataclass
class Sheet:
    """R rows of pictures and what the JSON says of them."""

    columns: Columns  # heading -> R,3,S,S in [-1, 1]
    above: list[str] = field(default_factory=list)
    facts: Config = field(default_factory=dict)
    below: list[list[str]] = field(default_factory=list)  # for each row and column


# ---- drawing


def draw(model: FineGAN, codes: Codes, masks: Tensor | None, k: int, seed: int) -> Drawn:
    """B pictures with the k-th noise of the seed, the same for all B. masks: B,1,S,S, or None where none are read.

    One at a time: the published code's attention (model.legacy) lets a picture depend on the lengths of the others.
    """
    z, eps = model.noise(torch.tensor([STRIDE * seed + k]))
    count = len(codes.sent)
    drawn = [model.draw(take(codes, [b]), None if masks is None else masks[[b]], z, eps) for b in range(count)]
    images, attention, mu, logvar = zip(*drawn, strict=True)
    stages = [tuple(map(torch.cat, zip(*each, strict=True))) for each in (images, attention)]
    return Drawn(stages[0], stages[1], torch.cat(mu), torch.cat(logvar))


def images_of(model: FineGAN, codes: Codes, masks: Tensor | None, count: int, seed: int) -> Columns:
    """A column of B pictures for each noise."""
    return {f"draw {k}": draw(model, codes, masks, k, seed).images[-1] for k in range(1, count + 1)}


def shown(masks: Tensor) -> Tensor:
    """Masks as pictures: B,1,S,S in {0, 1} -> B,3,S,S, white on black."""
    return (2 * masks - 1).expand(-1, 3, -1, -1)


def told(scene: Scene) -> list[str]:
    """The line above each picture's row."""
    pairs = zip(scene.names, scene.conditions, strict=True)
    return [f"{short(name)}: {summary(condition)}" if name else summary(condition) for name, condition in pairs]


def short(name: str) -> str:
    """The name of an image behind its folders."""
    return name.rpartition("/")[2]


def facts_of(scene: Scene) -> Config:
    masks = scene.masks.names if scene.masks else None
    return {"images": [name for name in scene.names if name], "masks": masks, "conditions": scene.conditions}


def values(masks: Masks | None) -> Tensor | None:
    return masks.values if masks else None


def with_masks(columns: Columns, masks: Masks | None) -> Columns:
    """A first column of the masks, where there are any."""
    return ({} if masks is None else {"mask": shown(masks.values)}) | columns


# ---- the figures


def grid(cfg: Config, model: FineGAN, data: ImageData, draws: int = 2) -> Sheet:
    """Test images, their masks and two pictures of each."""
    s = scene(cfg, model, data, number(cfg, "n", 1))
    columns = with_masks(images_of(model, model.encode(s.conditions), values(s.masks), draws, cfg["seed"]), s.masks)
    photos = {"photo": pixels(Images(s.names, s.rows), data, "image")} if None not in s.rows else {}
    return Sheet(photos | columns, told(s), facts_of(s))


def diversity(cfg: Config, model: FineGAN, data: ImageData) -> Sheet:
    """Fig. 5: one condition, n draws of noise."""
    s = scene(cfg, model, data, 1)
    columns = images_of(model, model.encode(s.conditions), values(s.masks), number(cfg, "n", 1), cfg["seed"])
    return Sheet(with_masks(columns, s.masks), told(s), facts_of(s))


def stages(cfg: Config, model: FineGAN, data: ImageData) -> Sheet:
    """The three stages' pictures of one draw, all shown at one size."""
    s = scene(cfg, model, data, number(cfg, "n", 1))
    drawn = draw(model, model.encode(s.conditions), values(s.masks), 1, cfg["seed"])
    columns = {f"stage {k}: {x.shape[-1]} px": x for k, x in enumerate(drawn.images, 1)}
    return Sheet(with_masks(columns, s.masks), told(s), facts_of(s))


def attributes(cfg: Config, model: FineGAN, data: ImageData) -> Sheet:
    """Fig. 10: a row for each text, a single attribute by default; a column for each noise and its mask."""
    texts, count = listed(cfg["texts"]) or default_texts(model, data), number(cfg, "n", 1)
    conditions, asked = [asked_condition(text, model) for text in texts], listed(cfg["images"])
    masks = masks_of(find_images(asked, data), model, data) if asked else drawn_masks(cfg, model, data, count)
    codes, rows = model.encode(conditions), []
    for k in range(1, count + 1):
        mask = None if masks is None else masks.values[[(k - 1) % len(masks.names)]]
        column = draw(model, codes, None if mask is None else mask.expand(len(texts), -1, -1, -1), k, cfg["seed"])
        rows.append(column.images[-1] if mask is None else torch.cat([shown(mask), column.images[-1]]))
    above = [*([] if masks is None else ["the masks"]), *map(summary, conditions)]
    facts = {"conditions": conditions, "masks": masks.names if masks else None}
    return Sheet({f"draw {k}": column for k, column in enumerate(rows, 1)}, above, facts)


def default_texts(model: FineGAN, data: ImageData) -> list[str]:
    """Colours of the wing, or the first sentences of four test images."""
    if model.inputs != "text":
        return COLOURS
    images = first_images(data, 4)
    return [str(own_condition(row, model, data)) for row in images.rows if row is not None]


def swap(cfg: Config, model: FineGAN, data: ImageData) -> Sheet:
    """One group of an image's attributes replaced by each text; the rest, noise and mask stay."""
    if model.inputs == "text":
        raise UserError("figure=swap replaces attributes and this model reads sentences: choose figure=interp.")
    images = known_images(cfg, data)
    changes = [asked_condition(text, model) for text in listed(cfg["texts"]) or COLOURS]
    own = conditions_for(images, [], model, data)
    assert model.encoders is not None
    names = model.encoders.names
    masks = masks_of(images, model, data)
    lists = [own]
    for change in changes:
        new = parse_attributes(change, names)
        lists.append([[names[i - 1] for i in replaced(parse_attributes(c, names), new, groups(names))] for c in own])
    columns: Columns = {"photo": pixels(images, data, "image")} | with_masks({}, masks)
    labels = [*([""] * len(columns)), "as listed", *map(summary, changes)]
    for k, conditions in enumerate(lists):
        drawn = draw(model, model.encode(conditions), values(masks), 1, cfg["seed"])
        columns[f"swap {k}" if k else "own"] = drawn.images[-1]
    above = [f"{short(name)}: {summary(c)}" for name, c in zip(images.names, own, strict=True)]
    facts = {"images": images.names, "masks": masks.names if masks else None, "conditions": lists, "changes": changes}
    return Sheet(columns, above, facts, [labels] * len(own))


def mask_swap(cfg: Config, model: FineGAN, data: ImageData) -> Sheet:
    """Every condition in every mask, with one noise: a row for each condition, a column for each mask."""
    masks, conditions = masks_and_conditions(cfg, model, data, number(cfg, "n", 1))
    count = len(conditions)
    codes = model.encode(conditions)
    columns = {}
    for k, mask in enumerate(masks.values, 1):
        drawn = draw(model, codes, mask.expand(count, -1, -1, -1), 1, cfg["seed"])
        columns[f"mask {k}"] = torch.cat([shown(mask[None]), drawn.images[-1]])
    facts = {"masks": masks.names, "conditions": conditions}
    return Sheet(columns, ["the masks", *map(summary, conditions)], facts)


def mask_interp(cfg: Config, model: FineGAN, data: ImageData) -> Sheet:
    """From one mask to another by their signed distances; a row for each condition, one noise."""
    masks, conditions = masks_and_conditions(cfg, model, data, 2)
    if len(masks.names) != 2:
        raise UserError(
            f"figure=mask_interp goes from one mask to another, and {len(masks.names)} are given: give two."
        )
    conditions = conditions if cfg["texts"] else conditions[:1]
    codes, columns = model.encode(conditions), {}
    a, b = masks.values[:, 0]
    for alpha in torch.linspace(0, 1, number(cfg, "steps", 2)).tolist():
        mask = mask_between(a, b, alpha)[None, None]
        drawn = draw(model, codes, mask.expand(len(conditions), -1, -1, -1), 1, cfg["seed"])
        columns[f"alpha {alpha:.3f}"] = torch.cat([shown(mask), drawn.images[-1]])
    return Sheet(columns, ["the masks", *map(summary, conditions)], {"masks": masks.names, "conditions": conditions})


def interp(cfg: Config, model: FineGAN, data: ImageData) -> Sheet:
    """From one sentence code to another in `steps`, with one noise and mask: once with the words of each end."""
    s = scene(cfg, model, data, 2)
    if len(s.conditions) != 2:
        raise UserError(
            f"figure=interp goes between two conditions, and {len(s.conditions)} are given: give two texts."
        )
    codes = model.encode(s.conditions)
    a, b = take(codes, [0]), take(codes, [1])
    mask = s.masks.values[:1] if s.masks else None
    columns = {}
    for alpha in torch.linspace(0, 1, number(cfg, "steps", 2)).tolist():
        ends = between(a, b, alpha), between(b, a, 1 - alpha)
        columns[f"alpha {alpha:.3f}"] = torch.cat([draw(model, c, mask, 1, cfg["seed"]).images[-1] for c in ends])
    above = [f"A to B, words of {end}: {summary(c)}" for end, c in zip("AB", s.conditions, strict=True)]
    facts = facts_of(s) | ({"masks": s.masks.names[:1]} if s.masks else {})
    return Sheet(columns, above, facts)


def attention(cfg: Config, model: FineGAN, data: ImageData) -> Sheet:
    """Fig. 3: where stages 2 and 3 attend to the tokens, and DAMSM's regions of them in the picture and in the photo.

    The five tokens that stage 3 attends to most, each map stretched over its own range; below it its largest value.
    """
    s, photos = attended(cfg, model, data)
    codes = model.encode(s.conditions)
    drawn = draw(model, codes, values(s.masks), 1, cfg["seed"])
    picture = drawn.images[-1]
    views = {
        "stage 2": (F.interpolate(drawn.images[1], picture.shape[-2:]), drawn.attention[0]),
        "stage 3": (picture, drawn.attention[1]),
        "DAMSM on the picture": (picture, regions_of(model, picture, codes)),
    }
    if photos is not None:
        views["DAMSM on the photo"] = (photos, regions_of(model, photos, codes))
    sheet, tiles = Sheet({}, facts=facts_of(s)), []
    for b, (name, condition) in enumerate(zip(s.names, s.conditions, strict=True)):
        tokens = tokens_of(condition, model)
        best = strongest(drawn.attention[1][b], len(tokens), TOP)
        for view, (pictures, maps) in views.items():
            lit = [spotlight(pictures[b], maps[b, token]) for token in best]
            blank = [torch.ones_like(pictures[b])] * (TOP - len(best))
            tiles.append([pictures[b], *lit, *blank])
            sheet.above.append(f"{short(name)} | {view}" if name else view)
            peaks = [f"{tokens[token]} ({maps[b, token].max():.3f})" for token in best]
            sheet.below.append(["", *peaks, *[""] * len(blank)])
    headings = ["picture", *(f"token {k}" for k in range(1, TOP + 1))]
    columns = zip(*tiles, strict=True)
    sheet.columns = {heading: torch.stack(column) for heading, column in zip(headings, columns, strict=True)}
    return sheet


@torch.no_grad()
def regions_of(model: FineGAN, pictures: Tensor, codes: Codes) -> Tensor:
    """DAMSM's attention of each picture's own tokens over its regions: B,3,S,S -> B,L,h,w, summing to 1 over h,w."""
    assert model.image_encoder is not None
    regions, _ = model.image_encoder(pictures)
    flat = regions.float().flatten(2)
    each = [region_attention(flat[[b]], codes.words[[b]], codes.pad[[b]], model.gammas[0])[0] for b in range(len(flat))]
    return torch.cat(each)[:, 0].unflatten(2, regions.shape[-2:])


def tokens_of(condition: Condition, model: FineGAN) -> list[str]:
    """What stands at each place of a condition."""
    if not isinstance(condition, str):
        return [readable(name) for name in condition]
    assert model.encoders is not None
    return [model.encoders.names[one - 1] for one in parse_sentence(condition, model.encoders.names)]


def inputs(cfg: Config, model: FineGAN, data: ImageData) -> Sheet:
    """Fig. 6 and 7: what the discriminators see of a photo and of a drawing, whole and under the mask, in quadrants."""
    require_masks(cfg, model)
    images = known_images(cfg, data)
    masks, conditions = masks_of(images, model, data), conditions_for(images, [], model, data)
    assert masks is not None
    m = masks.values
    drawn = draw(model, model.encode(conditions), m, 1, cfg["seed"]).images[-1]
    x = torch.stack([pixels(images, data, "image").to(drawn), drawn], 1).flatten(0, 1)  # photo, drawing, photo, ...
    m = m.repeat_interleave(2, 0)
    columns: Columns = {"x": x, "m": shown(m), "x * m": model.under(x, m)}
    for name in ("x", "x * m"):
        for corner, part in zip(("TL", "TR", "BL", "BR"), quadrants(columns[name]).chunk(4), strict=True):
            columns[f"{name}, {corner}"] = part
    above = [f"{short(name)}: {what}" for name in images.names for what in ("photo", "drawing")]
    return Sheet(columns, above, {"images": images.names, "conditions": conditions})


def triplets(cfg: Config, model: FineGAN, data: ImageData) -> Sheet:
    """Fig. 11: test images, another model's drawings from its own conditions (other=FILE), and this model's."""
    images = known_images(cfg, data)
    columns: Columns = {"ground truth": pixels(images, data, "image")}
    facts: Config = {"images": images.names, "other": cfg["other"]}
    models, below = {"ours": model}, [[""] * len(images.names)]
    if cfg["other"]:
        other = load_other(cfg["other"], model)
        if other.inputs == "text" and not data.records.captions:
            raise UserError(f"{cfg['other']} reads captions: add data.reads=[image,mask,attributes,caption].")
        models = {"AttnGAN" if other.inputs == "text" else "other": other} | models
    for heading, each in models.items():
        conditions = conditions_for(images, [], each, data)
        drawn = draw(each, each.encode(conditions), values(masks_of(images, each, data)), 1, cfg["seed"])
        columns[heading], facts[heading] = drawn.images[-1], conditions
        below.append([summary(condition) for condition in conditions])
    return Sheet(columns, list(map(short, images.names)), facts, [list(row) for row in zip(*below, strict=True)])


def load_other(file: str, model: FineGAN) -> FineGAN:
    """The model of a checkpoint or an exported file, on this model's device."""
    content = read_weights(file)
    if content.get("kind") == "finegan":
        other = FineGAN.load(file)
    elif content.get("suite", {}).get("model") == "FineGAN":
        other = FineGAN(**content["hyper_parameters"])
        other.restore(file)
    else:
        raise UserError(f"other={file} is not of model=attngan or finegan: give a checkpoint or an export of theirs.")
    if other.image_size != model.image_size:
        raise UserError(
            f"other={file} draws {other.image_size}x{other.image_size} and this model "
            f"{model.image_size}x{model.image_size}: give two models of one size."
        )
    other.cleaned = other.cleaned or model.cleaned
    return other.to(model.device).eval()
