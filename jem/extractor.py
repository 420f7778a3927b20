"""The frozen network whose features of a segmentation image guide the generator, and how one is trained.

B batch, F width of fc7 (4096), C,S,S shape of conv5. "AlexNet layer 7" and "VGG layer 15" are the last layer but one by
weights, fc7; counted with the max-pools they are the first layer of the conv5 stage (docs/jem.md has both countings).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from common.blocks import Frozen, upcast
from common.classifier import (
    IMAGENET,
    PARTS,
    SIDES,
    Classifier,
    ImageClassifier,
    body_and_head,
    prepare,
    random_crops,
    recognise,
)
from common.classifier import build as build_classifier
from common.data.records import Sample
from common.errors import UserError, check_ranges, choose
from common.files import file_hash
from common.metrics.functions import from_uint8
from common.weights import read_artifact, read_weights

UNTRAINED = "random_"  # before the architecture: the control that separates learned features from any code of an image
LAYERS = ("fc7", "conv5")
CONV5 = {"alexnet": 12, "vgg16": 26, "vgg16_bn": 37, "vgg19": 34}  # layers of `features` up to conv5's ReLU
EXTRACTORS = [name for name in SIDES if name.removesuffix("_tiny") in CONV5]
KINDS = ("guide_cls", "classifier")


def rms(code: Tensor) -> Tensor:
    """Each code of a batch with a mean square of 1 over all its numbers; zeros stay zeros. B,... in float32 at least.

    AlexNet's, VGG's and self-trained features are then of one size, so that size decides nothing about speed.
    """
    flat = upcast(code).flatten(1)
    norms = torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp_min(1e-8)
    return (flat * (flat.shape[1] ** 0.5 / norms)).view(code.shape)


def tapped(net: nn.Module, arch: str, layer: str) -> nn.Sequential:
    """The part of a torchvision AlexNet or VGG that ends in the ReLU of a layer."""
    if choose("prepare.layer", layer, LAYERS) == "fc7":
        return body_and_head(net)[0]
    features = cast(nn.Sequential, next(net.children()))
    return features[: CONV5[arch.removesuffix("_tiny")]]


def code_shape(arch: str, layer: str, side: int) -> tuple[int, ...]:
    """F, or C,S',S': the shape of a code of a view of this side."""
    with torch.device("meta"):  # without the work
        return tuple(tapped(build_classifier(arch, 2).eval(), arch, layer)(torch.zeros(1, 3, side, side)).shape[1:])


class GuideExtractor(Frozen):
    """Views -> codes after ReLU, without dropout, in float32 also under autocast.

    `shape`: of a code. `side`: of a view that goes in as it is. `hash`: of the weights. `info`: arch, layer, data,
    accuracy, view, source (the last four of what it was trained on, None where unknown), provenance in words.
    """

    def __init__(self, net: nn.Module, layer: str, info: Mapping[str, Any], hash: str) -> None:
        """net: a torchvision AlexNet or VGG, or one with the same layers. info: as PARTS of a classifier has it."""
        super().__init__(tapped(net, info["arch"], layer))
        self.side, self.hash = int(info["image_size"]), hash
        self.mean, self.std = list(info["mean"]), list(info["std"])
        told = ("arch", "data", "accuracy", "view", "source", "provenance")
        self.info = {"layer": layer} | {key: info.get(key) for key in told}
        self.shape = code_shape(info["arch"], layer, self.side)

    def forward(self, views: Tensor) -> Tensor:
        """uint8 B,S,S,3 or float B,3,S,S in [-1, 1], of any side -> B,F or B,C,S,S, not negative."""
        if views.dtype == torch.uint8:
            views = from_uint8(views.permute(0, 3, 1, 2))
        with torch.autocast(views.device.type, enabled=False):
            return self.net(prepare(upcast(views), self.side, self.mean, self.std))


def guide_extractor(file: str | Path | None, arch: str, layer: str, seed: int = 0) -> GuideExtractor:
    """The extractor of a file: `model=guide_cls`'s, `model=classifier`'s or torchvision's, of this architecture.

    vgg16 takes vgg16_bn too, which is what trains from scratch. random_<arch>: untrained, drawn by `seed`, no file.
    """
    wanted = choose("prepare.extractor", arch.removeprefix(UNTRAINED), EXTRACTORS)
    if arch.startswith(UNTRAINED):
        return _untrained(wanted, layer, seed)
    if file is None:
        raise UserError(f"prepare.extractor={arch} needs a file of weights: give prepare.weights=FILE.")
    content = read_weights(file)
    kind = content.get("kind")
    if kind in KINDS:
        content, trained = read_artifact(file, kind, PARTS), f"model={kind} on {content.get('data')}"
    else:
        content, trained = recognise(content, file), "torchvision's layout"
    if content["arch"] not in (wanted, wanted.replace("vgg16", "vgg16_bn")):
        raise UserError(f"{file} holds {content['arch']}, not {wanted}: give prepare.extractor={content['arch']}.")
    check_numbers(content["state_dict"], file)
    net = ImageClassifier(content, file_hash(file), file).net
    return GuideExtractor(net, layer, content | {"provenance": f"{trained}: {Path(file).name}"}, file_hash(file))


def check_numbers(state: Mapping[str, Tensor], file: str | Path) -> None:
    """UserError for weights that are not numbers: torchvision's VGG16_Weights.IMAGENET1K_FEATURES has no classifier."""
    bad = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if bad:
        raise UserError(
            f"{file} holds no numbers in {bad[0]}, as IMAGENET1K_FEATURES does: give torchvision's IMAGENET1K_V1."
        )


