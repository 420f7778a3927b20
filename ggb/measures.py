"""GGB's own numbers: SSIM in three dialects, on the body, by how far the pose changes, beside two that draw nothing.

B batch, S side, x source photo, y target photo, x-hat generated image. Images are uint8; each number is a float64 mean
over pairs. "Far" pairs are what the paper claims to be good at, and no published table tells them apart.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.module import ImageData
from common.data.pose_pairs import csv_text
from common.data.poses import MASK_RADIUS, on_body, pose_distance, pose_mask
from common.data.procedural.colours import lab
from common.data.readers.fashion_names import view
from common.data.records import FRAME, Sample
from common.files import sha256
from common.metrics.colour_match import FEWEST_PIXELS, ColourMatch, inner
from common.metrics.evaluate import Numbers, Seen
from common.metrics.extractors import LPIPS, load_lpips
from common.metrics.functions import (
    DOWN,
    ENOUGH,
    TOLD,
    UP,
    Features,
    Meaning,
    fid,
    inception_score,
    l1,
    metric_key,
    ssim,
    to_uint8,
)
from common.weights import KNOWN_FILES
from ggb.serving import PoseGAN

STRATA = ("near", "middle", "far")  # thirds of the pairs by pose distance
SPLIT_BY = ("ssim", "l1", "lpips", "clothes")  # what is told for each third
FEWEST = 20  # pairs between two views, for their mean to be told
MARGIN = 40  # columns of a photo of FRAME on each side that PATN cuts off
AVERAGED = 512  # training photos in the mean photo
PAPER = {"pairs": 12_800, "side": 256}


def ssim_pg2(generated: Tensor, target: Tensor) -> Tensor:
    """7 x 7 uniform window, sample covariance, L = 255: PG2's score.py. uint8 B,3,S,S twice -> B."""
    return ssim(generated, target, window="uniform")


def ssim_dsc(generated: Tensor, target: Tensor) -> Tensor:
    """Gaussian window, L = largest - smallest value of the generated image: Deformable GAN's test.py. -> B.

    One colour alone would make L 0 and the quotient NaN: L is 255 then.
    """
    low, high = generated.flatten(1).aminmax(dim=1)
    span = (high - low).double() / 255
    return ssim(generated, target, data_range=torch.where(span > 0, span, 1.0))


def ssim_patn(generated: Tensor, target: Tensor) -> Tensor:
    """`ssim_dsc` with white outer columns in both images: PATN crops 256 to 176 and pads again before scoring.

    Equal margins raise it (unrelated noise from 0.005 to 0.286): compare it with PATN's line of work alone. Images that
    are 176 wide already are only padded.
    """
    height, width = generated.shape[-2:]
    kept = min(width, height - 2 * round(MARGIN * height / FRAME))
    left, before = (width - kept) // 2, (height - kept) // 2
    white = (before, height - kept - before)
    return ssim_dsc(*(F.pad(x[..., left : left + kept], white, value=255) for x in (generated, target)))


def compared(
    generated: Tensor, target: Tensor, others: dict[str, Tensor], mask: Tensor | None, lpips: LPIPS | None
) -> dict[str, Tensor]:
    """What is told of each pair by its pixels: name -> B. uint8 B,3,H,W twice.

    others: images to be held against the target like the generated ones, by the ending of their numbers' names. mask:
    B,1,H,W in {0, 1}, the body in the target.
    """
    found: dict[str, Tensor] = {}
    for end, image in ({"": generated} | others).items():
        found[f"ssim{end}"] = ssim_pg2(image, target)
        found[f"l1{end}"] = 2 * l1(image, target)
        if mask is not None:
            found[f"mask_ssim{end}"] = ssim_pg2(on_body(image, mask), on_body(target, mask))
        if lpips is not None:
            found[f"lpips{end}"] = lpips(image, target)
    found |= {
        "ssim_pg2": found["ssim"],
        "ssim_dsc": ssim_dsc(generated, target),
        "ssim_patn": ssim_patn(generated, target),
    }
    if mask is not None:
        found["ssim_body"] = ssim(generated, target, window="uniform", weight=mask)
    found["generated_in_one_colour"] = generated.flatten(1).amin(1) == generated.flatten(1).amax(1)
    return found


def means_of(table: dict[str, np.ndarray], ways: Sequence[str]) -> Numbers:
    """Means over pairs of what `compared` told of each; SSIM by views. ways: such as front_to_back, "" = unknown."""
    numbers: Numbers = {name: mean_of(values) for name, values in table.items()}
    numbers["ssim_std"] = float(table["ssim"].std())
    numbers["lpips"] = numbers.get("lpips")
    numbers["generated_in_one_colour"] = float(table["generated_in_one_colour"].sum())
    for way in sorted(set(ways) - {""}):
        if (chosen := np.array(ways) == way).sum() >= FEWEST:
            numbers[f"ssim_{way}"] = mean_of(table["ssim"][chosen])
    return numbers


