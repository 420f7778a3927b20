"""Mask R-CNN (He et al., ICCV 2017) as torchvision has it: instances of a photo, and fine-tuning on a data set's masks.

COCO has no flower. What it takes flowers for is mostly a potted plant or a vase, so these go before all other classes.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.ops.misc import FrozenBatchNorm2d

from common.blocks import Frozen
from common.data.records import Sample
from common.errors import UserError, check_ranges
from common.files import file_hash
from common.gan import Artifact
from common.weights import (
    KNOWN_FILES,
    check_export,
    check_parts,
    fill,
    is_state,
    load_known,
    on_cpu,
    read_weights,
    require_weights,
)
from jem.views import components, overlap, stacked

log = logging.getLogger(__name__)

COCO_CLASSES = 91
PLANTS = (64, 86)  # of COCO: potted plant, vase
CUT = 0.5  # of a soft mask: torchvision's
WEIGHTS_FILE = KNOWN_FILES["mask_rcnn"].name
INSTEAD = "take the data set's masks with prepare.source=official"
PARTS: Mapping[str, Any] = {"data": str, "classes": int, "min_size": int, "iou": float, "state_dict": is_state}


def mask_rcnn(classes: int, min_size: int = 800) -> MaskRCNN:
    """As torchvision builds it for its COCO_V1 weights: statistics of the backbone frozen, their eps 0.

    Given no weights it builds BatchNorm instead, into which such files do not load. min_size: 800 is torchvision's.
    """
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
    for layer in backbone.modules():
        if isinstance(layer, FrozenBatchNorm2d):
            layer.eps = 0.0
    return MaskRCNN(backbone, num_classes=classes, min_size=min_size)


def with_classes(net: MaskRCNN, classes: int) -> MaskRCNN:
    """The same network with new heads for another number of classes, the background among them."""
    boxes, masks = net.roi_heads.box_predictor, net.roi_heads.mask_predictor
    net.roi_heads.box_predictor = FastRCNNPredictor(boxes.cls_score.in_features, classes)
    net.roi_heads.mask_predictor = MaskRCNNPredictor(masks.conv5_mask.in_channels, 256, classes)
    return net


def load_coco(path: str | Path) -> MaskRCNN:
    """torchvision's maskrcnn_resnet50_fpn_coco file, also under the names of its older versions."""
    return load_known(mask_rcnn(COCO_CLASSES), read_weights(path), "mask_rcnn", path)


def segmenter_file(path: str | None) -> Path:
    """The file given, or torchvision's own in torch.hub's folder. UserError where neither is there."""
    remedy = f"download {WEIGHTS_FILE} and give prepare.segmenter=FILE, or {INSTEAD}"
    return require_weights("mask_rcnn", path, "prepare.source=maskrcnn looks through", remedy)


class Segmenter(Frozen):
    """Photos -> instance maps, as jem/views.py has them. `path`, `hash`: of the file of weights."""

    def __init__(self, net: nn.Module, path: Path, least_score: float, most_instances: int) -> None:
        super().__init__(net)
        self.path, self.hash = path, file_hash(path)
        self.least_score, self.most = least_score, most_instances

    @torch.no_grad()
    def forward(self, photos: Sequence[np.ndarray]) -> list[np.ndarray]:
        """H,W,3 uint8 each, of any size -> H,W uint8 each, all 0 where nothing is found."""
        device = next(self.net.parameters()).device
        inputs = [torch.from_numpy(photo.copy()).permute(2, 0, 1).to(device) / 255 for photo in photos]
        return [instances_of(found, self.least_score, self.most) for found in self.net(inputs)]


def load_segmenter(path: str | Path, least_score: float, most_instances: int) -> Segmenter:
    """torchvision's COCO file, or an export of `model=segmenter`."""
    check_ranges("prepare", {"least_score": least_score}, {"least_score": "[0, 1]"})
    check_ranges("prepare", {"most_instances": most_instances}, {"most_instances": "int [1, 255]"})
    content = read_weights(path)
    if "kind" in content:
        check_export(content, "segmenter", 1, path, "give the file that model=segmenter made")
        check_parts(content, PARTS, path)
        with torch.device("meta"):
            net = mask_rcnn(content["classes"], content["min_size"])
        return Segmenter(fill(net, content["state_dict"], path), Path(path), least_score, most_instances)
    net = load_known(mask_rcnn(COCO_CLASSES), content, "mask_rcnn", path)
    return Segmenter(net, Path(path), least_score, most_instances)


def instances_of(found: Mapping[str, Tensor], least_score: float, most: int) -> np.ndarray:
    """What the network says of a photo -> its instance map, H,W uint8.

    found: boxes P,4, labels P, scores P, masks P,1,H,W soft. Detections of least_score, plants and vases alone where
    there are any; of them the `most` surest.
    """
    scores, labels = found["scores"].cpu(), found["labels"].cpu()
    kept = scores >= least_score
    plants = kept & torch.isin(labels, torch.tensor(PLANTS))
    chosen = torch.nonzero(plants if plants.any() else kept).flatten()
    chosen = chosen[scores[chosen].argsort(descending=True, stable=True)[:most]]
    masks = (found["masks"][chosen, 0] >= CUT).cpu().numpy()
    return stacked(masks) if len(masks) else np.zeros(tuple(found["masks"].shape[-2:]), np.uint8)


# ---- model=segmenter


