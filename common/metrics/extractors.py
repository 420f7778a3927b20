"""The networks that metrics look through, each with a name and the hash of its weights. B images, F features.

All take uint8 and compute in torch's default type outside autocast, without gradients. Nothing here downloads anything.
"""

import io
import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d, FeatureExtractorInceptionV3
from torchmetrics.functional.image.lpips import _LPIPS

from common.blocks import Frozen
from common.classifier import (
    IMAGENET,
    ImageClassifier,
    body_and_head,
    file_hash,
    load_image_encoder,
)
from common.errors import UserError
from common.metrics.functions import STANDARD, Features, from_uint8
from common.weights import KNOWN_FILES, find_weights, read_weights

log = logging.getLogger(__name__)


class Extractor(Frozen):
    """uint8 images in, what the metrics need out."""

    name: str  # goes into the metrics' keys
    hash: str  # first 8 hexadecimal digits of the weights' SHA-256
    input: str  # size and resize, in words

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 B,3,H,W -> features B,F and logits B,K."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 B,3,H,W -> {"features": B,F, "logits": B,K}, float32. ValueError on other types: see `to_uint8`."""
        if images.dtype != torch.uint8:
            raise ValueError(f"an extractor takes uint8 images, not {images.dtype}: see functions.to_uint8")
        with torch.autocast(images.device.type, enabled=False):
            features, logits = self.look(images)
        return {"features": features, "logits": logits}


class InceptionExtractor(Extractor):
    """torch-fidelity's port of the Inception-v3 of 2015-12-05: F = 2048, K = 1008.

    Equal to torch-fidelity's own extractor to float32 rounding, and faster: batch norms are folded into the
    convolutions, tensors are channels-last, and the resize is one call.
    """

    input = "299 x 299, bilinear as TensorFlow 1"

    def __init__(self, path: str | Path) -> None:
        """path: a weights file (`find_weights("inception")`). UserError when it holds something else.

        Weights of this layout with another hash are used under another name, so no number of theirs is plain FID.
        """
        net = inception(read_weights(path), path)
        for module in net.modules():
            if isinstance(module, BasicConv2d):
                module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()
        layers = dict(net.named_children())  # in the order in which they run
        head = layers.pop("fc")
        super().__init__(nn.Sequential(*layers.values(), nn.Flatten()).to(memory_format=torch.channels_last))
        self.register_buffer("head", head.weight.detach().T.contiguous())
        self.hash = file_hash(path)
        self.name = STANDARD if self.hash == KNOWN_FILES["inception"].hash else f"inception-{self.hash}"
        if self.name != STANDARD:
            log.warning("%s is not the Inception of 2015-12-05: its metrics are called fid@%s", path, self.name)

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The logits are without the bias, which is what the published Inception Scores were computed from."""
        x = (resize_as_tensorflow1(images.to(torch.get_default_dtype()), 299) - 128) / 128
        features = self.net(x.contiguous(memory_format=torch.channels_last))
        return features, features @ self.get_buffer("head")


class ClassifierExtractor(Extractor):
    """A classifier of the suite, where Inception's weights are absent; its numbers are never plain FID."""

    def __init__(self, classifier: ImageClassifier) -> None:
        """classifier: what `common.classifier.load_classifier` gives."""
        super().__init__(classifier)
        self.name, self.hash = classifier.name, classifier.hash
        self.input = f"{classifier.info['image_size']} x {classifier.info['image_size']}, antialiased bilinear"

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 B,3,H,W -> features B,F and logits B,K of a classifier trained here."""
        return self.net.features(from_uint8(images))  # type: ignore[operator]


@lru_cache(maxsize=16)
def pillow_weights(source: int, side: int) -> Tensor:
    """side,source float64: Pillow's bilinear filter along one axis, antialiased, in its whole numbers of 2^-22."""
    scale = source / side
    reach = max(scale, 1.0)
    centres = (np.arange(side)[:, None] + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(int), 0)
    end = np.minimum((centres + reach + 0.5).astype(int), source)
    x = np.arange(source)[None]
    weights = np.maximum(1 - np.abs(x + 0.5 - centres) / reach, 0) * ((x >= first) & (x < end))
    return torch.from_numpy(np.floor(weights / weights.sum(1, keepdims=True) * (1 << 22) + 0.5))


def resize_as_pillow(images: Tensor, side: int) -> Tensor:
    """uint8 B,3,H,W -> uint8 B,3,side,side: to the bit what PIL.Image.resize(..., BILINEAR) gives, on any device.

    Pillow filters the rows, rounds to uint8, then the columns; its sums of whole numbers are exact in float64.
    """
    height, width = images.shape[-2:]
    x = images.double()
    if width != side:
        x = ((x @ pillow_weights(width, side).to(x.device).T + (1 << 21)) / (1 << 22)).floor_().clamp_(0, 255)
    if height != side:
        x = ((pillow_weights(height, side).to(x.device) @ x + (1 << 21)) / (1 << 22)).floor_().clamp_(0, 255)
    return x.to(torch.uint8)


