"""Image classifiers: trained on a data set here or read from torchvision's files, then frozen to serve features.

B images, S side, F width of the penultimate layer (fc7 after ReLU for VGG and AlexNet, else pooled), K classes.
"""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from common.blocks import Frozen, WarmCosine, upcast
from common.data.records import Sample
from common.errors import UserError, check_ranges, choose
from common.files import file_hash
from common.gan import Artifact
from common.weights import are_words, fill, is_state, on_cpu, read_artifact, read_weights

log = logging.getLogger(__name__)

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
INPUT = {"inception_v3": {"mean": [0.5] * 3, "std": [0.5] * 3}}  # torchvision's file is TensorFlow's: [-1, 1]
SIDES = {  # the side each architecture was made for
    "inception_v3": 299,
    **dict.fromkeys(["vgg16", "vgg16_bn", "vgg19", "alexnet", "resnet18", "resnet50", "resnet101"], 224),
    **dict.fromkeys(["vgg16_tiny", "vgg16_bn_tiny", "alexnet_tiny", "resnet18_tiny"], 64),
}


def build(arch: str, classes: int) -> nn.Module:
    """A torchvision network with a head of K classes, freshly initialised. `*_tiny`: channels / 8, fc width 128."""
    choose("model.arch", arch, SIDES)
    options: dict[str, Any] = {"aux_logits": False, "init_weights": True} if arch == "inception_v3" else {}
    if not arch.endswith("_tiny"):
        return torchvision.models.get_model(arch, weights=None, num_classes=classes, **options)
    with torch.device("meta"):
        net = torchvision.models.get_model(arch.removesuffix("_tiny"), weights=None, num_classes=classes)
    return shrink(net, classes)


