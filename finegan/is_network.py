"""The network of the papers' Inception Score on birds: an Inception-v3 fine-tuned on the test classes' own photos.

The published file (hanzhanggit/StackGAN-inception-model) can no longer be had, so one is trained here by its recipe.
Scores through two networks never compare: the key of each names its network, the protocol the hash of its weights.
B images, K classes, F width of a feature.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.blocks import upcast
from common.classifier import SIDES, Classifier, body_and_head, build, random_crops
from common.data.records import Records, Sample
from common.errors import UserError, check_ranges
from common.files import file_hash, sha256
from common.metrics.extractors import Extractor, resize_as_pillow
from common.metrics.functions import from_uint8, inception_score, to_uint8
from common.weights import (
    KNOWN_FILES,
    are_words,
    fill,
    find_weights,
    flat,
    is_state,
    on_cpu,
    read_artifact,
    read_weights,
)

log = logging.getLogger(__name__)

CLASSES = 50  # of CUB's test split: the bars of acceptance are stated for so many
SPLITS = 10
TORCHVISION_FILE = KNOWN_FILES["inception_v3"].name


# ---- what the network sees


def seen(images: Tensor, side: int) -> Tensor:
    """uint8 B,3,*,* -> float B,3,side,side in [-1, 1], v / 127.5 - 1 (the reference's inception_score.py)."""
    return from_uint8(resize_as_pillow(images, side))


def centre(images: Tensor, side: int) -> Tensor:
    """The middle side x side of B,3,S,S, as the data module cuts it."""
    top, left = ((length - side + 1) // 2 for length in images.shape[-2:])
    return images[..., top : top + side, left : left + side]


def filenames_hash(keys: Sequence[str]) -> str:
    """SHA-256 of image names, one a line: whether two networks were tuned on the same photos."""
    return sha256("\n".join(keys))


# ---- training


RANGES = {
    "dropout": "[0, 1)",
    "aux_weight": "[0, inf)",
    "crop": "(0, 1]",
    "eval_crop": "(0, 1]",
    "bar.accuracy": "[0, 1]",
    "bar.is_test": "[0, inf)",
    "bar.is_train": "2 x [0, inf)",
}


class ISNetwork(Classifier):
    """Fine-tunes an Inception-v3 on all images of the data set's test classes (data.train_split=test); none held out.

    The running average of the weights is what is measured and exported.
    """

    KIND = "is_network"
    FACTS = Classifier.FACTS | {"found": dict, "class_ids": list, "start": str, "filenames": str}  # type: ignore[operator]
    TAUGHT = ("class_names", "filenames")

    average: AveragedModel

    def __init__(
        self,
        *,
        arch: str,
        image_size: int,
        weights: str | None,
        dropout: float,
        aux_weight: float,
        optimizer: Mapping[str, Any],
        crop: float,
        eval_crop: float,
        average: Mapping[str, float],
        bar: Mapping[str, Any],
        seed: int,
        classes: int | None = None,
    ) -> None:
        """image_size: what the network sees. weights: torchvision's ImageNet file; null looks for Inception's under
        $TORCH_HOME and starts from scratch without it. aux_weight: of Inception's second head. crop: smallest share of
        the area that a training crop keeps. eval_crop: share of the side that is measured (256 of 304).

        bar: {accuracy, is_test: at least, is_train: from, to}, what a fit on the complete photos must reach, else it
        ends in a UserError (a warning on partial, few and drawn data). The two Inception Scores are stated for 50
        classes; for K they keep the same share of the most there can be in logarithms: score ** (ln K / ln 50).
        """
        super().__init__(
            arch=arch,
            image_size=image_size,
            weights=None,
            optimizer={"name": "adam", "head_lr_factor": 1.0, "momentum": 0.0, "warmup_epochs": 0.0, **optimizer},
            label_smoothing=0.0,
            held_out=0.0,
            seed=seed,
        )
        self.save_hyperparameters()
        check_ranges("model", flat(self.hparams), RANGES)
        check_ranges("model.average", average, {"decay": "[0, 1)"})
        self.weights, self.dropout, self.aux_weight = weights, dropout, aux_weight
        self.crop, self.eval_crop, self.ema_decay = crop, eval_crop, average["decay"]
        self.bar, self.start, self.filenames = bar, "", ""
        self.class_ids: list[int] = []
        self.found: dict[str, float] = {}
        if classes is not None:
            self.build(classes)

    def build(self, classes: int) -> None:
        """The network and its average; Inception with ImageNet's weights but for its heads, where there are any."""
        self.start = "from scratch"
        if self.arch == "inception_v3":
            self.net = torchvision.models.inception_v3(
                weights=None,
                num_classes=classes,
                aux_logits=True,
                transform_input=False,
                init_weights=True,
                dropout=self.dropout,
            )
            path = find_weights("inception_v3", self.weights)
            self.start = f"from scratch: {TORCHVISION_FILE} is not on disk" if path is None else self.read(path)
        elif self.weights is None:
            self.net = build(self.arch, classes)
        else:
            raise UserError(f"model.weights is for arch=inception_v3: leave it null with arch={self.arch}.")
        self.average = AveragedModel(
            self.net, multi_avg_fn=get_ema_multi_avg_fn(self.ema_decay), use_buffers=True
        ).requires_grad_(False)

    def read(self, path: Path) -> str:
        """Takes over what a file of ImageNet's Inception holds of the trunk. -> its name and hash"""
        content, mine = read_weights(path), self.net.state_dict()
        state = content.get("state_dict", content)
        fits = {k: v for k, v in state.items() if isinstance(v, Tensor) and k in mine and v.shape == mine[k].shape}
        trunk = {k for k in mine if not k.startswith(("fc.", "AuxLogits.")) and not k.endswith("num_batches_tracked")}
        if absent := sorted(trunk - fits.keys()):
            raise UserError(f"{path} does not fit inception_v3, {absent[0]} is missing: give {TORCHVISION_FILE}.")
        self.net.load_state_dict(mine | fits)
        return f"{path.name} ({file_hash(path)})"

    def setup(self, stage: str) -> None:
        """Class k is the k-th test class by ascending id."""
        super().setup(stage)
        if stage != "fit":
            return
        records: Records = self.data.records
        rows = self.data.rows(self.data.train_split)
        self.held.zero_()
        self.class_ids = [int(label) + 1 for label in np.unique(records.labels[rows])]
        self.filenames = filenames_hash([records.keys[row] for row in rows])

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """Cross entropy, with the second head's where the architecture has one."""
        out = self.net(random_crops(batch["image"], self.image_size, self.crop))
        target = self.target[batch["label"]]
        logits, aux = out if isinstance(out, tuple) else (out, None)
        loss = F.cross_entropy(upcast(logits), target)
        if aux is not None:
            loss = loss + self.aux_weight * F.cross_entropy(upcast(aux), target)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(target))
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        self.average.update_parameters(self.net)

    # ---- acceptance

    def on_train_epoch_end(self) -> None:
        if self.current_epoch + 1 == self.trainer.max_epochs:
            self.found = self.score()
            self.accuracy = self.found["accuracy"]
            self.log_dict({f"val/{name}": value for name, value in self.found.items()})

    def score(self) -> dict[str, float]:
        """accuracy and IS of the centre crops of all images it was trained on, IS of as many random training images."""
        data = self.data
        rows, others = data.rows(data.train_split), data.rows("train")
        logits, labels = self.look(rows)
        found = {"accuracy": (logits.argmax(1) == labels).float().mean().item()}
        # a split of m images scores m at most: five of each class at least in one (CUB: 5.9 in each of ten)
        splits = max(1, min(SPLITS, len(rows) // (5 * len(self.class_names))))
        found["is_test"] = inception_score(logits, splits=splits)[0]
        if len(others):
            drawn = np.random.default_rng(self.seed).choice(others, min(len(rows), len(others)), replace=False)
            logits, _ = self.look(np.sort(drawn))
            found["is_train"] = inception_score(logits, splits=min(splits, len(logits)))[0]
        return found

    @torch.no_grad()
    def look(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Logits N,K of the averaged network and targets N, through the same door as generated images."""
        data, found = self.data, []
        side = round(data.image_size * self.eval_crop)
        net = self.average.module.eval()
        for batch in data.eval_loader(rows=rows, reads=("image",)):
            sample = data.move(batch, self.device)
            logits = net(seen(centre(to_uint8(sample["image"]), side), self.image_size))
            found.append((logits.cpu(), self.target[sample["label"]].cpu()))
        logits, labels = zip(*found, strict=True)
        return torch.cat(logits), torch.cat(labels)

    def on_train_end(self) -> None:
        """Also reached when the run was stopped before the last epoch."""
        self.found = self.found or self.score()
        self.accuracy = self.found["accuracy"]
        told = ", ".join(f"{name} {value:.4g}" for name, value in self.found.items())
        log.info("the IS network of %s: %s", self.data_name, told)
        self.accept()

    def shortfalls(self) -> list[str]:
        """Is it a judge?"""
        return shortfalls(self.found, len(self.class_names), self.bar)

    # ---- files

    def content(self) -> dict[str, Any]:
        """As PARTS has it; the averaged weights are in torchvision's layout. `load_is_network` reads it."""
        return {
            "arch": self.arch,
            "classes": self.class_names,
            "class_ids": self.class_ids,
            "image_size": self.image_size,
            "sha256": self.filenames,
            "start": self.start,
            "found": self.found,
            "state_dict": on_cpu(self.average.module.state_dict()),
        }


def shortfalls(found: Mapping[str, float], classes: int, bar: Mapping[str, Any]) -> list[str]:
    """What keeps a network from being the judge, in words; see `ISNetwork` for how the bars follow the classes."""
    is_test, low, high = (
        score ** (math.log(classes) / math.log(CLASSES)) for score in (bar["is_test"], *bar["is_train"])
    )
    faults = []
    if found["accuracy"] < bar["accuracy"]:
        faults.append(f"its accuracy on its own photos is {found['accuracy']:.3f}, {bar['accuracy']:g} is wanted")
    if found["is_test"] < is_test:
        faults.append(f"their IS is {found['is_test']:.2f}, {is_test:.3g} is wanted")
    if "is_train" in found and not low <= found["is_train"] <= high:
        faults.append(f"the IS of other birds is {found['is_train']:.2f}, not {low:.3g} to {high:.3g}")
    return faults


# ---- serving


PARTS = {  # of an export
    "data": str,
    "arch": str,
    "classes": are_words,
    "class_ids": list,
    "image_size": int,
    "sha256": str,
    "start": str,
    "found": dict,
    "state_dict": is_state,
}


class ISExtractor(Extractor):
    """The network as the Inception Score sees through it: uint8 (`to_uint8` with rounding="floor") in, K logits out."""

    def __init__(self, content: Mapping[str, Any], path: str | Path) -> None:
        """content: of the file at a path, as PARTS has it. UserError for weights of another network."""
        with torch.device("meta"):
            net = build(content["arch"], len(content["class_ids"]))
        state = {k: v for k, v in content["state_dict"].items() if not k.startswith("AuxLogits")}
        body, head = body_and_head(fill(net, state, path))
        super().__init__(nn.ModuleDict({"body": body, "head": head}))
        self.side = int(content["image_size"])
        self.input = f"{self.side} x {self.side}, bilinear as Pillow"
        self.name = f"{content['arch']}-{content['data']}-test{len(content['class_ids'])}"
        self.hash = file_hash(path)
        self.info = {k: v for k, v in content.items() if k != "state_dict"}

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.get_submodule("net.body")(seen(images, self.side))
        return features, self.get_submodule("net.head")(features)


def load_is_network(path: str | Path) -> ISExtractor:
    """An export of `model=is_network`, or {state_dict, class_ids, sha256} of an Inception-v3 with torchvision's keys.

    A foreign head of 51 rows is TensorFlow's: row 0 is a background class that was never used, and is dropped.
    """
    content = read_weights(path)
    known = read_artifact(path, "is_network", PARTS) if "kind" in content else foreign(content, path)
    return ISExtractor(known, path)


def foreign(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """A file without the suite's facts, brought into the layout of an export."""
    state = {str(k).removeprefix("module."): v for k, v in content.get("state_dict", content).items()}
    state = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    if "fc.weight" not in state or "fc.bias" not in state:
        raise UserError(f"{path} holds no Inception-v3 with a head fc: give the file that model=is_network made.")
    class_ids = [int(i) for i in content.get("class_ids", range(len(state["fc.bias"])))]
    if len(state["fc.bias"]) == CLASSES + 1:
        state |= {"fc.weight": state["fc.weight"][1:].clone(), "fc.bias": state["fc.bias"][1:].clone()}
        class_ids = class_ids[-CLASSES:]
    facts = {"arch": "inception_v3", "image_size": SIDES["inception_v3"], "data": "cub", "class_ids": class_ids}
    told: dict[str, Any] = {"sha256": content.get("sha256"), "start": "a file of others", "found": {}}
    return facts | told | {"state_dict": state}
