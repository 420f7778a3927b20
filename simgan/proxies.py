"""Numbers that stand in for Table 1's human ranks: sharpness, accuracy and consistency of an edit.

The paper reports none of them: they never share a table with its ranks without a label. B batch, S side, x source,
x-hat edit, x-tilde the edit taken back. Means are over images in [0, 1] unless said.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common.data.geometry import centre_crop, fit, to_rgb
from common.data.module import ImageData
from common.data.records import Sample
from common.files import open_image
from common.gan import paired_noise
from common.metrics.colour_match import ColourMatches
from common.metrics.evaluate import Numbers, Seen
from common.metrics.extractors import LPIPS, load_lpips
from common.metrics.functions import DOWN, TOLD, UP, Meaning, from_uint8, l1, psnr, r_precision, rmse, ssim, to_uint8
from common.weights import KNOWN_FILES
from simgan.embedding import JointEmbedding, load_judge
from simgan.serving import Editor

LAPLACIAN = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).view(1, 1, 3, 3)
GREY = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R BT.601
DILATION = 5  # pixels about the bird that count neither as bird nor as background
STEG_SIGMA = 2.0  # grey levels of 255


def laplacian_variance(images: Tensor) -> Tensor:
    """Variance of the 4-neighbour Laplacian of the grey image, valid region, plus 1e-6. uint8 B,3,H,W -> B."""
    grey = (images.float() / 255 * GREY.to(images.device)).sum(1, keepdim=True)
    return F.conv2d(grey, LAPLACIAN.to(images.device)).flatten(1).var(1, correction=0) + 1e-6


def sharpness_gap(edit: Tensor, source: Tensor) -> Tensor:
    """|ln(VarLap(x-hat) / VarLap(x))|; 0 is best. uint8 B,3,H,W twice -> B."""
    return (laplacian_variance(edit) / laplacian_variance(source)).log().abs()


def background(mask: Tensor) -> Tensor:
    """1 where the background is, with the bird grown by 5 pixels. mask: B,1,S,S in {0, 1} -> the same shape."""
    size = 2 * DILATION + 1
    return 1 - F.max_pool2d(mask, size, stride=1, padding=DILATION)


class EditProxies:
    """Proxies of one model on the evaluation pairs (docs/simgan.md lists their definitions)."""

    MEANINGS: ClassVar[Mapping[str, Meaning]] = {
        "sharp_gap": DOWN,  # sharpness
        "sim": UP,  # accuracy
        "r_precision": UP,
        "mp01": UP,
        "mp": UP,
        "diff": DOWN,  # consistency
        "bg_psnr": Meaning("higher", "dB"),
        "bg_ssim": UP,
        "bg_*": DOWN,
        "rec_*": DOWN,
        "cyc_l1": DOWN,
        "steg_gap": DOWN,
        "div_lpips": UP,
        "smooth_*": DOWN,
        "colour_match": UP,
        "colour_match_of_source": TOLD,
        "colour_match_*": UP,
        "colour_distance": Meaning("lower", "CIELAB"),
    }

    def __init__(
        self, *, model: Editor, data: ImageData, options: dict[str, Any], files: dict[str, str | None]
    ) -> None:
        """files: `judge`, an export of model=vse, or null for none."""
        judge = files.get("judge")
        self.model, self.data, self.options = model, data, options
        self.judge: JointEmbedding | None = load_judge(judge).to(model.device) if judge else None
        self.lpips: LPIPS | None = load_lpips()
        self.colours = ColourMatches(data) if data.records.procedural else None
        self.values: dict[str, list[Tensor]] = defaultdict(list)
        self.images: list[Tensor] = []  # judge's vectors of the edits
        self.targets: list[str] = []
        self.target_labels: list[int] = []
        self.seen = 0

    def add(self, name: str, values: Tensor) -> None:
        self.values[name].append(values.detach().double().cpu())

    @torch.no_grad()
    def update(self, batch: Sample, images: Tensor, sentences: list[str]) -> None:
        x, edit = to_uint8(batch["image"]), to_uint8(images)
        self.add("sharp_gap", sharpness_gap(edit, x))
        diff = l1(x, edit)
        self.add("diff", diff)
        if self.judge is not None:
            vectors = self.judge.encode_images(from_uint8(edit))
            texts = self.judge.encode_sentences(sentences).to(vectors.device)
            sim = (vectors * texts).sum(1).double()
            self.add("sim", sim)
            self.add("mp01", (1 - diff.to(sim.device)) * sim)
            self.add("mp", (1 - 2 * diff.to(sim.device)) * sim)  # ManiGAN's, on [-1, 1]: its range is not documented
            self.images.append(vectors.cpu())
            self.targets += sentences
            self.target_labels += self.data.records.labels[batch["other_row"].cpu().numpy()].tolist()
        self.update_consistency(batch, x, edit)
        self.update_lpips(batch, x, edit)
        if self.colours is not None:
            self.colours.update(batch, images, sentences)
        self.seen += len(images)

    def update_consistency(self, batch: Sample, x: Tensor, edit: Tensor) -> None:
        """Background kept, own sentence reproduced, cycle closed, and how much of the cycle is hidden in the edit."""
        model = self.model
        own = model.look_up(batch["row"], batch["caption"])
        rebuilt = to_uint8(model.infer(batch["image"], own, mode="mean"))
        self.add("rec_l1", l1(rebuilt, x))
        self.add("rec_rmse", rmse(rebuilt, x))
        rounded = from_uint8(edit)
        noise = paired_noise(batch["pair"], rounded[0].numel(), seed=1).view_as(rounded.cpu()).to(rounded)
        cycle = l1(to_uint8(model.take_back(rounded, own)), x)
        shaken = (rounded + noise * STEG_SIGMA / 127.5).clamp(-1, 1)
        self.add("cyc_l1", cycle)
        self.add("steg_gap", l1(to_uint8(model.take_back(shaken, own)), x) - cycle)
        if self.data.records.masks:
            away = background(self.masks(batch["row"]).to(x.device))
            keep = away.flatten(1).sum(1) > 0.01 * away[0].numel()  # a bird that fills the picture has no background
            if keep.any():
                a, b, weight = x[keep], edit[keep], away[keep]
                self.add("bg_l1", l1(a, b, weight))
                kept = ssim(a, b, weight=weight)  # leaves out the edge, where a small picture's background may all lie
                self.add("bg_ssim", kept[~kept.isnan()])
                self.add("bg_psnr", psnr(a, b, weight).clamp_max(100.0))  # equal backgrounds would be infinite
                if self.lpips is not None:
                    pasted = torch.where(weight.bool(), b, a)
                    self.add("bg_lpips", self.lpips(a, pasted))

    def update_lpips(self, batch: Sample, x: Tensor, edit: Tensor) -> None:
        """div_lpips over ten draws of a pair (Fig. 1) and smooth over nine steps between two sentences (Fig. 4)."""
        if self.lpips is None or self.seen >= max(self.options["diversity_pairs"], self.options["interpolation_pairs"]):
            return
        model, rows = self.model, range(len(x))
        own = model.look_up(batch["row"], batch["caption"])
        target = model.look_up(batch["other_row"], batch["other_caption"])
        for i in rows:
            source = batch["image"][i : i + 1].expand(10, -1, -1, -1)
            if self.seen + i < self.options["diversity_pairs"]:
                eps = paired_noise(torch.arange(10) + 10 * int(batch["pair"][i]), model.generator.ca_dim, seed=2)
                drawn = to_uint8(model.infer(source, target[i : i + 1].expand(10, -1), eps.to(source.device)))
                a, b = torch.triu_indices(10, 10, 1)
                self.add("div_lpips", self.lpips(drawn[a], drawn[b]).mean()[None])
            if self.seen + i < self.options["interpolation_pairs"]:
                mix = torch.linspace(0, 1, 9, device=source.device)[:, None]
                steps = to_uint8(model.infer(source[:9], own[i] + mix * (target[i] - own[i]), mode="mean"))
                neighbours = self.lpips(steps[:-1], steps[1:])
                self.add("smooth_mean", neighbours.mean()[None])
                self.add("smooth_max", neighbours.max()[None])

    def masks(self, rows: Tensor) -> Tensor:
        """Masks of these images by the test-time geometry: B,1,S,S float in {0, 1}. Read from the files: no store of a
        model that trains without masks holds them."""
        records, size, found = self.data.records, self.data.image_size, []
        assert records.read_mask is not None
        for row in rows.tolist():
            with open_image(records.images[row]) as photo:
                mask = records.read_mask(records.masks[row], np.asarray(to_rgb(photo)))
            small = np.asarray(fit(Image.fromarray(mask * 255), self.data.load_size)) >= 128
            found.append(torch.from_numpy(centre_crop(small, size).copy()))
        return torch.stack(found)[:, None].float()

    def compute(self, seen: Seen | None) -> Numbers:
        gathered = {name: torch.cat(v) for name, v in self.values.items()}
        numbers: Numbers = {name: float(v.mean()) for name, v in gathered.items() if len(v)}
        for name in ("sim", "mp", "mp01", "bg_l1", "bg_ssim", "bg_psnr", "div_lpips", "smooth_mean", "smooth_max"):
            numbers.setdefault(name, None)
        numbers["r_precision"], numbers["r_precision_std"] = self.precision()
        return numbers if self.colours is None else {**numbers, **self.colours.compute()}

    def precision(self) -> tuple[float | None, float | None]:
        """R-precision by the judge: the target sentence among sentences of images of other classes (top 1)."""
        if self.judge is None:
            return None, None
        records = self.data.records
        rows = self.data.rows("test")
        pool = self.judge.encode_sentences([records.captions[row][0] for row in rows]).cpu()
        others = np.array([int((records.labels[rows] != label).sum()) for label in set(self.target_labels)])
        candidates = min(self.options["r_precision_candidates"] - 1, int(others.min()))
        self.candidates = candidates + 1
        texts = self.judge.encode_sentences(self.targets).cpu()
        return r_precision(
            torch.cat(self.images),
            texts,
            self.target_labels,
            pool,
            records.labels[rows],
            draws=self.options["r_precision_draws"],
            distractors=candidates,
            seed=self.options["seed"],
        )

    def protocol(self) -> dict[str, Any]:
        masks = bool(self.data.records.masks)
        absent = {
            "sim, mp, r_precision": None if self.judge else "no judge (needs_to_score.judge, metrics.networks)",
            "bg_": None if masks else "no masks",
            "div_lpips, smooth_": None if self.lpips else f"{KNOWN_FILES['alexnet'].name} is not on disk",
        }
        told = {
            "not_measured": {names: why for names, why in absent.items() if why},
            "judge": None if self.judge is None else f"vse {self.judge.hash}, another seed, all classes",
            "r_precision_candidates": getattr(self, "candidates", None),
            "lpips": f"absent: {KNOWN_FILES['alexnet'].name} is not on disk" if self.lpips is None else self.lpips.hash,
            "background": "dataset masks, bird grown by 5 px" if masks else "absent: no masks",
            "side": f"{self.data.image_size} px, native",
        }
        return told if self.colours is None else told | self.colours.protocol()