def clothes_distance(image: Tensor, target: Tensor, rows: Tensor, truth: ColourMatch) -> Tensor:
    """CIELAB distance of the mean colours of image and target over the target's top and bottom, mean of both garments.

    uint8 B,3,S,S twice; rows: B, of the targets; truth: of drawn people. -> B float64, NaN where no garment is seen.
    A mean, not the nearest name, for half of the garments have a pattern.
    """
    found = torch.full((len(rows),), torch.nan, dtype=torch.float64)
    for i, row in enumerate(rows.tolist()):
        seen = truth.part_map(row, image.shape[-1])
        regions = [inner(seen == truth.parts.index(part)) for part in ("top", "bottom")]
        garments = [torch.from_numpy(region) for region in regions if region.sum() >= FEWEST_PIXELS]
        if garments:
            means = [[x[i].cpu()[:, g].double().mean(1).numpy() for g in garments] for x in (image, target)]
            found[i] = float(np.linalg.norm(lab(np.array(means[0])) - lab(np.array(means[1])), axis=-1).mean())
    return found


def mean_photo(data: ImageData) -> Tensor | None:
    """Mean of up to 512 photos of the training pairs, always the same: uint8 1,3,S,S. None where there are none."""
    if not len(data.records.pose_pairs.get("train", ())):
        return None
    rows = np.unique(data.pose_pairs("train")[:AVERAGED])[:AVERAGED]
    loader = data.eval_loader(rows=rows, batch_size=64, reads=("image",))
    total = sum(batch["image"].double().sum(0) for batch in loader)  # B,S,S,3 uint8
    return (total / len(rows)).round().to(torch.uint8).permute(2, 0, 1)[None]  # type: ignore[union-attr]


def scores_of(found: Mapping[tuple[str, str], Features], splits: int, *, shown: bool) -> Numbers:
    """IS of images over consecutive splits, under the names of its mean and its std; None where it may not be shown."""
    numbers: Numbers = {}
    for names, features in found.items():
        score = (
            inception_score(features.logits, splits=min(splits, len(features)), seed=None) if shown else (None, None)
        )
        numbers |= {metric_key(name, features.extractor): value for name, value in zip(names, score, strict=True)}
    return numbers


