"""JEM's own numbers: does a picture follow its guide and its sentence; and the curve of Table 1.

N items, n test images, B batch. An item is a test image with one of its captions. Guides: `own` of that photo, `other`
of another photo of its class, `shuffled` of a photo of any class.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from common.data.module import ImageData
from common.data.records import Records, Sample
from common.data.sampling import other_class
from common.metrics.evaluate import Numbers, Seen, extractor_for, real_features
from common.metrics.extractors import Extractor, extract
from common.metrics.functions import (
    DOWN,
    TOLD,
    UP,
    Features,
    Meaning,
    fid,
    kernel_distance,
    l1,
    metric_key,
    psnr,
    to_uint8,
    usual_subset,
)
from jem.convergence import Convergence, area_under, convergence_epoch

log = logging.getLogger(__name__)

MOST_DB = 99.0  # of PSNR: images that are equal to the eighth bit have less
FEWEST = 10  # looks, below which a curve says nothing
CANDIDATES = 100  # photos that a picture's source is looked for among
WATCHED = ("fid", "kid", "guide_r1")  # of the curve, each on `train` and `test`


def retrieval(images: Tensor, photos: Tensor, own: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """guide_r1 and guide_r5: the share of pictures whose source is the nearest, or among the five nearest, of 100.

    images: N,F; photos: n,F; own: N, which photo is each picture's source. Nearest by cosine; the other 99 are drawn
    from the rest, all of them where there are fewer. Chance: 1 % and 5 %.
    """
    rng, count = np.random.default_rng(seed), len(photos)
    x, y = (F.normalize(values.double(), dim=1) for values in (images, photos))
    ranks = []
    for features, source in zip(x, own.tolist(), strict=True):
        others = rng.choice(count - 1, min(CANDIDATES, count) - 1, replace=False)
        others += others >= source
        ranks.append(int((y[others] @ features > y[source] @ features).sum()))
    found = np.array(ranks)
    return {"guide_r1": float((found < 1).mean()), "guide_r5": float((found < 5).mean())}


def partners(records: Records, rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of these test images another of its class, itself where it is the only one, and another of any class."""
    rng = np.random.default_rng(seed)
    same = rows.copy()
    for label in np.unique(records.labels[rows]):
        place = np.flatnonzero(records.labels[rows] == label)
        same[place] = rows[np.roll(place, 1 + rng.integers(max(len(place) - 1, 1)))]
    turn = rng.permutation(len(rows))  # one cycle, so that nobody keeps the own
    shuffled = rows.copy()
    shuffled[turn] = rows[np.roll(turn, 1)]
    return same, shuffled