def _untrained(arch: str, layer: str, seed: int) -> GuideExtractor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_classifier(arch, 1000)
    info = {"arch": arch, "data": None, "accuracy": None, "image_size": SIDES[arch], **IMAGENET}
    return GuideExtractor(net, layer, info | {"provenance": f"untrained, seed {seed}"}, f"untrained{seed}")


# ---- model=guide_cls


class GuideClassifier(Classifier):
    """Classifies the segmentation images of the training classes; what it has learnt serves as a `GuideExtractor`.

    The images are those of prepare=views, in the order of the records; the data set gives rows and classes alone.
    """

    KIND = "guide_cls"

    def __init__(
        self,
        *,
        views: str | None,
        view: str,
        source: str,
        instances: str | None,
        segmenter: str | None,
        augment: Mapping[str, Any],
        dropout: float,
        **more: Any,
    ) -> None:
        """views: the file of prepare=views; view, source, instances, segmenter: how it was made. more: of `Classifier`.

        augment: {crop: smallest share of the area in a training crop, jitter: of brightness, contrast, saturation}.
        dropout: before fc6 and fc7.
        """
        check_ranges("model.augment", augment, {"crop": "(0, 1]", "jitter": "[0, 1)"})
        check_ranges("model", {"dropout": dropout}, {"dropout": "[0, 1)"})
        self.dropout = dropout  # before the networks are built
        super().__init__(**more)
        self.file, self.view, self.source, self.augment = views, view, source, dict(augment)

    def build(self, classes: int) -> None:
        super().build(classes)
        for layer in self.net.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = self.dropout

    def setup(self, stage: str) -> None:
        if stage == "fit":
            records, split = self.data.records, self.data.train_split
            if split != "train":
                raise UserError(
                    f"data.train_split={split} would show model=guide_cls the test classes, whose pictures it is to "
                    "guide: leave data.train_split=train."
                )
            assert self.file is not None, "views are made before training"
            self.views = read_views(self.file, len(records))
            if len(np.unique(records.labels[self.data.rows(split)])) < 2:
                raise UserError(
                    f"The training split of {records.name} has a single class, so there is nothing to tell apart: add "
                    f"images of a second class to {records.root}, or choose an extractor with weights."
                )
        super().setup(stage)

    def images(self, batch: Sample, learn: bool) -> Tensor:
        views = torch.from_numpy(self.views[batch["row"].cpu().numpy()]).to(self.device)
        x = from_uint8(views.permute(0, 3, 1, 2))
        return augmented(x, batch["flip"], **self.augment) if learn else x

    def content(self) -> dict[str, Any]:
        return super().content() | {"view": self.view, "source": self.source}


def augmented(images: Tensor, flip: Tensor, *, crop: float, jitter: float) -> Tensor:
    """B,3,S,S in [-1, 1], each with its own draw: mirrored where flip says so, a random crop, then brightness, contrast
    and saturation by a factor of 1 - jitter to 1 + jitter each."""
    x = torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images)
    x = random_crops(x, x.shape[-1], crop) * 0.5 + 0.5
    bright, contrast, colour = 1 + jitter * (2 * torch.rand(3, len(x), 1, 1, 1, device=x.device) - 1)
    x = (x * bright).clamp(0, 1)
    mean = grey(x).mean((1, 2, 3), keepdim=True)
    x = (mean + contrast * (x - mean)).clamp(0, 1)
    return (grey(x) + colour * (x - grey(x))).clamp(0, 1) * 2 - 1


def grey(images: Tensor) -> Tensor:
    """B,3,S,S -> B,1,S,S: the luma of ITU-R 601."""
    red, green, blue = images.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


def read_views(path: str | Path, rows: int) -> np.ndarray:
    """N,S,S,3 uint8, mapped into memory. UserError for another file, or one of another number of images."""
    try:
        views = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} is no file of views ({error}): leave it out to have it made anew.") from None
    if views.dtype != np.uint8 or views.ndim != 4 or views.shape[1:] != (views.shape[1], views.shape[1], 3):
        raise UserError(f"{path} holds {views.dtype} of {views.shape}, no views: give what prepare=views made.")
    if len(views) != rows:
        raise UserError(
            f"{path} has {len(views)} views but the data set {rows} images: leave it out to have it made anew."
        )
    return views
