"""Score a model: each edit is drawn once, seen once by each network that judges it, and every number is labelled."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from common.classifier import load_classifier
from common.config import build
from common.data.edit_pairs import Pairs, make_pairs, read_csv, write_csv
from common.data.module import ImageData
from common.data.poses import MASK_RADIUS, on_body, pose_mask
from common.data.records import FRAME, Sample
from common.errors import UserError, choose
from common.files import cached, read_cached, short_hash
from common.gan import GANModule
from common.metrics.colour_match import ColourMatch
from common.metrics.extractors import (
    ClassifierExtractor,
    Extractor,
    InceptionExtractor,
    TorchvisionInception,
    extract,
)
from common.metrics.functions import ENOUGH, SEED, Features, fid, inception_score, metric_key, score, to_uint8
from common.weights import KNOWN_FILES, find_weights

log = logging.getLogger(__name__)
Numbers = dict[str, float | None]
EXTRACTORS = ("auto", "inception", "classifier", "torchvision", None)


class Measure(Protocol):
    """A paper's own numbers, gathered batch by batch beside the common ones."""

    def update(self, batch: Sample, images: Tensor, sentences: list[str]) -> None:
        """batch on the device; images B,3,S,S float in [-1, 1], what the model made of it; its B target sentences."""

    def compute(self, drawn: Features | None) -> Numbers:
        """Every number by name; None = not measured, and `protocol` says why. drawn: of all the images in their order,
        None without an extractor."""

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


def evaluation_pairs(data: ImageData, options: dict[str, Any], folder: Path) -> tuple[Pairs, Path | None]:
    """The fixed pairs of a data set's test classes, written once; every method is scored on the same file.

    plan=passes: the test images themselves, for models that draw from conditions.
    """
    if options["plan"] == "passes":
        return passes(data, options["images"]), None
    if options.get("pairs"):
        path = Path(options["pairs"])
        return read_csv(path, data.records), path
    made = make_pairs(data.records, "test", options["pairs_per_image"], options["seed"])
    records = data.records
    digest = short_hash([records.fingerprint(("caption",)), options["pairs_per_image"], options["seed"]])
    path = folder / f"pairs_{records.name}_test-{digest}.csv"
    cached(path, lambda part: write_csv(made, records, part))
    return made, path


class Plan(NamedTuple):
    """What is drawn, and the real photos that it is held against."""

    batches: Iterable[dict[str, Tensor]]
    text: Sequence[str]  # a target sentence for each item, "" where a model reads none
    real: np.ndarray  # rows of the photos, as often as they count
    reference: str  # in words
    file: Path | None  # of the pairs, where they were drawn here
    targets: np.ndarray | None = None  # rows of the photos that are aimed at, where there are any


def plan_of(data: ImageData, options: dict[str, Any], folder: Path, batch_size: int) -> Plan:
    """plan=pose_pairs: the data set's own test pairs in their order, or the first `images` of them; see `people`.
    Others: see `evaluation_pairs`; against all test images."""
    if options["plan"] == "pose_pairs":
        chosen = data.pose_pairs("test")[: options["images"]]
        batches = data.pose_pair_loader("test", batch_size, chosen)
        rows, words = people(data, options["reference"], chosen[:, 1])
        reference = f"{data.records.name}, {words}, {data.image_size}"
        return Plan(batches, [""] * len(chosen), rows, reference, None, chosen[:, 1])
    pairs, path = evaluation_pairs(data, options, folder)
    reference = f"{data.records.name} test, centre crop {data.image_size}"
    return Plan(data.pair_loader(pairs, batch_size), pairs.text, data.rows("test"), reference, path)


def people(data: ImageData, reference: str, targets: np.ndarray) -> tuple[np.ndarray, str]:
    """Rows of the photos that FID and KID of pairs of poses are held against, and what they are. reference: train, each
    training photo that shows somebody (GFLA), or targets, the target photos, each as often as it is aimed at."""
    if choose("metrics.reference", reference, ("train", "targets")) == "targets":
        return targets, "target photos of the test pairs"
    rows, joints = data.rows("train"), data.records.joints
    assert joints is not None  # or there would be no poses to draw
    rows = rows[(joints[rows] >= 0).all(-1).any(-1)]
    if len(rows) < 2:
        raise UserError(
            f"{data.records.name} in {data.records.root} has no training photos of people to hold FID against: set "
            "metrics.reference=targets"
        )
    return rows, "training photos of people"


def passes(data: ImageData, images: int | None) -> Pairs:
    """The usable test images in file order, over and over until there are `images` (null: once); the caption of pass p
    is the p-th, in turn. Each item is its own target and has noise of its own."""
    rows = data.rows("test")
    number = np.arange(images or len(rows))
    row, turn = rows[number % len(rows)], number // len(rows)
    captions = data.records.captions
    caption = turn % np.array([len(captions[r]) for r in row]) if captions else np.zeros_like(turn)
    text = tuple(captions[r][k] for r, k in zip(row, caption, strict=True)) if captions else ("",) * len(row)
    return Pairs(pair_id=number, row=row, caption=caption, other_row=row, other_caption=caption, text=text)


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