class Measures:
    """Everything streams: only a few float64 numbers for each pair are kept.

    ssim            ssim_pg2, the dialect of the paper's comparisons
    mask_ssim       ssim_pg2 of both images with everything but the body black (PG2)
    ssim_body       the same without the black: mean over the pixels of the body
    l1              on [-1, 1]
    *_near, ...     by thirds of pose distance, also IS: is_mean_near; ssim_front_to_back, ...: by the names' views
    *_of_source     of x in place of x-hat; *_of_mean: of the mean training photo. To be beaten
    mask_is_mean    IS of x-hat with everything but the body black; is_of_targets and fid_of_targets are those of the
                    target photos, what a perfect model would have
    clothes         on drawn people: `clothes_distance`, by how much the colours of the clothes are off
    """

    MEANINGS: ClassVar[Mapping[str, Meaning]] = {
        "ssim": UP,  # these two are the paper's
        "is_mean": UP,
        "mask_ssim": UP,
        "mask_is_mean": UP,
        "*_std": TOLD,
        "ssim_far": UP,
        "ssim_*": UP,
        "mask_ssim_*": UP,
        "is_mean_*": UP,
        "l1*": DOWN,
        "lpips*": DOWN,
        "clothes*": Meaning("lower", "CIELAB"),
        "generated_in_one_colour": Meaning("lower", "images"),
    }

    def __init__(
        self, *, model: PoseGAN, data: ImageData, options: dict[str, Any], files: dict[str, str | None]
    ) -> None:
        self.data, self.pixels, self.keys = data, options["pixels"], data.records.keys
        self.masked, self.all_splits, self.bodies_seen = options["masked"], options["splits"], False
        self.few = 0 if options["allow_few"] else ENOUGH
        # as many as keep the size of those of the whole, on which IS depends
        self.splits = max(1, options["splits"] // len(STRATA))
        self.lpips: LPIPS | None = load_lpips()
        if self.lpips is not None:
            self.lpips.to(model.device)
        self.mean = mean_photo(data)
        self.parts: ColourMatch | None = None
        if data.records.procedural:
            self.parts = ColourMatch(data.records, load_ratio=data.load_size / data.image_size)
        self.values: dict[str, list[Tensor]] = defaultdict(list)
        self.pairs: list[tuple[int, int]] = []

    @torch.no_grad()
    def update(self, batch: Sample, images: Tensor, sentences: list[str]) -> Tensor | None:
        """-> the bodies alone, all but the pose mask of the target black."""
        target, source = to_uint8(batch["target"]), to_uint8(batch["image"])  # the files' own bytes again
        generated, side = to_uint8(images, rounding=self.pixels), images.shape[-1]
        self.pairs += zip(batch["row"].tolist(), batch["target_row"].tolist(), strict=True)
        others = {"_of_source": source}
        if self.mean is not None:
            others["_of_mean"] = self.mean.to(generated.device).expand_as(generated)
        mask = pose_mask(batch["target_joints"], side, radius=MASK_RADIUS * side / FRAME)
        for name, values in compared(generated, target, others, mask, self.lpips).items():
            self.add(name, values)
        if self.parts is not None:
            for end, image in ({"": generated} | others).items():
                self.add(f"clothes{end}", clothes_distance(image, target, batch["target_row"], self.parts))
        moved, changed = pose_distance(batch["joints"], batch["target_joints"], side)
        self.add("distance", moved.double() + changed.double())
        return on_body(generated, mask) if self.masked else None

    def add(self, name: str, values: Tensor) -> None:
        self.values[name].append(values.double().cpu())

    def compute(self, seen: Seen | None) -> Numbers:
        table = {name: torch.cat(values).numpy() for name, values in self.values.items()}
        distance = table.pop("distance")
        ways = [f"{view(self.keys[row])}_to_{view(self.keys[target])}" for row, target in self.pairs]
        numbers = means_of(table, ways)
        third = self.thirds(distance)
        for place, stratum in enumerate(STRATA):
            chosen = third == place
            numbers[f"pose_distance_{stratum}"] = mean_of(distance[chosen])
            for name in SPLIT_BY:
                for end in ("", "_of_source"):
                    if name + end in table:
                        numbers[f"{name}_{stratum}{end}"] = mean_of(table[name + end][chosen])
            if seen is not None:
                numbers |= self.score_of(seen.images[torch.from_numpy(chosen)], f"is_mean_{stratum}")
        return numbers if seen is None else numbers | self.of_targets_and_bodies(seen)

    def of_targets_and_bodies(self, seen: Seen) -> Numbers:
        """What the extractor made of the target photos, what a perfect model would have, and of the bodies alone."""
        targets = seen.photos(np.array([target for _, target in self.pairs]))
        found = {("is_of_targets", "is_of_targets_std"): targets}
        if seen.beside is not None:
            found["mask_is_mean", "mask_is_std"], self.bodies_seen = seen.beside, True
        # no model can be expected to come nearer to other people's photos
        distance = fid(seen.real, targets) if seen.shown else None
        key = metric_key("fid_of_targets", targets.extractor)
        return scores_of(found, self.all_splits, shown=seen.shown) | {key: distance}

    def score_of(self, images: Features, name: str) -> Numbers:
        """IS of a third of the images, over consecutive splits."""
        enough = len(images) >= max(self.splits, self.few)
        score = inception_score(images.logits, splits=self.splits, seed=None)[0] if enough else None
        return {metric_key(name, images.extractor): score}

    def thirds(self, distance: np.ndarray) -> np.ndarray:
        """0, 1 or 2 for each pair: as many in each as can be; ties go by their place in the list."""
        rank = np.empty(len(distance), np.int64)
        rank[np.argsort(distance, kind="stable")] = np.arange(len(distance))
        return rank * len(STRATA) // len(distance)

    def protocol(self) -> dict[str, Any]:
        """What the numbers depend on; not_comparable says which stand alone, and why."""
        side, count = self.data.image_size, len(self.pairs)
        text = csv_text((self.keys[row], self.keys[target]) for row, target in self.pairs)
        told: dict[str, Any] = {
            "pairs_sha256": sha256(text),
            "pixels": self.pixels,
            "ssim": "ssim_pg2: uniform 7 x 7, sample covariance, L = 255, no border, mean over channels and pairs",
            "pose_distance": "mean shift of the joints that both have, in sides, plus share of those that one has",
            "is_by_thirds": f"{self.splits} consecutive splits, withheld below {ENOUGH:,} images unless allow_few",
            "clothes": self.parts and "CIELAB distance of mean colours over y's top and bottom",
            "lpips": None if self.lpips is None else f"{self.lpips.name} {self.lpips.hash}",
        }
        absent = {} if self.lpips is not None else {"lpips": f"{KNOWN_FILES['alexnet'].name} is not on disk"}
        if count // len(STRATA) < max(self.splits, self.few):
            fault = f"too few images in a third for {self.splits} splits, or below {ENOUGH:,}: metrics.allow_few"
            absent |= dict.fromkeys([", ".join(f"is_mean_{stratum}" for stratum in STRATA)], fault)
        told["not_measured"] = absent
        if self.bodies_seen:
            told["mask_is"] = "all but the pose mask of the target black"
        told["not_comparable"] = {"*is_*@*": "IS through another network", "is_mean_*": "a third of the pairs"}
        if {"pairs": count, "side": side} != PAPER:
            why = f"{count:,} pairs of {side} px, not {PAPER['pairs']:,} of {PAPER['side']} px"
            told["not_comparable"] |= dict.fromkeys(("ssim*", "is_*", "mask_*"), why)
        return told


def mean_of(values: np.ndarray) -> float | None:
    """Mean of what is no NaN (a photo without a pose has no body), None when nothing is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None
