"""Score a model: each image is drawn once, seen once by each network that judges it, and every number is labelled."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from common.classifier import load_classifier
from common.config import build
from common.data.module import ImageData
from common.data.records import Sample
from common.errors import UserError, choose
from common.files import read_cached, short_hash
from common.gan import EvaluationSet, GANModule
from common.metrics.extractors import (
    ClassifierExtractor,
    Extractor,
    InceptionExtractor,
    TorchvisionInception,
    extract,
)
from common.metrics.functions import ENOUGH, MEANINGS, TOLD, Features, Meaning, metric_key, score, to_uint8
from common.weights import KNOWN_FILES, find_weights

log = logging.getLogger(__name__)
Numbers = dict[str, float | None]
ARROWS = {"higher": "\u2191", "lower": "\u2193", "": ""}
WITHHELD = ("fid", "is_", "mask_is_")  # below ENOUGH images
EXTRACTORS = ("auto", "inception", "classifier", "torchvision", None)


class Seen(NamedTuple):
    """What the extractor of FID, KID and IS made of all images."""

    images: Features  # those that were generated, in their order
    beside: Features | None  # those that `Measure.update` gave, likewise
    real: Features  # the photos that they are held against
    photos: Callable[[np.ndarray], Features]  # other photos of the data set, by their rows
    shown: bool  # whether FID and IS may be: `metrics.allow_few`


class Measure(Protocol):
    """A paper's own numbers, gathered batch by batch beside the common ones.

    MEANINGS: how they are read, by patterns of their names, the paper's own first. In `not_measured` of the protocol
    the beginnings of names that are null have their reason, "sim, mp": "no judge".
    """

    MEANINGS: ClassVar[Mapping[str, Meaning]]

    def update(self, batch: Sample, images: Tensor, sentences: list[str]) -> Tensor | None:
        """batch on the device; images B,3,S,S float in [-1, 1], what the model made of it; its B target sentences.

        -> what else the extractor is to see, B,3,S,S uint8, one for each image.
        """

    def compute(self, seen: Seen | None) -> Numbers:
        """Every number by name; None = not measured, and `protocol` says why. seen: None without an extractor."""

    def protocol(self) -> dict[str, Any]:
        """What the numbers depend on, plain values."""


def extractor_for(options: dict[str, Any], classifier: str | None) -> Extractor | None:
    """The network of FID, KID and IS: the standard Inception where it is on disk, else the data set's classifier."""
    if choose("metrics.extractor", options["extractor"], EXTRACTORS) is None:
        return None
    if options["extractor"] == "torchvision":
        path = find_weights("inception_v3", options["inception"])
        if path is None:
            raise UserError(
                f"{KNOWN_FILES['inception_v3'].name} of torchvision is not on disk: give metrics.inception=FILE."
            )
        return TorchvisionInception(path)
    weights = None if options["extractor"] == "classifier" else find_weights("inception", options["inception"])
    if weights is not None:
        return InceptionExtractor(weights)
    if options["extractor"] == "inception" or classifier is None:
        raise UserError(
            "the 2015-12-05 Inception weights are not on disk: give metrics.inception=FILE, or let a classifier stand "
            "in with metrics.extractor=auto (its numbers are labelled and compare with nothing else)"
        )
    return ClassifierExtractor(load_classifier(classifier))


def needs_classifier(options: dict[str, Any]) -> bool:
    """Whether `extractor_for` will ask for a classifier, so that none is trained in vain."""
    kind = options["extractor"]
    return kind == "classifier" or (kind == "auto" and find_weights("inception", options["inception"]) is None)


def real_features(extractor: Extractor, data: ImageData, folder: Path, batch_size: int, wanted: np.ndarray) -> Features:
    """Features of these images, in their order; kept beside the other artifacts: no run embeds an image again."""
    rows, place = np.unique(wanted, return_inverse=True)
    store = [str(data.store.folder.name), data.image_size, [int(row) for row in rows]]
    path = folder / f"features_{data.records.name}_{extractor.name}-{short_hash([store, extractor.hash])}.pt"

    def embed(part: Path) -> None:
        device = next(extractor.parameters()).device
        loader = data.eval_loader(rows=rows, batch_size=batch_size, reads=("image",))
        found = extract(extractor, (to_uint8(data.move(batch, device)["image"]) for batch in loader))
        torch.save({name: getattr(found, name) for name in Features.__dataclass_fields__}, part)

    found = read_cached(path, embed, lambda whole: Features(**torch.load(whole, weights_only=True)))
    return found[torch.from_numpy(place)]


def images_from(
    model: GANModule, data: ImageData, chosen: EvaluationSet, measure: Measure, rounding: Literal["round", "floor"]
) -> Iterator[Tensor]:
    """What the model makes of the set, uint8, batch by batch; after each image what `measure` gives beside it."""
    done = 0
    for loaded in chosen.batches:
        batch = data.move(loaded, model.device)
        images = model.sample(batch)
        beside = measure.update(batch, images, list(chosen.text[done : done + len(images)]))
        done += len(images)
        made = to_uint8(images, rounding=rounding)
        yield made if beside is None else torch.stack([made, beside], 1).flatten(0, 1)