class Measures:
    """Beside FID, KID and IS: what guide, sentence and noise change in the first picture of each test image, whether
    its source is found again, the same numbers for guides of other photos, and when the run had converged."""

    MEANINGS: ClassVar[Mapping[str, Meaning]] = {
        "fid_other*": DOWN,
        "guide_r*": UP,
        "flip_gain*": UP._replace(unit="dB"),
        "text_change": TOLD,
        "noise_change": TOLD,
        "guide_change": TOLD,
        "convergence_epoch*": DOWN._replace(unit="epochs"),
        "best_epoch*": TOLD._replace(unit="epochs"),
        "final_level*": DOWN,
        "curve_area*": DOWN,
    }

    def __init__(
        self, *, model: Any, data: ImageData, options: dict[str, Any], files: Mapping[str, str | None]
    ) -> None:
        """model: a GANCLS or JEM. options: `metrics` of the configuration. files: none are needed."""
        self.model, self.data, self.options = model, data, options
        self.guided = hasattr(model, "look_up_guide")
        self.rows = data.rows("test")
        self.passes = max(1, (options["images"] or len(self.rows)) // len(self.rows))
        same, shuffled = partners(data.records, self.rows, options["seed"])
        size = len(data.records)
        self.same, self.shuffled = np.arange(size), np.arange(size)
        self.same[self.rows], self.shuffled[self.rows] = same, shuffled
        rng = np.random.default_rng(options["seed"])
        self.far = np.arange(size)
        if len(np.unique(data.records.labels[self.rows])) > 1:
            self.far[self.rows] = other_class(rng, data.records.labels, self.rows, self.rows)
        self.changes: dict[str, list[Tensor]] = defaultdict(list)
        self.source: list[int] = []
        self.turn: list[int] = []  # which pass each item is of

    @torch.no_grad()
    def update(self, batch: Sample, images: Tensor, sentences: list[str]) -> Tensor | None:
        """-> with guides the pictures after another photo's guide: of its class, and in the last pass of any class."""
        rows, turn = batch["row"], batch["pair"] // len(self.rows)
        self.source += rows.tolist()
        self.turn += turn.tolist()
        z = self.model.fixed_noise(batch["pair"])
        raw = self.model.look_up(rows, batch["caption"])
        t, first = self.model.normed(raw), turn == 0
        v = self.model.guide_of(batch)
        if bool(first.any()):
            self.change(batch, images, first, z, t, v)
        if not self.guided:
            return None
        last = (turn.cpu().numpy() == self.passes - 1) & (self.passes > 1)
        at = rows.cpu().numpy()
        others = torch.from_numpy(np.where(last, self.shuffled[at], self.same[at])).to(rows.device)
        beside = self.model.infer(z, t, self.model.look_up_guide(others))
        if bool(first.any()):
            self.keep("guide_change", l1(unit(images[first]), unit(beside[first])))
        return to_uint8(beside, rounding=self.options["pixels"])

    def change(self, batch: Sample, images: Tensor, first: Tensor, z: Tensor, t: Tensor, v: Tensor | None) -> None:
        """What a picture changes by where one of its inputs is another: mean |difference| of pixels in [0, 1]."""
        rows, shown = batch["row"][first], unit(images[first])
        z, t, v = z[first], t[first], None if v is None else v[first]
        far = torch.from_numpy(self.far[rows.cpu().numpy()]).to(rows.device)
        wrong = self.model.normed(self.model.look_up(far, torch.zeros_like(far)))
        self.keep("text_change", l1(shown, unit(self.model.infer(z, wrong, v))))
        again = self.model.fixed_noise(batch["pair"][first], 1)
        self.keep("noise_change", l1(shown, unit(self.model.infer(again, t, v))))
        if self.guided:
            mirrored = self.model.infer(z, t, self.model.look_up_guide(rows, True))
            self.keep("flip_gain", flip_gain(shown, unit(mirrored)))

    def keep(self, name: str, values: Tensor) -> None:
        self.changes[name].append(values.detach().cpu())

    def compute(self, seen: Seen | None) -> Numbers:
        numbers: Numbers = dict.fromkeys(("text_change", "noise_change"))
        for name, parts in self.changes.items():
            values = torch.cat(parts).double()
            numbers[name] = float(values.mean())
            if name == "flip_gain":
                numbers["flip_gain_std"] = float(values.std())
        if self.guided and seen is not None:
            numbers |= self.of_guides(seen)
        return numbers | self.of_curve()

    def of_guides(self, seen: Seen) -> Numbers:
        """guide_r1 and _r5 by own, other and shuffled guides, and FID of pictures after other photos' guides."""
        assert seen.beside is not None
        place = {int(row): k for k, row in enumerate(self.rows)}
        own = np.array([place[row] for row in self.source])
        turn = np.array(self.turn)
        photos = seen.photos(self.rows)
        last = (turn == self.passes - 1) & (self.passes > 1)
        numbers: Numbers = {}
        chosen = {"": (seen.images, turn == 0), "_other": (seen.beside, ~last), "_shuffled": (seen.beside, last)}
        for ending, (features, which) in chosen.items():
            told = dict.fromkeys((f"guide_r1{ending}", f"guide_r5{ending}"))
            if which.any() and len(self.rows) > 1:
                part = features[torch.from_numpy(np.flatnonzero(which))]
                found = retrieval(part.features, photos.features, own[which])
                told = {f"{name}{ending}": value for name, value in found.items()}
            numbers |= told
        key = metric_key("fid_other", seen.images.extractor)
        others = seen.beside[torch.from_numpy(np.flatnonzero(~last))]
        numbers[key] = fid(seen.real, others) if seen.shown and len(others) > 1 else None
        return numbers

    def of_curve(self) -> Numbers:
        """Table 1, of the model's own curve: E* of FID on training and on test images."""
        numbers: Numbers = {}
        for split, (epochs, values, found) in self.curves().items():
            told = found.status == "converged" and len(epochs) >= FEWEST
            numbers[f"convergence_epoch_{split}"] = found.epoch if told else None
            numbers[f"best_epoch_{split}"] = found.best_epoch
            numbers[f"final_level_{split}"] = found.final
            numbers[f"curve_area_{split}"] = area_under(epochs, values)
        return numbers

    def curves(self) -> dict[str, tuple[list[float], list[float], Convergence]]:
        """Epochs, FID and what they say, on training and on test images, where the monitor looked."""
        found = {split: points(self.model.curve, f"fid_{split}") for split in ("train", "test")}
        return {split: (*line, convergence_epoch(*line)) for split, line in found.items() if line[0]}

    def protocol(self) -> dict[str, Any]:
        told: dict[str, Any] = {"guides": "own, other of its class, shuffled" if self.guided else "none"}
        told["guide_candidates"] = min(CANDIDATES, len(self.rows))
        why = {}
        if self.guided and self.passes == 1:
            why["guide_r1_shuffled, guide_r5_shuffled"] = "one picture of each test image: give metrics.images"
        for split, (epochs, _, found) in self.curves().items():
            told[f"curve_{split}"] = found.status
            few = f"{len(epochs)} looks are no curve, {FEWEST} are wanted"
            why[f"best_epoch_{split}"] = "told of runs that got worse again"
            why[f"convergence_epoch_{split}"] = (
                few if len(epochs) < FEWEST else f"the run has {found.status.replace('_', ' ')}"
            )
        return told | ({"not_measured": why} if why else {})


def points(curve: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Epochs and values of a curve, without the untrained epoch 0."""
    shown = [one for one in curve if one["epoch"] > 0]
    return [one["epoch"] for one in shown], [one[name] for one in shown]


def unit(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], what was out of it by rounding cut off."""
    return ((images.double() + 1) / 2).clamp(0, 1)


def flip_gain(images: Tensor, mirrored: Tensor) -> Tensor:
    """PSNR(flip(G(z, t, v)), G(z, t, v_flip)) - PSNR(G(z, t, v), G(z, t, v_flip)): above 0 where the guide says which
    way round. Both B,3,S,S in [0, 1] -> B, in dB; 0 where the guide changes nothing."""
    turned, same = (psnr(x, mirrored).clamp_max(MOST_DB) for x in (images.flip(3), images))
    return torch.where(same < MOST_DB, turned - same, torch.zeros_like(same))


# ---- the curve of Table 1


class Monitor(Callback):
    """Every few epochs FID, KID and guide_r1 of the same training and test images, kept in the model's `curve`.

    Each picture has caption row mod count of its photo, the guide of the photo as it is, and noise of its row.
    """

    def __init__(self, *, every: int, images: int, judge: str | None) -> None:
        """images: training images in the set, drawn once; all test images are in it. judge: a classifier's file, which
        the standard Inception replaces where it is on disk."""
        self.every, self.images, self.judge = every, images, judge

    def on_fit_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        data: ImageData = trainer.datamodule  # type: ignore[attr-defined]
        options = {"extractor": "auto", "inception": None}
        extractor = extractor_for(options, self.judge)
        assert extractor is not None
        self.extractor: Extractor = extractor.to(model.device)
        train = data.rows("train")
        picked = np.sort(np.random.default_rng(0).permutation(train)[: self.images])
        self.rows = {"train": picked, "test": data.rows("test")}
        folder = Path(data.spare_store).parent
        folder.mkdir(parents=True, exist_ok=True)
        self.real = {split: real_features(self.extractor, data, folder, 64, rows) for split, rows in self.rows.items()}

    def on_train_start(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        if trainer.is_global_zero and trainer.current_epoch == 0:
            self.look(trainer, model, 0)

    def on_train_epoch_end(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        done = trainer.current_epoch + 1
        if trainer.is_global_zero and (done % self.every == 0 or done == trainer.max_epochs):
            self.look(trainer, model, done)

    @torch.no_grad()
    def look(self, trainer: pl.Trainer, model: Any, epoch: int) -> None:
        began = time.monotonic()
        point: dict[str, float] = {"epoch": epoch, "images_seen": model.images_seen}
        for split, rows in self.rows.items():
            found = extract(self.extractor, self.pictures(model, rows))
            point |= {f"{name}_{split}": value for name, value in compared(self.real[split], found).items()}
        model.curve = [one for one in model.curve if one["epoch"] < epoch] + [point]
        numbers = {f"monitor/{name}": value for name, value in point.items() if name.startswith(WATCHED)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.fit_loop.epoch_loop._batches_that_stepped)
        log.info(
            "epoch %d: fid@%s %.1f on training and %.1f on test images (%.0f s)",
            epoch,
            self.extractor.name,
            point["fid_train"],
            point["fid_test"],
            time.monotonic() - began,
        )

    @staticmethod
    def pictures(model: Any, rows: np.ndarray) -> Any:
        """What the model makes of these rows, uint8, batch by batch."""
        for part in np.array_split(rows, max(1, len(rows) // 64)):
            row = torch.from_numpy(part).to(model.device)
            yield to_uint8(model.sample({"row": row, "caption": row % model.counts[row]}))


def compared(real: Features, images: Features) -> dict[str, float]:
    """FID, KID and guide_r1 of pictures against their own source photos, in the same order."""
    subset = usual_subset(len(real), len(images))
    return {
        "fid": fid(real, images),
        "kid": kernel_distance(real.features, images.features, subset=subset)[0],
        "guide_r1": retrieval(images.features, real.features, np.arange(len(images)))["guide_r1"],
    }