def evaluate(
    model: GANModule,
    data: ImageData,
    options: dict[str, Any],
    measures: dict[str, Any],
    files: dict[str, str | None],
    folder: Path,
) -> tuple[Numbers, dict[str, Any], dict[str, float]]:
    """Numbers, protocol and cost of a model on the test classes.

    options: conf/metrics. measures: the paper's own Measure as a `_target_`. files: artifacts of needed networks.
    folder: where pairs and the features of real images are kept.
    """
    began = time.perf_counter()
    device = model.device
    model.eval()
    model.before_scoring(data)
    folder.mkdir(parents=True, exist_ok=True)
    batch_size = 64 if device.type == "cuda" else 16
    plan = plan_of(data, options, folder, batch_size)
    extractor = extractor_for(options, files.get("classifier"))
    if extractor is not None:
        extractor.to(device)
    masked = extractor is not None and plan.targets is not None and options["masked"]
    own: list[Measure] = [build(measures, model=model, data=data, options=options, files=files)]
    if data.records.procedural and options["plan"] == "pairs":
        own.append(ColourMatches(data))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def edits() -> Iterator[Tensor]:
        """What is drawn, uint8; masked: after each image the same with nothing but the body of its target's pose."""
        done = 0
        for loaded in plan.batches:
            batch = data.move(loaded, device)
            images = model.sample(batch)
            sentences = list(plan.text[done : done + len(images)])
            for measure in own:
                measure.update(batch, images, sentences)
            done += len(images)
            drawn, side = to_uint8(images, rounding=options["pixels"]), images.shape[-1]
            if masked:
                mask = pose_mask(batch["target_joints"], side, radius=MASK_RADIUS * side / FRAME)
                drawn = torch.stack([drawn, on_body(drawn, mask)], 1).flatten(0, 1)
            yield drawn

    numbers: Numbers = {}
    protocol: dict[str, Any] = {"data": data.records.name, "procedural": data.records.procedural}
    fake: Features | None = None
    if extractor is None:
        for _ in edits():
            pass
    else:
        fake, also = extract(extractor, edits()), {}
        if masked:
            fake, also["mask_is_mean", "mask_is_std"] = fake[::2], fake[1::2]
            protocol["mask_is"] = "all but the pose mask of the target black"
        if plan.targets is not None:  # what a perfect model would have
            of_targets = real_features(extractor, data, folder, batch_size, plan.targets)
            also["is_of_targets", "is_of_targets_std"] = of_targets
        real = real_features(extractor, data, folder, batch_size, plan.real)
        # GGB and PG2 take consecutive splits
        numbers, told = judged(real, fake, also, plan.reference, options, shuffle=plan.targets is None)
        if plan.targets is not None:  # no model can be expected to come nearer to other people's photos
            found = None if "withheld" in told else fid(real, of_targets)
            numbers[metric_key("fid_of_targets", extractor.name)] = found
        protocol |= told
    for measure in own:
        numbers |= measure.compute(fake)
        protocol |= measure.protocol()
    if plan.file is not None:
        protocol["pairs"] = plan.file.name
    protocol |= {"plan": options["plan"], "n_pairs": len(plan.text), "image_size": data.image_size}
    seconds = time.perf_counter() - began
    cost = {"seconds": round(seconds, 2), "images_per_second": round(len(plan.text) / seconds, 2)}
    if device.type == "cuda":
        cost["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
    return numbers, protocol, cost


def judged(
    real: Features,
    fake: Features,
    also: dict[tuple[str, str], Features],
    reference: str,
    options: dict[str, Any],
    *,
    shuffle: bool,
) -> tuple[Numbers, dict[str, Any]]:
    """FID, KID and IS of `fake`, and IS of other images under names of their own; with the protocol.

    shuffle: see `score`. Without metrics.allow_few FID and IS of few images are withheld.
    """
    subset, splits = options["kid_subset_size"], min(options["splits"], *map(len, (fake, *also.values())))
    values, labels = score(
        real,
        fake,
        reference=reference,
        pixels=options["pixels"],
        splits=splits,
        kid_subset=subset if subset <= min(len(real), len(fake)) else None,
        kid_subsets=options["kid_subsets"],
        shuffle=shuffle,
        allow_few=True,
    )
    for names, features in also.items():
        found = inception_score(features.logits, splits=splits, seed=SEED if shuffle else None)
        values |= {metric_key(name, fake.extractor): value for name, value in zip(names, found, strict=True)}
    numbers: Numbers = {**values}
    protocol = asdict(labels)
    if not shuffle:
        protocol["is_order"] = "as listed"
    if labels.few and not options["allow_few"]:  # the rest is worth having: a fit of days is not refused at its end
        numbers |= {name: None for name in values if not name.startswith("kid")}
        protocol["withheld"] = f"FID and IS, mostly bias below {ENOUGH:,} images: metrics.allow_few=true shows them"
        log.warning("withheld: %s", protocol["withheld"])
    return numbers, protocol


class ColourMatches:
    """The control metric on procedural data: do the colours of the edit match its sentence? The source photo, which
    ignores the sentence, gives the level of chance."""

    def __init__(self, data: ImageData) -> None:
        ratio = data.load_size / data.image_size
        self.edit, self.source = (
            ColourMatch(data.records, load_ratio=ratio, bbox_crop=data.bbox_crop) for _ in range(2)
        )

    def update(self, batch: Sample, images: Tensor, sentences: list[str]) -> None:
        self.edit.update(images, batch["row"], sentences)
        self.source.update(batch["image"], batch["row"], sentences)

    def compute(self, drawn: Features | None) -> Numbers:
        source = self.source.compute()
        return {**self.edit.compute(), "colour_match_of_source": source["colour_match"]}

    def protocol(self) -> dict[str, Any]:
        return {"colour_match": "share of the parts named by the sentence whose colour in the edit is the named one"}