def evaluate(
    model: GANModule,
    data: ImageData,
    options: dict[str, Any],
    measures: dict[str, Any],
    files: dict[str, str | None],
    folder: Path,
) -> tuple[Numbers, dict[str, Any], dict[str, float]]:
    """Numbers, protocol and cost of a model on its evaluation set.

    options: `metrics` of the configuration, and `pairs`, a file or None. measures: the paper's own Measure as a
    `_target_`. files: artifacts of needed networks. folder: where pairs and the features of real images are kept.
    """
    began, on_gpu = time.perf_counter(), model.device.type == "cuda"
    batch_size = 64 if on_gpu else 16
    model.eval()
    model.before_scoring(data)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = model.evaluation_set(data, options | {"folder": folder, "batch_size": batch_size})
    extractor = extractor_for(options, files.get("classifier"))
    measure: Measure = build(measures, model=model, data=data, options=options, files=files)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    images = images_from(model, data, chosen, measure, options["pixels"])
    protocol: dict[str, Any] = {"data": data.records.name, "procedural": data.records.procedural}
    numbers: Numbers = {}
    seen: Seen | None = None
    if extractor is None:
        for _ in images:
            pass
    else:
        extractor.to(model.device)

        def photos(rows: np.ndarray) -> Features:
            return real_features(extractor, data, folder, batch_size, rows)

        found = extract(extractor, images)
        each = len(found) // len(chosen.text)  # 2 with what stands beside the images
        made, real = found[::each], photos(chosen.real_rows)
        numbers, told = judged(real, made, chosen.reference, options, shuffle=not chosen.in_order)
        seen = Seen(made, found[1::2] if each > 1 else None, real, photos, "withheld" not in told)
        protocol |= told
    numbers |= measure.compute(seen)
    protocol |= measure.protocol()
    if chosen.file is not None:
        protocol["pairs"] = chosen.file.name
    protocol |= {"plan": chosen.kind, "n_pairs": len(chosen.text), "image_size": data.image_size}
    seconds = time.perf_counter() - began
    cost = {"seconds": round(seconds, 2), "images_per_second": round(len(chosen.text) / seconds, 2)}
    if on_gpu:
        cost["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
    return numbers, protocol, cost


def judged(
    real: Features, fake: Features, reference: str, options: dict[str, Any], *, shuffle: bool
) -> tuple[Numbers, dict[str, Any]]:
    """FID, KID and IS of `fake`, with the protocol. shuffle: see `score`.

    Without metrics.allow_few FID and IS of few images are withheld.
    """
    subset = options["kid_subset_size"]
    values, labels = score(
        real,
        fake,
        reference=reference,
        pixels=options["pixels"],
        splits=min(options["splits"], len(fake)),
        kid_subset=subset if subset <= min(len(real), len(fake)) else None,
        kid_subsets=options["kid_subsets"],
        shuffle=shuffle,
        allow_few=True,
    )
    numbers: Numbers = {**values}
    protocol = asdict(labels)
    if not shuffle:
        protocol["is_order"] = "as listed"
    if labels.few and not options["allow_few"]:  # the rest is worth having: a fit of days is not refused at its end
        numbers |= {name: None for name in values if not name.startswith("kid")}
        protocol["withheld"] = f"FID and IS, mostly bias below {ENOUGH:,} images: metrics.allow_few=true shows them"
        log.warning("withheld: %s", protocol["withheld"])
    return numbers, protocol


def summary(numbers: Numbers, protocol: Mapping[str, Any], meanings: Mapping[str, Meaning]) -> str:
    """Numbers as a run prints them: the paper's own first, each with the way that is better and its unit; what is null
    in a line for each reason. meanings: of the paper's Measure."""
    known = {**meanings, **MEANINGS}

    def place(name: str) -> int:
        bare = name.partition("@")[0]
        return next((k for k, pattern in enumerate(known) if fnmatch(bare, pattern)), len(known))

    lines, absent = [], dict[str, list[str]]()
    for name in sorted(numbers, key=place):
        value, meaning = numbers[name], [*known.values(), TOLD][place(name)]
        if value is None:
            absent.setdefault(reason(name, protocol), []).append(name)
        else:
            told = f"{value:10.4f}" if isinstance(value, float) else f"{value:10}"
            lines.append(f"  {name:32} {told} {ARROWS[meaning.better]:1} {meaning.unit}".rstrip())
    lines += [f"  not measured: {', '.join(names)}: {why}" for why, names in absent.items()]
    text = "\n".join(lines)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a terminal without arrows
        for better, arrow in ARROWS.items():
            text = text.replace(arrow, f"{better} is better") if arrow else text
    return text


def reason(name: str, protocol: Mapping[str, Any]) -> str:
    """Why a number is null, as far as the protocol says."""
    bare = name.partition("@")[0]
    if "withheld" in protocol and bare.startswith(WITHHELD) and name == metric_key(bare, protocol["extractor"]):
        return str(protocol["withheld"])
    for beginnings, why in protocol.get("not_measured", {}).items():
        if any(fnmatch(name, f"{beginning}*") for beginning in beginnings.split(", ")):
            return str(why)
    return "there is nothing to measure it on"
