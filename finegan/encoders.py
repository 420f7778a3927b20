"""The encoders of conditions and of images: networks, and both of a finished DAMSM as a GAN is given them (Sec. 3.1;
Xu et al. 2018). Names of weights are those of taoxugit/AttnGAN (AG).

B batch, L tokens of a condition, D width of both codes, h, w regions down and across.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from common.blocks import Frozen
from common.classifier import recognise
from common.errors import UserError, choose
from common.weights import are_words, fill, is_state, on_cpu, read_weights, settings_of
from finegan.conditions import cleaned_hash

TRUNKS = ("inception_v3", "conv")
WIDTHS = (3, 32, 64, 128, 256)  # of the trunk "conv"


class RNNEncoder(nn.Module):
    """A condition's codes by a bidirectional LSTM: one token for each attribute or word (Sec. 3.1; AG RNN_ENCODER).

    534,220 parameters for CUB's 312 attributes and padding. Row 0 is of padding, which packing never reaches.
    """

    def __init__(self, *, tokens: int, word_dim: int = 300, code_dim: int = 256, dropout: float = 0.5) -> None:
        super().__init__()
        self.encoder = nn.Embedding(tokens, word_dim)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        self.drop = nn.Dropout(dropout)
        self.rnn = nn.LSTM(word_dim, code_dim // 2, batch_first=True, bidirectional=True)

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """ids: B,L int64 and lengths: B, at least 1, in any order -> words B,D,L, 0 after the length; sent B,D."""
        vectors = self.drop(self.encoder(ids))
        packed = pack_padded_sequence(vectors, lengths.cpu(), batch_first=True, enforce_sorted=False)
        steps, (last, _) = self.rnn(packed)
        words, _ = pad_packed_sequence(steps, batch_first=True, total_length=ids.shape[1])
        return words.transpose(1, 2), last.transpose(0, 1).flatten(
            1
        )  # forward at the last token, backward at the first


class ImageEncoder(nn.Module):
    """Images to codes of their regions and of the whole, in the space of the conditions' codes (AG CNN_ENCODER).

    trunk "inception_v3": frozen but for its batch statistics, regions 17x17 of Mixed_6e; 22,506,720 parameters, of
    which 721,152 learn. trunk "conv": ours for small images, four convolutions of stride 2 that learn too, regions S/8.
    """

    def __init__(
        self,
        *,
        trunk: str = "inception_v3",
        code_dim: int = 256,
        image_size: int = 299,
        legacy: bool = False,
        bn_train: bool = True,
    ) -> None:
        """image_size: Inception's, to which images are resized. legacy: as PyTorch up to 0.3 resized, align_corners.

        bn_train: whether Inception's batch statistics follow the images in training mode, as AG's do.
        """
        super().__init__()
        self.frozen = choose("model.trunk", trunk, TRUNKS) == "inception_v3"
        self.side, self.legacy, self.bn_train = image_size if self.frozen else None, legacy, bn_train
        if self.frozen:
            net = torchvision.models.inception_v3(weights=None, aux_logits=False, init_weights=False)
            layers = {k: v for k, v in net.named_children() if k not in ("avgpool", "dropout", "fc")}
            self.last_local, widths = "Mixed_6e", (768, 2048)
        else:
            layers = {f"conv{i}": stride2(*sizes) for i, sizes in enumerate(pairwise(WIDTHS), 1)}
            self.last_local, widths = "conv3", WIDTHS[-2:]
        self.trunk = tuple(layers)
        for name, layer in layers.items():
            self.add_module(name, layer.requires_grad_(not self.frozen))
        self.emb_features = nn.Conv2d(widths[0], code_dim, 1, bias=False)
        self.emb_cnn_code = nn.Linear(widths[1], code_dim)
        nn.init.uniform_(self.emb_features.weight, -0.1, 0.1)
        nn.init.uniform_(self.emb_cnn_code.weight, -0.1, 0.1)
        self.train()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.trunk if self.frozen else ():
            self.get_submodule(name).train(mode and self.bn_train)
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: B,3,*,* in [-1, 1], as Inception's TensorFlow weights want them -> regions B,D,h,w; code B,D."""
        x = images
        if self.side is not None and x.shape[-2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=self.legacy)
        for name in self.trunk:
            x = self.get_submodule(name)(x)
            if name == self.last_local:
                regions = self.emb_features(x)
        return regions, self.emb_cnn_code(x.mean((2, 3)))

    def load_trunk(self, path: str | Path) -> None:
        """Inception's weights: torchvision's file, or an export of `model=classifier model.arch=inception_v3`.

        Classifiers of this suite see normalised images: the first convolution, which has no padding, and the mean of
        its batch norm take that over, so that the encoder sees [-1, 1] either way.
        """
        content = read_weights(path)
        ours = content.get("kind") == "classifier"
        content = content if ours else recognise(content, path)
        if content["arch"] != "inception_v3":
            raise UserError(f"{path} holds {content['arch']}, not the inception_v3 that model.trunk asks for.")
        state = {k: v for k, v in content["state_dict"].items() if not k.startswith("fc.")}
        if ours:
            mean, std = (torch.tensor(content[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
            weight, offset = (f"Conv2d_1a_3x3.{name}" for name in ("conv.weight", "bn.running_mean"))
            state[offset] = state[offset] - (state[weight] * (0.5 - mean) / std).sum((1, 2, 3))
            state[weight] = state[weight] * 0.5 / std
        heads = {k: v for k, v in self.state_dict().items() if k.startswith("emb_") or "num_batches" in k}
        self.load_state_dict(heads | state)


def stride2(before: int, after: int) -> nn.Sequential:
    conv = nn.Conv2d(before, after, 3, 2, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


# ---- what a GAN is given


@dataclass
class Encoders:
    """Both encoders of a finished DAMSM, frozen, and what they were taught."""

    text: Frozen  # of an RNNEncoder
    image: Frozen  # of an ImageEncoder
    names: tuple[str, ...]  # names[i - 1] is what token i says
    inputs: str  # "text", "raw", "clean" or "class"
    hash: str  # of the file: 8 hexadecimal digits
    config: dict[str, Any]  # settings of the DAMSM; code_dim and word_dim at least
    cleaned_hash: str | None = None  # with inputs=clean: which labels survived (conditions.cleaned_hash)

    def to(self, device: torch.device | str) -> Self:
        """The same, with both networks on a device."""
        self.text.to(device)
        self.image.to(device)
        return self

    def check(self, *, inputs: str, cleaned: str | Path | None = None, code_dim: int | None = None) -> None:
        """UserError unless they were taught on this kind of input, this file of cleaned attributes, at this width.

        Encoders of another kind would run and silently lower results: Table 2's rows have their own.
        """
        if inputs != self.inputs:
            taught = f"the encoders were trained with model.inputs={self.inputs}, not {inputs}"
            raise UserError(f"{taught}: give the file of a model=damsm of that kind, or change model.inputs.")
        if inputs == "clean" and cleaned is not None and (found := cleaned_hash(cleaned)) != self.cleaned_hash:
            taught = (
                f"the encoders were trained on other cleaned attributes ({self.cleaned_hash}) than {cleaned} ({found})"
            )
            raise UserError(f"{taught}: train model=damsm on that file, or give the file they were trained on.")
        if code_dim not in (None, own := self.config["code_dim"]):
            raise UserError(f"the encoders' codes have width {own}: set model.code_dim to it, not {code_dim}.")

    def export(self) -> dict[str, Any]:
        """Plain values and tensors, from which `encoders_of` makes these again."""
        told = {key: getattr(self, key) for key in ("inputs", "hash", "config", "cleaned_hash")}
        states = {"text": on_cpu(self.text.net.state_dict()), "image": on_cpu(self.image.net.state_dict())}
        return told | {"names": list(self.names)} | states


# what a file holds of both encoders; `Encoders` says what each is
PARTS = {
    "names": are_words,
    "inputs": str,
    "cleaned_hash": str | None,
    "config": {"word_dim": int, "code_dim": int, "trunk": str, "image_size": int},
    "text": is_state,
    "image": is_state,
}


def encoders_of(content: Mapping[str, Any], path: str | Path, *, legacy: bool = False) -> Encoders:
    """Frozen encoders of a file's content, which PARTS and `hash` describe. UserError for weights of other sizes."""
    config, names = content["config"], tuple(content["names"])
    with settings_of(path), torch.device("meta"):
        text = RNNEncoder(tokens=len(names) + 1, word_dim=config["word_dim"], code_dim=config["code_dim"])
        image = ImageEncoder(**{key: config[key] for key in ("code_dim", "image_size", "trunk")}, legacy=legacy)
    return Encoders(
        text=Frozen(fill(text, content["text"], path)),
        image=Frozen(fill(image, content["image"], path)),
        names=names,
        **{key: content[key] for key in ("inputs", "hash", "config", "cleaned_hash")},
    )