def shrink(net: nn.Module, classes: int) -> nn.Module:
    """VGG, AlexNet or ResNet with the same layer list, every channel count / 8 and 128 in place of 4096."""
    head = body_and_head(net)[1]

    def small(layer: nn.Module) -> nn.Module:
        match layer:
            case nn.Conv2d():
                sizes = max(3, layer.in_channels // 8), layer.out_channels // 8, layer.kernel_size
                conv = nn.Conv2d(*sizes, layer.stride, layer.padding, bias=layer.bias is not None)  # type: ignore[arg-type]
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
                return conv
            case nn.BatchNorm2d():
                return nn.BatchNorm2d(layer.num_features // 8)
            case nn.Linear():
                fan_in = 128 if layer.in_features == 4096 else layer.in_features // 8
                return nn.Linear(fan_in, classes if layer is head else 128)
        return layer

    for parent in list(net.modules()):
        for name, layer in list(parent.named_children()):
            setattr(parent, name, small(layer))
    return net


def body_and_head(net: nn.Module) -> tuple[nn.Sequential, nn.Linear]:
    """The same network in two parts: images -> B,F and B,F -> B,K. The children of all of them run in order."""
    *parts, last = net.children()
    if isinstance(last, nn.Linear):  # ResNet, Inception
        return nn.Sequential(*parts, nn.Flatten()), last
    *layers, head = last.children()  # VGG, AlexNet
    return nn.Sequential(*parts, nn.Flatten(), *layers), cast(nn.Linear, head)


def prepare(images: Tensor, side: int, mean: list[float], std: list[float]) -> Tensor:
    """Images B,3,*,* in [-1, 1] as a classifier wants them: side `side`, normalised. Antialiased bilinear."""
    if images.shape[-2:] != (side, side):
        images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    m, s = (torch.tensor(v, device=images.device, dtype=images.dtype).view(3, 1, 1) for v in (mean, std))
    return (images * 0.5 + 0.5 - m) / s


def random_crops(images: Tensor, side: int, smallest: float) -> Tensor:
    """A random part of each square image, resized: B,3,S,S -> B,3,side,side, each with its own draw, on the device.

    Of `smallest` to 1 of the area and 3/4 to 4/3 in shape (log-uniform), cut to the image where it would stick out.
    """
    area, ratio, x, y = torch.rand(4, len(images), device=images.device)
    area, ratio = smallest + (1 - smallest) * area, ((2 * ratio - 1) * math.log(4 / 3)).exp()
    width, height = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
    zero = torch.zeros_like(area)
    theta = torch.stack([width, zero, (2 * x - 1) * (1 - width), zero, height, (2 * y - 1) * (1 - height)], 1)
    grid = F.affine_grid(theta.view(-1, 2, 3), [len(images), 3, side, side], align_corners=False)
    return F.grid_sample(upcast(images), grid, padding_mode="border", align_corners=False)


def recognise(state: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """An export for a torchvision state dict: architecture and K by keys and shapes, ImageNet's normalisation."""
    state = state.get("state_dict", state)
    state = {str(k).replace("module.", ""): v for k, v in state.items() if "AuxLogits" not in k}
    head = next((k for k in ("fc.bias", "classifier.6.bias") if isinstance(state.get(k), Tensor)), None)

    def shapes(tensors: dict[str, Any]) -> dict[str, torch.Size]:
        return {k: v.shape for k, v in tensors.items() if isinstance(v, Tensor) and "num_batches" not in k}

    for arch in SIDES if head else ():
        with torch.device("meta"):
            net = build(arch, len(state[str(head)]))
        if shapes(net.state_dict()) == shapes(state):
            k = len(state[str(head)])
            data = "imagenet" if k == 1000 else Path(path).stem
            known = {"arch": arch, "classes": [str(i) for i in range(k)], "image_size": SIDES[arch]} | INPUT.get(
                arch, IMAGENET
            )
            return {"kind": "classifier", "data": data, "accuracy": None, "state_dict": state} | known
    raise UserError(
        f"{path} holds no classifier known here: give an export or torchvision weights of {', '.join(SIDES)}."
    )


PARTS = {  # of an export
    "data": str,
    "arch": str,
    "classes": are_words,
    "image_size": int,
    "mean": list,
    "std": list,
    "accuracy": float | None,
    "state_dict": is_state,
}


class ImageClassifier(Frozen):
    """A classifier that only serves: eval mode, frozen, float32 also under autocast. Gradients reach the images."""

    def __init__(self, export: Mapping[str, Any], hash: str, path: str | Path = "the export") -> None:
        """export: as PARTS has it. hash: of the file it came from. path: that file, for what is wrong with it."""
        with torch.device("meta"):
            net = build(export["arch"], len(export["classes"]))
        super().__init__(fill(net, export["state_dict"], path))
        self.info = {k: v for k, v in export.items() if k != "state_dict"}
        self.name, self.hash = f"classifier-{export['data']}", hash
        self.classes: list[str] = export["classes"]
        self.width = body_and_head(net)[1].in_features

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images B,3,*,* in [-1, 1] of any size -> penultimate features B,F and logits B,K, in float32 at least."""
        with torch.autocast(images.device.type, enabled=False):
            x = prepare(upcast(images), self.info["image_size"], self.info["mean"], self.info["std"])
            body, head = body_and_head(self.net)
            penultimate = body(x)
            return penultimate, head(penultimate)

    def forward(self, images: Tensor) -> Tensor:
        """Logits B,K."""
        return self.features(images)[1]

    def export(self) -> dict[str, Any]:
        """Plain values and tensors, from which this can be made again."""
        return self.info | {"state_dict": self.net.state_dict()}


def load_classifier(path: str | Path) -> ImageClassifier:
    """An export of `model=classifier`."""
    return ImageClassifier(read_artifact(path, "classifier", PARTS), file_hash(path), path)


def load_image_encoder(path: str | Path) -> ImageClassifier:
    """An export of `model=classifier`, or torchvision's own file such as vgg16-397923af.pth."""
    content = read_weights(path)
    if "kind" in content:
        return load_classifier(path)
    return ImageClassifier(recognise(content, path), file_hash(path), path)


RANGES = {
    "lr": "(0, inf)",
    "head_lr_factor": "(0, inf)",
    "momentum": "[0, 1)",
    "weight_decay": "[0, inf)",
    "warmup_epochs": "[0, inf)",
}


class Classifier(Artifact):
    """Trains a torchvision architecture on the classes of a data set's training split.

    Where ImageNet weights are absent this gives VSE its image features and the metrics their extractor.
    """

    KIND = "classifier"
    FACTS: ClassVar[Mapping[str, Any]] = {"class_names": are_words, "accuracy": float}
    TAUGHT: ClassVar[tuple[str, ...]] = ("class_names",)

    net: nn.Module
    target: Tensor  # class of Records -> 0..K-1, -1 for a class that the training split lacks
    held: Tensor  # row of Records -> measured, not learnt

    def __init__(
        self,
        *,
        arch: str,
        image_size: int,
        weights: str | None,
        optimizer: Mapping[str, Any],
        label_smoothing: float,
        held_out: float,
        seed: int,
        classes: int | None = None,
    ) -> None:
        """classes: K, or null to take it from the data. image_size: what the network sees.

        weights: a file to fine-tune from. optimizer: {name: sgd or adam, lr, head_lr_factor: how much faster the head
        of a fine-tuned network learns, momentum, weight_decay, warmup_epochs}. held_out: share of each class (one image
        at least) that is measured and not learnt, chosen by `seed`.
        """
        super().__init__()
        self.save_hyperparameters()
        told = {"image_size": image_size, "held_out": held_out, "label_smoothing": label_smoothing}
        check_ranges("model", told, dict.fromkeys(told, "[0, 1)") | {"image_size": "int [1, inf)"})
        check_ranges("model.optimizer", optimizer, RANGES)
        choose("model.optimizer.name", optimizer["name"], ("sgd", "adam"))
        self.arch, self.image_size, self.weights, self.optimizer = arch, image_size, weights, dict(optimizer)
        self.label_smoothing, self.held_out, self.seed = label_smoothing, held_out, seed
        self.class_names: list[str] = []
        self.accuracy = float("nan")
        if classes is not None:
            self.build(classes)

    def build(self, classes: int) -> None:
        """The network, with the given weights where there are any (the head only if it has as many classes)."""
        self.net = build(self.arch, classes)
        if self.weights is None:
            return
        source = load_image_encoder(self.weights)
        if source.info["arch"] != self.arch:
            raise UserError(f"{self.weights} holds {source.info['arch']}, not {self.arch}: set model.arch to it.")
        state, mine = source.net.state_dict(), self.net.state_dict()
        self.net.load_state_dict(mine | {k: v for k, v in state.items() if v.shape == mine[k].shape})

    # ---- data: the classes of the training split become 0..K-1

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if stage != "fit":
            return
        data = self.data
        records, rows = data.records, data.rows(data.train_split)
        labels = np.unique(records.labels[rows])
        self.class_names = [records.classes[label] for label in labels]
        known = self.hparams["classes"]
        if known not in (None, len(labels)):
            raise UserError(f"model.classes={known}, but {data.name} trains {len(labels)} classes: leave it null.")
        if not hasattr(self, "net"):
            self.build(len(labels))
        target = torch.full((len(records.classes),), -1)
        target[labels] = torch.arange(len(labels))
        held = torch.zeros(len(records), dtype=torch.bool)
        held[held_out_rows(records.labels, rows, self.held_out, self.seed)] = True
        self.register_buffer("target", target, persistent=False)
        self.register_buffer("held", held, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images B,3,S,S in [-1, 1] -> logits B,K."""
        return self.net(prepare(images, self.image_size, **IMAGENET))

    def images(self, batch: Sample, learn: bool) -> Tensor:
        """What the network is shown of a batch, to learn from or to be measured on: B,3,S,S in [-1, 1]."""
        return batch["image"]

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """Cross entropy over the rows that are not held out; those pass too, so that the shape stays the same."""
        costs = F.cross_entropy(
            self(self.images(batch, learn=True)).float(),
            self.target[batch["label"]],
            label_smoothing=self.label_smoothing,
            reduction="none",
        )
        learnt = ~self.held[batch["row"]]
        loss = (costs * learnt).sum() / learnt.sum().clamp_min(1)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(costs))
        return loss

    def on_train_epoch_end(self) -> None:
        """Accuracy on the held-out images, as inference sees them."""
        self.accuracy = self.measure()
        self.log("val/accuracy", self.accuracy)

    @torch.no_grad()
    def measure(self) -> float:
        """Share of the held-out images whose class is the most likely; nan when there are none."""
        data = self.data
        rows = self.held.nonzero().flatten().cpu().numpy()
        self.net.eval()
        hits = []
        for batch in data.eval_loader(rows=rows):
            sample = data.move(batch, self.device)
            hits.append(self(self.images(sample, learn=False)).argmax(1) == self.target[sample["label"]])
        self.net.train()
        return torch.cat(hits).float().mean().item() if hits else float("nan")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """SGD or Adam; a linear warm-up, then half a cosine to 0, a step at a time."""
        body, head = body_and_head(self.net)
        how = self.optimizer
        faster = how["head_lr_factor"] if self.weights else 1.0
        groups = [
            {"params": list(body.parameters()), "lr": how["lr"]},
            {"params": list(head.parameters()), "lr": how["lr"] * faster},
        ]
        optimizer: torch.optim.Optimizer
        if how["name"] == "adam":
            optimizer = torch.optim.AdamW(groups, weight_decay=how["weight_decay"])
        else:
            optimizer = torch.optim.SGD(groups, momentum=how["momentum"], weight_decay=how["weight_decay"])
        steps, epochs = int(self.trainer.estimated_stepping_batches), self.trainer.max_epochs or 1
        rate = WarmCosine(steps, epochs, how["warmup_epochs"])
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # ---- files

    def take_facts(self, facts: Mapping[str, Any]) -> None:
        super().take_facts(facts)
        if not hasattr(self, "net"):
            self.build(len(self.class_names))

    def content(self) -> dict[str, Any]:
        """As PARTS has it; the state dict is in torchvision's layout."""
        return {
            "arch": self.arch,
            "classes": self.class_names,
            "image_size": self.image_size,
            **IMAGENET,
            "accuracy": self.accuracy,
            "state_dict": on_cpu(self.net.state_dict()),
        }


def held_out_rows(labels: np.ndarray, rows: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Rows to measure on: `share` of each class and one at least, none of a class with a single image."""
    rng = np.random.default_rng(seed)
    picked = []
    for label in np.unique(labels[rows]):
        own = rng.permutation(rows[labels[rows] == label])
        picked.append(own[: min(max(1, round(share * len(own))), len(own) - 1)])
    return np.sort(np.concatenate(picked))
