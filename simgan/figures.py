"""What SIMGAN's edits look like: a user's own photo and sentence (task=sample), the paper's figures (task=figure).

B photos, S side, D width of a sentence vector, K draws of noise, T sentences. Drawing functions give the columns of a
sheet: heading -> images in [-1, 1]. Noise is seeded, so the same command makes the same picture.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from common.data.edit_pairs import other_class
from common.data.module import ImageData
from common.errors import UserError
from common.files import short_hash
from common.pictures import (
    Columns,
    Config,
    destination,
    first_of_classes,
    listed,
    number,
    one_of,
    read_photos,
    to_picture,
    write,
)
from simgan.model import SIMGAN
from simgan.networks import Generator

log = logging.getLogger(__name__)
FIGURES = ("diversity", "compare", "interp", "cycle", "grid")


# ---- drawing


def edits(model: SIMGAN, x: Tensor, phi: Tensor, eps: Tensor) -> Columns:
    """K edits of each photo, one column for each noise. x: B,3,S,S, phi: B,D, eps: K,ca_dim."""
    return {"source": x} | {f"edit {k}": model.draw(x, phi, e.expand(len(x), -1)) for k, e in enumerate(eps, 1)}


def diversity(model: SIMGAN, x: Tensor, phi: Tensor, eps: Tensor) -> Columns:
    """Fig. 1: K edits by one sentence and the mean edit, c = mu. x: B,3,S,S, phi: B,D, eps: K,ca_dim."""
    return edits(model, x, phi, eps) | {"mean": model.draw(x, phi, mode="mean")}


def compare(methods: Mapping[str, Callable[[Tensor, list[str]], Tensor]], x: Tensor, sentences: list[str]) -> Columns:
    """Fig. 3: a column for each method, a function that edits x: B,3,S,S by B sentences."""
    return {"source": x} | {name: edit(x, sentences) for name, edit in methods.items()}


def interpolate(
    model: SIMGAN, x: Tensor, a: Tensor, b: Tensor, *, steps: int, eps: Tensor | None = None, space: str = "phi"
) -> Columns:
    """Fig. 4: G(x, (1 - alpha) phi_A + alpha phi_B) in `steps` from alpha 0 to 1. x: B,3,S,S, a and b: B,D.

    eps: B,ca_dim, shared by all steps; None = no noise. space: mix sentence vectors (phi) or their codes (c).
    """
    net, mode = cast(Generator, model.serving), "mean" if eps is None else "sample"

    def edit(alpha: float) -> Tensor:
        if space == "phi":
            return model.draw(x, (1 - alpha) * a + alpha * b, eps, mode)
        with torch.no_grad():
            c_a, c_b = (net.condition(phi, eps, mode)[0] for phi in (a, b))
        c = (1 - alpha) * c_a + alpha * c_b
        return model.serve(net, lambda g: g.edit(x, c))  # type: ignore[operator]

    return {"source": x} | {f"alpha {alpha:.3f}": edit(alpha) for alpha in torch.linspace(0, 1, steps).tolist()}


def cycle(model: SIMGAN, x: Tensor, own: Tensor, target: Tensor, eps: Tensor) -> Columns:
    """Sec. 2.2: x, x-hat, x-tilde and four times their difference, black for none. own, target: B,D, eps: B,ca_dim."""
    edit = model.draw(x, target, eps)
    back = model.take_back(edit, own)
    return {"x": x, "x-hat": edit, "x-tilde": back, "|x-tilde - x| x 4": 4 * (back - x).abs() - 1}


def grid(model: SIMGAN, x: Tensor, phi: Tensor, eps: Tensor) -> Columns:
    """A column for each photo: the photo, then its edit by each sentence. x: B,3,S,S, phi: T,D, eps: 1,ca_dim."""
    rows = [x, *(model.draw(x, p.expand(len(x), -1), eps.expand(len(x), -1)) for p in phi)]
    return {f"photo {number}": column for number, column in enumerate(torch.stack(rows, 1), 1)}


def noise(model: SIMGAN, count: int, seed: int) -> Tensor:
    """count,ca_dim from N(0, I), the same on every device."""
    draw = torch.randn(count, model.generator.ca_dim, generator=torch.Generator().manual_seed(seed))
    return draw.to(model.device)


# ---- what the user gave


def check_sentences(model: SIMGAN, sentences: Iterable[str]) -> list[str]:
    """The words that the text encoder does not know, told in one line. UserError for a sentence of nothing else."""
    model.read_text()
    assert model.text_encoder is not None
    encoder = model.text_encoder
    unknown = list(dict.fromkeys(word for sentence in sentences for word in encoder.unknown(sentence)))
    if unknown:
        log.warning("unknown words, read as <unk>: %s", ", ".join(unknown))
    return unknown


# ---- task=sample


def sample(cfg: Config, model: SIMGAN, data: ImageData, folder: Path) -> Path:
    """Every photo edited by every sentence, n times with noise of its own: a sheet, and beside it each edit as a PNG.

    `image` and `text` are one or a list; eps_scale multiplies the noise, and with 0 there is one edit, the mean.
    """
    images, texts, scale = listed(cfg["image"]), listed(cfg["text"]), cfg["eps_scale"]
    if not images or not texts:
        raise UserError("task=sample edits a photo by a sentence: give image=FILE and text='a red bird'.")
    if not isinstance(scale, int | float):
        raise UserError(f"eps_scale={scale} is not a number: set eps_scale=1.")
    count = number(cfg, "n", 1) if scale else 1
    name = f"{Path(images[0]).stem}-{short_hash([images, texts, count, scale, cfg['seed']])}.png"
    path = destination(cfg, folder, name)
    x = read_photos(images, data).to(model.device)
    unknown, phi = check_sentences(model, texts), model.encode(texts)
    pairs = list(product(range(len(images)), range(len(texts))))
    photo, sentence = torch.tensor(pairs, device=model.device).T
    columns = edits(model, x[photo], phi[sentence], scale * noise(model, count, cfg["seed"]))
    rows = []
    for row, (i, t) in enumerate(pairs):
        files = [path.with_name(f"{path.stem}-{row + 1}-{k}.png") for k in range(1, count + 1)]
        for k, file in enumerate(files, 1):
            to_picture(columns[f"edit {k}"][row]).save(file)
        rows.append({"image": images[i], "text": texts[t], "edits": [file.name for file in files]})
    facts = {"eps_scale": scale, "unknown": unknown, "rows": rows}
    return write(cfg, folder, path, columns, [texts[t] for _, t in pairs], facts)


# ---- task=figure


def figure(cfg: Config, model: SIMGAN, data: ImageData, folder: Path) -> Path:
    """The figure that cfg["figure"] names, of the user's photos and sentences or of test images and drawn sentences."""
    name, seed = one_of(cfg, "figure", FIGURES), cfg["seed"]
    path = destination(cfg, folder, f"{name}.png")
    names, x, texts = inputs(cfg, model, data)
    unknown = check_sentences(model, (text for group in texts for text in group))
    phi = torch.stack([model.encode(group) for group in texts], 1)  # T of each photo: T,B,D
    first = [group[0] for group in texts]
    match name:
        case "diversity":
            columns, above = diversity(model, x, phi[0], noise(model, number(cfg, "n", 1), seed)), first
        case "compare":
            eps = noise(model, len(x), seed)
            own = {type(model).__name__: lambda x, sentences: model.draw(x, model.encode(sentences), eps)}
            columns, above = compare(own, x, first), first
        case "interp":
            space, steps = one_of(cfg, "space", ("phi", "c")), number(cfg, "steps", 2)
            shared = noise(model, len(x), seed) if one_of(cfg, "eps", ("mean", "sample")) == "sample" else None
            columns = interpolate(model, x, phi[0], phi[1], steps=steps, eps=shared, space=space)
            above = [f"A: {a} | B: {b}" for a, b in texts]
        case "cycle":
            columns = cycle(model, x, phi[0], phi[1], noise(model, len(x), seed))
            above = [f"own: {own} | target: {target}" for own, target in texts]
        case _:
            columns, above = grid(model, x, phi[:, 0], noise(model, 1, seed)), ["the photos", *texts[0]]
    settings = {key: cfg[key] for key in ("n", "steps", "space", "eps")}
    facts = {"figure": name, **settings, "unknown": unknown, "images": names, "texts": texts}
    return write(cfg, folder, path, columns, above, facts)


