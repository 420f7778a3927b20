"""The figures of SIMGAN, each a function (model, data, request) -> Sheet.

B photos, S side, D width of a sentence vector, T sentences. A request's images are files or test images, its texts
sentences; where none are named, test images and sentences of other classes. Noise is seeded, so the same command makes
the same picture.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from common.data.module import ImageData
from common.data.sampling import other_class
from common.errors import UserError, choose
from common.pictures import Images, Request, Sheet, find_images, first_images, pixels
from simgan.networks import Generator
from simgan.serving import Editor


def grid(model: Editor, data: ImageData, request: Request) -> Sheet:
    """A column for each photo: the photo, then its edit by each sentence."""
    images = asked(data, request, request.n)
    texts = [list(request.texts) or others(data, images, np.random.default_rng(request.seed))] * len(images.names)
    x, phi = photos(model, data, images), encoded(model, texts)[:, 0]
    eps = model.noise(1, request.seed).expand(len(x), -1)
    rows = [x, *(model.infer(x, p.expand(len(x), -1), eps) for p in phi)]
    columns = {f"photo {number}": column for number, column in enumerate(torch.stack(rows, 1), 1)}
    return Sheet(columns, ["the photos", *texts[0]], facts(model, images, texts))


def diversity(model: Editor, data: ImageData, request: Request) -> Sheet:
    """Fig. 1: n edits by one sentence and the mean edit, c = mu."""
    sheet = model.respond(data, edits_asked(data, request, 1))
    rows, x = sheet.facts["rows"], torch.as_tensor(sheet.columns["source"])
    mean = model.infer(x, model.encode([row["text"] for row in rows]), mode="mean")
    told = {"images": [row["image"] for row in rows], "texts": [[row["text"]] for row in rows]}
    return Sheet({**sheet.columns, "mean": mean}, sheet.above, {"unknown": sheet.facts["unknown"], **told})


def compare(model: Editor, data: ImageData, request: Request) -> Sheet:
    """Fig. 3: photos and what the model makes of them, each with a noise of its own."""
    request = edits_asked(data, request, request.n)
    image, text = request.pairs()
    images, texts = find_images([request.images[i] for i in image], data), [[request.texts[t]] for t in text]
    x = photos(model, data, images)
    edit = model.infer(x, encoded(model, texts)[0], model.noise(len(x), request.seed))
    columns = {"source": x, type(model).__name__: edit}
    return Sheet(columns, [own for (own,) in texts], facts(model, images, texts))


def interp(model: Editor, data: ImageData, request: Request) -> Sheet:
    """Fig. 4: from one sentence to another, G(x, (1 - alpha) phi_A + alpha phi_B) in `steps` from alpha 0 to 1.

    pictures.space: mix sentence vectors (phi) or their codes (c). pictures.eps: no noise (mean), or one for all steps.
    """
    space = choose("pictures.space", request.settings["space"], ("phi", "c"))
    noisy = choose("pictures.eps", request.settings["eps"], ("mean", "sample")) == "sample"
    images = asked(data, request, request.n)
    rng = np.random.default_rng(request.seed)
    texts = two_each(request, images, "interp", "two sentences to go between") or [
        list(both) for both in zip(others(data, images, rng), others(data, images, rng), strict=True)
    ]
    x, (a, b) = photos(model, data, images), encoded(model, texts)
    eps = model.noise(len(x), request.seed) if noisy else None
    columns = {"source": x} | {
        f"alpha {alpha:.3f}": between(model, x, a, b, alpha, eps, space)
        for alpha in torch.linspace(0, 1, request.steps).tolist()
    }
    return Sheet(columns, [f"A: {a} | B: {b}" for a, b in texts], facts(model, images, texts))


def cycle(model: Editor, data: ImageData, request: Request) -> Sheet:
    """Sec. 2.2: x, x-hat, x-tilde and four times their difference, black for none; two texts are own and target."""
    images = asked(data, request, request.n)
    texts = two_each(request, images, "cycle", "the photo's own sentence and the edit's")
    if not texts and not images.known:
        raise UserError("figure=cycle takes a photo back by its own sentence: give texts=['ITS OWN','THE EDIT'].")
    if not texts:
        own = [data.records.captions[row][0] for row in images.rows if row is not None]
        edits = others(data, images, np.random.default_rng(request.seed))
        texts = [list(both) for both in zip(own, edits, strict=True)]
    x, (phi, target) = photos(model, data, images), encoded(model, texts)
    edit = model.infer(x, target, model.noise(len(x), request.seed))
    back = model.take_back(edit, phi)
    columns = {"x": x, "x-hat": edit, "x-tilde": back, "|x-tilde - x| x 4": 4 * (back - x).abs() - 1}
    return Sheet(columns, [f"own: {own} | target: {target}" for own, target in texts], facts(model, images, texts))


# ---- what is edited by what


def asked(data: ImageData, request: Request, count: int) -> Images:
    """The user's images, or `count` test images."""
    return find_images(request.images, data) if request.images else first_images(data, count)


def edits_asked(data: ImageData, request: Request, count: int) -> Request:
    """With images and texts named: `count` test images where there are none, or one for each of several sentences."""
    images = asked(data, request, max(len(request.texts), 1) if len(request.texts) > 1 else count)
    texts = request.texts or others(data, images, np.random.default_rng(request.seed))
    return replace(request, images=images.names, texts=texts)


def others(data: ImageData, images: Images, rng: np.random.Generator) -> list[str]:
    """A sentence of a test image for each photo, of another class than the photo's if it is known."""
    records, pool = data.records, data.rows("test")
    rows = np.array(images.rows) if images.known else None
    chosen = rng.choice(pool, len(images.names)) if rows is None else other_class(rng, records.labels, pool, rows)
    return [records.captions[row][rng.integers(len(records.captions[row]))] for row in chosen]


def two_each(request: Request, images: Images, name: str, wanted: str) -> list[list[str]]:
    """The user's two sentences for each photo; none where none are named."""
    if len(request.texts) not in (0, 2):
        raise UserError(f"figure={name} takes {wanted}, and texts has {len(request.texts)}: give texts=['...','...'].")
    return [list(request.texts)] * len(images.names) if request.texts else []


def photos(model: Editor, data: ImageData, images: Images) -> Tensor:
    """B,3,S,S on the model's device."""
    return pixels(images, data).to(model.device)


def encoded(model: Editor, texts: Sequence[list[str]]) -> Tensor:
    """phi of the T sentences of each photo: T,B,D."""
    return torch.stack([model.encode(group) for group in texts], 1)


def between(model: Editor, x: Tensor, a: Tensor, b: Tensor, alpha: float, eps: Tensor | None, space: str) -> Tensor:
    """The edit of x: B,3,S,S at alpha from phi_A to phi_B: B,D. eps: B,ca_dim, or None for none."""
    mode = "mean" if eps is None else "sample"
    if space == "phi":
        return model.infer(x, (1 - alpha) * a + alpha * b, eps, mode)
    net = cast(Generator, model.serving)
    with torch.no_grad():
        c_a, c_b = (net.condition(phi, eps, mode)[0] for phi in (a, b))
    c = (1 - alpha) * c_a + alpha * c_b
    return model.serve(net, lambda g: g.edit(x, c))  # type: ignore[operator]


def facts(model: Editor, images: Images, texts: Sequence[list[str]]) -> dict[str, object]:
    unknown = model.unknown_words(sentence for group in texts for sentence in group)
    return {"unknown": unknown, "images": images.names, "texts": texts}