class TorchvisionInception(Extractor):
    """ImageNet's Inception-v3 as torchvision has it: the other FID of the bird papers (MinfengZhu/DM-GAN, eval/FID).

    Early code undid a normalisation that was never done; the numbers known are of that, so it stays. Never plain FID.
    """

    name = "inception-torchvision"
    input = "299 x 299, Pillow's bilinear; v std / 0.5 + (mean - 0.5) / 0.5 of v in [0, 1]"

    def __init__(self, path: str | Path) -> None:
        """path: torchvision's file; UserError when it is something else."""
        net = load_image_encoder(path)
        if net.info["arch"] != "inception_v3":
            raise UserError(
                f"{path} holds {net.info['arch']}, no Inception: give torchvision's {KNOWN_FILES['inception_v3'].name}."
            )
        super().__init__(net.net)
        self.hash = net.hash

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 B,3,H,W -> features B,2048 and logits B,K, at 299 px."""
        mean, std = (torch.tensor(IMAGENET[key], device=images.device).view(3, 1, 1) for key in ("mean", "std"))
        x = resize_as_pillow(images, 299).to(mean.dtype) / 255 * std / 0.5 + (mean - 0.5) / 0.5
        body, head = body_and_head(self.net)
        features = body(x)
        return features, head(features)


def extract(extractor: Extractor, batches: Iterable[Tensor], *, batch_size: int = 64) -> Features:
    """One pass over uint8 B,3,H,W batches, for all metrics. Small batches are put together to batch_size or more."""
    device = next(extractor.parameters()).device
    outputs = [{k: v.cpu() for k, v in extractor(x.to(device)).items()} for x in joined(batches, batch_size)]
    features, logits = (torch.cat([out[key] for out in outputs]) for key in ("features", "logits"))
    return Features(features, logits, extractor.name, extractor.hash, extractor.input)


def joined(batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same rows in batches of `size` or more, but for the last."""
    held: list[Tensor] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= size:
            yield torch.cat(held)
            held = []
    if held:
        yield torch.cat(held)


def inception(state: dict[str, Tensor], path: str | Path) -> FeatureExtractorInceptionV3:
    """torch-fidelity's network with these weights; UserError when they are of another network.

    Its constructor unpickles freely whatever file it is given, so it gets a copy written here, from plain tensors.
    """
    if not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path} holds more than weights: give {KNOWN_FILES['inception'].name} of torch-fidelity.")
    copy = io.BytesIO()
    torch.save(dict(state), copy)
    copy.seek(0)
    layers = ["2048", "logits_unbiased"]
    try:
        with torch.random.fork_rng(devices=[]):  # its initial weights must not move the run's random numbers
            net = FeatureExtractorInceptionV3("inception-v3-compat", layers, feature_extractor_weights_path=copy)
            return net.to(torch.get_default_dtype())
    except RuntimeError as error:
        raise UserError(
            f"{path} is not an Inception-v3 for FID: give {KNOWN_FILES['inception'].name} of torch-fidelity."
        ) from error


def resize_as_tensorflow1(images: Tensor, side: int) -> Tensor:
    """B,3,H,W float -> B,3,side,side: bilinear, output pixel i taken at i * H / side, without antialiasing.

    One more row and column on both sides of the mapping make that scale the one of align_corners: H / side.
    """
    padded = F.pad(images, (0, 1, 0, 1), mode="replicate")
    return F.interpolate(padded, (side + 1, side + 1), mode="bilinear", align_corners=True)[..., :side, :side]


class LPIPS(Frozen):
    """Learned perceptual distance (Zhang et al. 2018, v0.1, AlexNet) by torchmetrics, with a backbone from disk."""

    name = "lpips-alex"

    def __init__(self, path: str | Path) -> None:
        """path: torchvision's AlexNet; UserError when it is something else."""
        state = read_weights(path)
        with torch.random.fork_rng(devices=[]):
            net = _LPIPS(pretrained=True, net="alex", pnet_rand=True)  # its linear heads come with torchmetrics
        backbone = {key: state.get("features." + key.split(".", 1)[1]) for key in net.net.state_dict()}
        try:
            net.net.load_state_dict(backbone)
        except RuntimeError as error:
            raise UserError(f"{path} is not torchvision's AlexNet: give {KNOWN_FILES['alexnet'].name}.") from error
        super().__init__(net)
        self.hash = file_hash(path)

    @torch.no_grad()
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Two uint8 B,3,H,W (sides of 64 and more) -> distances B, float32, 0 for equal images."""
        if not x.dtype == y.dtype == torch.uint8:
            raise ValueError(f"LPIPS takes uint8 images, not {x.dtype} and {y.dtype}: see functions.to_uint8")
        with torch.autocast(x.device.type, enabled=False):
            return self.net(from_uint8(x), from_uint8(y)).flatten()


def load_lpips(explicit: str | Path | None = None) -> LPIPS | None:
    """LPIPS with the file given, else with the one in torch.hub's folder; None when there is none."""
    path = find_weights("alexnet", explicit)
    return None if path is None else LPIPS(path)