def inputs(cfg: Config, model: SIMGAN, data: ImageData) -> tuple[list[str], Tensor, list[list[str]]]:
    """Names of B photos, the photos B,3,S,S and the sentences for each: A and B of interp, own and target of cycle, all
    of grid, else one.

    Where no photos are given: the first test image of each class in turn, one for diversity (or one for each sentence
    given), else n.
    """
    files, texts, name = listed(cfg["images"]), listed(cfg["texts"]), cfg["figure"]
    if files:
        x = read_photos(files, data).to(model.device)
        return files, x, arranged(name, texts, files) if texts else drawn(cfg, data, files, None)
    paired = len(texts) if name in ("diversity", "compare") else 0
    rows = first_of_classes(data, paired if paired > 1 else 1 if name == "diversity" else number(cfg, "n", 1))
    names = [data.records.keys[row] for row in rows]
    batch = next(iter(data.eval_loader(rows=rows, batch_size=len(rows), reads=("image",))))
    x = data.move(batch, model.device)["image"]
    return names, x, arranged(name, texts, names) if texts else drawn(cfg, data, names, rows)


def arranged(name: str, texts: list[str], photos: list[str]) -> list[list[str]]:
    """The user's sentences for each photo."""
    if name in ("interp", "cycle"):
        if len(texts) != 2:
            wants = "two sentences to go between" if name == "interp" else "the photo's own sentence and the edit's"
            raise UserError(f"figure={name} takes {wants}, and texts has {len(texts)}: give texts=['...','...'].")
        return [texts] * len(photos)
    if name == "grid":
        return [texts] * len(photos)
    if len(texts) not in (1, len(photos)):
        raise UserError(
            f"figure={name} edits each photo by one sentence, and there are {len(photos)} photos and {len(texts)} "
            "sentences: give one sentence, or one for each photo (figure=grid takes any number)."
        )
    return [[text] for text in (texts * len(photos) if len(texts) == 1 else texts)]


def drawn(cfg: Config, data: ImageData, photos: list[str], rows: np.ndarray | None) -> list[list[str]]:
    """Sentences for each photo where none are given: of test images, of another class than the photo's if it is known.

    rows: of the photos, or None for a user's own.
    """
    name, records, pool = cfg["figure"], data.records, data.rows("test")
    rng = np.random.default_rng(cfg["seed"])

    def other() -> list[str]:
        chosen = rng.choice(pool, len(photos)) if rows is None else other_class(rng, records.labels, pool, rows)
        return [records.captions[row][rng.integers(len(records.captions[row]))] for row in chosen]

    if name == "cycle":
        if rows is None:
            raise UserError("figure=cycle takes a photo back by its own sentence: give texts=['ITS OWN','THE EDIT'].")
        return [[records.captions[row][0], text] for row, text in zip(rows, other(), strict=True)]
    if name == "grid":
        return [other()] * len(photos)
    return [list(group) for group in zip(*(other() for _ in range(2 if name == "interp" else 1)), strict=True)]
