"""FineGAN's own numbers: the birds' Inception Score, R-precision, attributes, and what the mask alone does.

N generated images, B batch, A attributes, S image side; m the mask that was given, m' the mask of another image.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from common.data.module import ImageData
from common.data.procedural.colours import NAMES
from common.data.records import Sample
from common.metrics.colour_match import ColourMatch
from common.metrics.evaluate import Numbers, Seen
from common.metrics.functions import ENOUGH, UP, Meaning, from_uint8, inception_score, metric_key, r_precision, to_uint8
from finegan.checkpoints import load_features, told_of
from finegan.denoise import read_denoised
from finegan.encoders import Colours
from finegan.is_network import ISExtractor, filenames_hash, load_is_network
from finegan.serving import Painter

log = logging.getLogger(__name__)

FEWEST = 20  # test conditions with an attribute, and without it, for its AUC to count
GROUPS = 10  # of R-precision: AttnGAN
OF_MASKS = "mask_leakage, attribute_colour_match, is_o*_mask, attribute_auc_o*_mask"  # names of their numbers
# group of attributes -> part of the drawings that it names, as common/data/procedural/attributes.py paints them
PAINTED = {"wing": "wing", "belly": "belly", "crown": "crown", "back": "body", "upper tail": "tail"}


def auc(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each column, ties counted half: N,A floats and N,A bool -> A, NaN for one class only.

    By the rank sum (Mann and Whitney), all columns at a time.
    """
    found = []
    for start in range(0, scores.shape[1], 64):  # bounds the ranks' memory
        ranks, label = rankdata(scores[:, start : start + 64], axis=0), labels[:, start : start + 64]
        positive = label.sum(0)
        pairs = (positive * (len(label) - positive)).astype(float)
        wins = (ranks * label).sum(0) - positive * (positive + 1) / 2
        found.append(np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
    return np.concatenate(found)


def partners(rows: np.ndarray, seed: int) -> dict[int, int]:
    """Another of the rows for each of them, all used once: one random cycle. {} when there is no other."""
    order = np.random.default_rng(seed).permutation(rows).tolist()
    return dict(zip(order, order[1:] + order[:1], strict=True)) if len(order) > 1 else {}


def leakage(own: Tensor, other: Tensor, mask: Tensor, other_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Share of |f(m) - f(m')|^2 that lies inside m u m', and share of the area: B each; NaN for equal images.

    own, other: B,3,S,S generated with nothing changed but the mask; masks: B,1,S,S in {0, 1}.
    """
    inside = torch.maximum(mask, other_mask).double()
    energy = (own.double() - other.double()).square().sum(1, keepdim=True)
    return (energy * inside).sum((1, 2, 3)) / energy.sum((1, 2, 3)), inside.mean((1, 2, 3))


def painted(condition: str) -> str:
    """The parts to which a list of attributes gives one plain colour, as a sentence: "red wing, white belly"."""
    found = defaultdict(set)
    for group, colour in re.findall(r"([a-z ]+) color: ([a-z]+)", condition):
        if group.strip() in PAINTED:
            found[PAINTED[group.strip()]].add(colour)
    plain = {part: colours.pop() for part, colours in found.items() if len(colours) == 1}
    return ", ".join(f"{colour} {part}" for part, colour in plain.items() if colour in NAMES)


class AttributeScores:
    """The denoising SVMs on any images: how much an image shows each attribute (Sec. 3.1, mean of the fold models)."""

    def __init__(self, denoised: str, features: str | None, data: ImageData, device: torch.device) -> None:
        """denoised: what `prepare=attributes` wrote. features: the network that it looked through, if it was one."""
        self.denoised = read_denoised(denoised)
        self.present, self.names = self.denoised.present.astype(bool), self.denoised.names
        self.through = str(self.denoised.params.get("features"))
        colours, self.fault = self.through == told_of(Colours()), ""
        if self.denoised.keys != data.records.keys:
            self.fault = f"{denoised} is of other images"
        elif not (features or colours):
            self.fault = f"no file of the network that {denoised} was made with: {self.through}"
        else:
            self.encoder = load_features("colours" if colours else str(features)).to(device)
            if told_of(self.encoder) != self.through:
                self.fault = f"{denoised} was made with {self.through}, not with {told_of(self.encoder)}"

    def __call__(self, images: Tensor) -> Tensor:
        """B,3,*,* in [-1, 1] -> B,A float32 on the CPU."""
        return torch.from_numpy(self.denoised.scores(self.encoder.features(images)[0].cpu().numpy())).float()


class Measures:
    """Everything streams: a batch is generated, seen once by each network, and only what the networks say is kept."""

    MEANINGS: ClassVar[Mapping[str, Meaning]] = {
        "is": UP,  # Tables 1 to 3
        "r_precision": UP,
        "attribute_auc": UP,
        "is_*_mask": UP,
        "attribute_auc_*": UP,
        "attribute_colour_match*": UP,
        "mask_leakage_inside": UP,
    }

    def __init__(
        self, *, model: Painter, data: ImageData, options: dict[str, Any], files: dict[str, str | None]
    ) -> None:
        """files: is_network (`model=is_network` or another's), denoised (`prepare=attributes`), features (the network
        of `denoised`); a number whose file is absent or null is not measured."""
        self.model, self.data, self.options, self.records = model, data, options, data.records
        self.why: dict[str, str] = {}
        self.judge: ISExtractor | None = None
        if path := files.get("is_network"):
            self.judge = load_is_network(path).to(model.device)
        self.attributes = self.open_attributes(files.get("denoised"), files.get("features"))
        test = data.rows("test")
        self.partners = partners(test, options["seed"]) if model.masked else {}
        # the control's items, sampled from all test images: in file order the first are of few classes
        sampled = np.random.default_rng(options["seed"]).permutation(list(self.partners))
        self.controls = set(sampled[: options["shuffled_masks"]].tolist())
        self.controlled: list[int] = []  # places of the control's items among all
        self.colours: dict[str, ColourMatch] = {}
        if self.controls and self.records.procedural:
            ratio = data.load_size / data.image_size
            self.colours = {
                kind: ColourMatch(self.records, load_ratio=ratio, bbox_crop=data.bbox_crop)
                for kind in ("own", "other", "real")
            }
        self.kept: dict[str, list[Tensor]] = defaultdict(list)
        self.met: set[int] = set()  # rows whose photo has been seen
        self.done = 0

    def open_attributes(self, denoised: str | None, features: str | None) -> AttributeScores | None:
        """The attribute classifiers, or None where they cannot be had; `why` then says so."""
        if not denoised:
            self.why["attribute_auc"] = "no file of denoised attributes"
            return None
        found = AttributeScores(denoised, features, self.data, self.model.device)
        if found.fault:
            log.warning("attribute consistency is not measured: %s", found.fault)
            self.why["attribute_auc"] = found.fault
            return None
        return found

    # ---- batch by batch

    def keep(self, name: str, values: Tensor) -> None:
        """Remembers values of a batch on the CPU."""
        self.kept[name].append(values.detach().cpu())

    def gathered(self, name: str) -> Tensor:
        """All that was kept under a name, in the order of the batches."""
        return torch.cat(self.kept[name])

    @torch.no_grad()
    def update(self, batch: Sample, images: Tensor, sentences: list[str]) -> None:
        rows, captions = batch["row"], batch.get("caption", torch.zeros_like(batch["row"]))
        self.keep("row", rows)
        self.keep("caption", captions)
        self.look("own", to_uint8(images, rounding="floor"))
        fresh = [i for i, row in enumerate(rows.tolist()) if row not in self.met]
        if fresh:
            self.met.update(rows[fresh].tolist())
            self.keep("real_row", rows[fresh])
            self.keep("real_caption", captions[fresh])
            self.look("real", to_uint8(batch["image"][fresh]))
        chosen = [i for i in fresh if int(rows[i]) in self.controls]
        if chosen:
            self.controlled += [self.done + i for i in chosen]
            self.change_masks({name: value[chosen] for name, value in batch.items()}, images[chosen])  # type: ignore[index]
        self.done += len(rows)

    def look(self, kind: str, images: Tensor) -> None:
        """One pass of each network over uint8 images; kind: own, other (with another's mask) or real."""
        if self.judge is not None and kind != "real":
            self.keep(f"{kind}_logits", self.judge(images)["logits"])
        x = from_uint8(images)
        if self.attributes is not None:
            self.keep(f"{kind}_scores", self.attributes(x))
        if self.model.encoders is not None and kind != "other":
            self.keep(f"{kind}_codes", self.model.encoders.image(x)[1].float())

    def change_masks(self, batch: dict[str, Tensor], images: Tensor) -> None:
        """The same codes, z and noise with the mask of another test image (trap T9)."""
        rows = batch["row"]
        others = np.array([self.partners[row] for row in rows.tolist()])
        (loaded,) = self.data.eval_loader(rows=others, batch_size=len(others), reads=("mask",))
        mask = self.data.move(loaded, images.device)["mask"]
        z, eps = self.model.noise(batch["pair"])
        generated = self.model.infer(self.model.codes(rows, batch.get("caption")), mask, z, eps).images[-1]
        self.look("other", to_uint8(generated, rounding="floor"))
        inside, area = leakage(images, generated, batch["mask"], mask)
        self.keep("inside", inside)
        self.keep("area", area)
        if self.colours:
            assert self.model.conditions is not None
            said = self.model.conditions.condition_text(rows, batch.get("caption"))
            if self.model.inputs != "text":
                said = [painted(condition) for condition in said]
            self.colours["own"].update(images, rows, said)
            self.colours["other"].update(generated, torch.from_numpy(others), said)
            self.colours["real"].update(batch["image"], rows, said)

    # ---- numbers

    def compute(self, seen: Seen | None) -> Numbers:
        return self.scores() | self.precisions() | self.consistency() | self.of_masks()

    def scores(self) -> Numbers:
        """is@<network> of all images, and of the control's with their own and with another's mask."""
        keys = {name: metric_key(name, self.judge.name if self.judge else "is_network") for name in IS_NUMBERS}
        numbers: Numbers = dict.fromkeys(keys.values())
        if self.judge is None:
            self.why["is"] = "no file of an IS network"
            return numbers
        splits, logits = self.options["splits"], self.gathered("own_logits")
        if len(logits) >= max(splits, 0 if self.options["allow_few"] else ENOUGH):
            numbers[keys["is"]], numbers[keys["is_std"]] = inception_score(logits, splits=splits)
        else:
            self.why["is"] = f"mostly bias below {ENOUGH:,} images: metrics.allow_few=true shows it"
        if len(self.controlled) >= splits:
            numbers[keys["is_own_mask"]] = inception_score(logits[self.controlled], splits=splits)[0]
            numbers[keys["is_other_mask"]] = inception_score(self.gathered("other_logits"), splits=splits)[0]
        return numbers

    def precisions(self) -> Numbers:
        """R-precision of the images, and of the photos themselves: what the DAMSM encoders can tell."""
        if self.model.encoders is None:
            self.why["r_precision"] = "the model has no DAMSM encoders"
            return dict.fromkeys(("r_precision", "r_precision_std", "r_precision_real"))
        mean, std = self.precision("own_codes", "row", "caption")
        return {
            "r_precision": mean,
            "r_precision_std": std,
            "r_precision_real": self.precision("real_codes", "real_row", "real_caption")[0],
        }

    def precision(self, codes: str, row: str, caption: str) -> tuple[float | None, float | None]:
        """Is the own condition nearest among those of test images of other classes? Captions compete by number.

        Mean and std over ten groups in turn, or over the numbers of the captions where there are several.
        """
        rows, images = self.gathered(row).numpy(), self.gathered(codes)
        number = self.gathered(caption).numpy() * (self.model.inputs == "text")
        test, labels = self.data.rows("test"), self.records.labels
        others = min(int((labels[test] != label).sum()) for label in np.unique(labels[rows]))
        self.distractors = min(self.options["r_precision_candidates"] - 1, others)
        if self.distractors < 1:
            self.why["r_precision"] = "the test images are of one class"
            return None, None
        found, counts = [], []
        for k in np.unique(number):
            at, pool = number == k, self.global_codes(test, int(k))
            counts.append(int(at.sum()))
            found.append(
                r_precision(
                    images[torch.from_numpy(at)],
                    pool[np.searchsorted(test, rows[at])],
                    labels[rows[at]],
                    pool,
                    labels[test],
                    draws=counts[-1],
                    distractors=self.distractors,
                    folds=min(GROUPS, counts[-1]) if number.max() == number.min() else 1,
                    seed=self.options["seed"] + int(k),
                )
            )
        if len(found) == 1:
            return found[0]
        means = [mean for mean, _ in found]
        return float(np.average(means, weights=counts)), float(np.std(means))

    def global_codes(self, rows: np.ndarray, number: int) -> Tensor:
        """Global condition codes of images, len(rows),D on the CPU; number: of the caption, for text."""
        captions = self.records.captions
        own = [number % len(captions[row]) if captions else 0 for row in rows]
        parts = zip(torch.from_numpy(rows).split(512), torch.tensor(own).split(512), strict=True)
        return torch.cat([self.model.codes(row, caption).sent.cpu() for row, caption in parts])

    def consistency(self) -> Numbers:
        """Mean ROC-AUC of the SVMs' scores against the condition, over attributes that are often enough present and
        absent among the test conditions; of the photos as the ceiling; by group; and with another's mask."""
        names = [f"attribute_auc{end}" for end in ("", "_real", "_own_mask", "_other_mask")]
        numbers: Numbers = dict.fromkeys(names)
        if self.attributes is None:
            return numbers
        rows, real_rows = self.gathered("row").numpy(), self.gathered("real_row").numpy()
        present, real_scores = self.attributes.present, self.gathered("real_scores").numpy()
        count = present[real_rows].sum(0)
        chosen = np.flatnonzero(
            (np.minimum(count, len(real_rows) - count) >= FEWEST) & ~self.attributes.denoised.skipped
        )
        self.measured = len(chosen)
        if not self.measured:
            self.why["attribute_auc"] = f"no attribute is {FEWEST} times present and absent in the test conditions"
            return numbers

        def of(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
            return auc(scores[:, chosen], present[rows][:, chosen])

        scores = self.gathered("own_scores").numpy()
        own = of(scores, rows)
        numbers["attribute_auc"], numbers["attribute_auc_real"] = mean_of(own), mean_of(of(real_scores, real_rows))
        if at := self.controlled:
            numbers["attribute_auc_own_mask"] = mean_of(of(scores[at], rows[at]))
            numbers["attribute_auc_other_mask"] = mean_of(of(self.gathered("other_scores").numpy(), rows[at]))
        group = np.array([self.attributes.names[a].partition("::")[0].removeprefix("has_") for a in chosen])
        return numbers | {
            f"attribute_auc_{name}": mean_of(own[group == name]) for name in dict.fromkeys(group.tolist())
        }

    def of_masks(self) -> Numbers:
        """Mask leakage and, on drawn data, whether the parts take the colours of the condition where the mask puts
        them: the map of parts is that of the image whose mask was given."""
        numbers: Numbers = dict.fromkeys(("mask_leakage_inside", "mask_leakage_area"))
        kinds = {"own": "", "other": "_other_mask", "real": "_real"}
        numbers |= dict.fromkeys(f"attribute_colour_match{end}" for end in kinds.values())
        if not self.controlled:
            fault = "metrics.shuffled_masks=0" if self.partners else "there are no two test images"
            self.why[OF_MASKS] = fault if self.model.masked else "the model reads no masks"
            return numbers
        inside, area = self.gathered("inside"), self.gathered("area")
        if not inside.isnan().all():
            numbers["mask_leakage_inside"], numbers["mask_leakage_area"] = inside.nanmean().item(), area.mean().item()
        else:
            self.why["mask_leakage"] = "another mask changes nothing"
        if not self.colours:
            self.why["attribute_colour_match"] = "which pixel is of which part is known of drawn birds alone"
        for kind, match in self.colours.items():
            found = match.compute()
            numbers[f"attribute_colour_match{kinds[kind]}"] = found["colour_match"] if found["n"] else None
            if kind == "own":
                numbers |= {
                    f"attribute_{name}": value for name, value in found.items() if name.startswith("colour_match_")
                }
        return numbers

    def protocol(self) -> dict[str, Any]:
        """What the numbers depend on; not_measured and not_comparable say why of what is absent or stands alone."""
        told: dict[str, Any] = {"not_measured": dict(self.why)}
        if self.judge is not None:
            info, keys = self.judge.info, [self.records.keys[row] for row in self.data.rows("test")]
            told["is_network"] = f"{self.judge.name} {self.judge.hash}, {info['start']}"
            told["is_network_found"] = info["found"]
            told["is_network_photos"] = "these" if info["sha256"] == filenames_hash(keys) else "others or not known"
            told["is_input"] = f"{self.judge.input}, uint8 by floor"
            if "kind" in info:  # trained here
                why = f"IS network {self.judge.hash} of ours, the published one is not to be had"
                told["not_comparable"] = {f"is*@{self.judge.name}": why}
        if hasattr(self, "distractors"):
            told["r_precision_candidates"] = self.distractors + 1
            told["r_precision_pool"] = f"conditions ({self.model.inputs}) of test images of other classes"
        if self.attributes is not None:
            told["attribute_features"] = self.attributes.through
            told["attributes_measured"] = getattr(self, "measured", 0)
            told["attribute_auc_real"] = "a generous ceiling: the same SVMs denoised the bits it is compared with"
        if self.model.masked:
            told["masks"] = "of the test images"
            told["other_masks"] = len(self.controlled)
        if self.colours:
            told["attribute_colour_match"] = (
                "on the parts of the image whose mask was given, the colour the condition says"
            )
        return told


IS_NUMBERS = ("is", "is_std", "is_own_mask", "is_other_mask")


def mean_of(values: np.ndarray) -> float | None:
    """Mean of what is no NaN, None when nothing is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None