class MaskRCNNTuning(Artifact):
    """Mask R-CNN fine-tuned to one class, the object, from the masks of the training classes."""

    KIND = "segmenter"
    FACTS: ClassVar[Mapping[str, Any]] = {"iou": float}

    def __init__(
        self,
        *,
        weights: str | None,
        min_size: int,
        optimizer: Mapping[str, Any],
        least_score: float,
        measured: int,
        bar: Mapping[str, float],
    ) -> None:
        """weights: a file of COCO's; null = torchvision's own in torch.hub's folder; scratch = none, for tests.

        min_size: shorter side that photos are resized to. optimizer: {lr, momentum, weight_decay, drop_epoch: after
        which the rate is a tenth}. measured: test photos that the IoU is over. bar: {iou: of a good one}.
        """
        super().__init__()
        self.save_hyperparameters()
        ranges = {"lr": "(0, inf)", "momentum": "[0, 1)", "weight_decay": "[0, inf)", "drop_epoch": "int [1, inf)"}
        check_ranges("model.optimizer", optimizer, ranges)
        told = {"min_size": min_size, "measured": measured, "least_score": least_score}
        check_ranges("model", told, {"min_size": "int [1, inf)", "measured": "int [1, inf)", "least_score": "[0, 1]"})
        check_ranges("model.bar", bar, {"iou": "[0, 1]"})
        self.optimizer, self.min_size, self.measured = dict(optimizer), min_size, measured
        self.least_score, self.bar, self.iou = least_score, dict(bar), float("nan")
        self.net = with_classes(mask_rcnn(COCO_CLASSES, min_size), 2)
        self.start = weights

    def setup(self, stage: str) -> None:
        """The weights to start from; where they are absent this is not worth training, so a UserError."""
        super().setup(stage)
        if stage == "fit" and self.data.train_split != "train":
            raise UserError(
                f"data.train_split={self.data.train_split} would show model=segmenter the test classes, on which it is "
                "measured: leave data.train_split=train."
            )
        if stage != "fit" or self.start == "scratch" or self.images_seen:
            return
        remedy = f"give model.weights=FILE, or {INSTEAD}"
        found = require_weights("mask_rcnn", self.start, "model=segmenter fine-tunes", remedy)
        state = load_coco(found).state_dict()
        mine = self.net.state_dict()
        self.net.load_state_dict(mine | {k: v for k, v in state.items() if v.shape == mine[k].shape})

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """The sum of the five losses of Mask R-CNN, over the photos that show an object."""
        pairs = [(image, aim) for image, aim in zip(batch["image"], targets(batch["mask"]), strict=True) if aim]
        if not pairs:
            return sum(p.sum() * 0 for p in self.net.parameters() if p.requires_grad)  # type: ignore[return-value]
        images, aims = zip(*pairs, strict=True)
        costs = self.net([image * 0.5 + 0.5 for image in images], list(aims))
        loss = torch.stack(list(costs.values())).sum()
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(images))
        return loss

    def on_train_epoch_end(self) -> None:
        self.iou = self.measure()
        self.log("val/iou", self.iou)

    @torch.no_grad()
    def measure(self) -> float:
        """Mean IoU of what it finds in test photos with their masks; nan where there are none."""
        rows = self.data.rows("test")[: self.measured]
        self.net.eval()
        found = []
        for batch in self.data.eval_loader(rows=rows):
            sample = self.data.move(batch, self.device)
            told = self.net(list(sample["image"] * 0.5 + 0.5))
            masks = sample["mask"][:, 0].cpu().numpy()
            found += [
                overlap(instances_of(one, self.least_score, 255), mask) for one, mask in zip(told, masks, strict=True)
            ]
        self.net.train()
        return float(np.mean(found)) if found else float("nan")

    def shortfalls(self) -> list[str]:
        return [] if self.iou >= self.bar["iou"] else [f"its IoU with the masks of test photos is {self.iou:.2f}"]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        how = self.optimizer
        moving = [p for p in self.net.parameters() if p.requires_grad]
        sgd = torch.optim.SGD(moving, how["lr"], momentum=how["momentum"], weight_decay=how["weight_decay"])
        return {"optimizer": sgd, "lr_scheduler": torch.optim.lr_scheduler.MultiStepLR(sgd, [how["drop_epoch"]])}

    def content(self) -> dict[str, Any]:
        """As PARTS has it; the state dict is in torchvision's layout."""
        known = {"classes": 2, "min_size": self.min_size, "iou": self.iou}
        return known | {"state_dict": on_cpu(self.net.state_dict())}


def targets(masks: Tensor) -> list[dict[str, Tensor] | None]:
    """B,1,S,S in {0, 1} -> of each what Mask R-CNN learns from: boxes P,4, labels P (all 1), masks P,S,S; None where
    there is no instance."""
    found: list[dict[str, Tensor] | None] = []
    for mask in masks[:, 0].cpu().numpy():
        parts = components(mask)
        own = [parts == k for k in range(1, int(parts.max()) + 1)]
        if not own:
            found.append(None)
            continue
        spans = [[np.flatnonzero(one.any(axis)) for axis in (0, 1)] for one in own]
        boxes = [[x[0], y[0], x[-1] + 1, y[-1] + 1] for x, y in spans]
        aim = {"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.ones(len(own), dtype=torch.int64)}
        aim["masks"] = torch.from_numpy(np.stack(own).astype(np.uint8))
        found.append({name: value.to(masks.device) for name, value in aim.items()})
    return found
