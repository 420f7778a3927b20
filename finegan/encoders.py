"""The networks that encode conditions and images: DAMSM's (Sec. 3.1; Xu et al. 2018), with the names of weights of
taoxugit/AttnGAN (AG), and what denoising looks through.

B batch, L tokens of a condition, D width of both codes, h, w regions down and across.
"""

from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from common.errors import choose

TRUNKS = ("inception_v3", "conv")
WIDTHS = (3, 32, 64, 128, 256)  # of the trunk "conv"


class RNNEncoder(nn.Module):
    """A condition's codes by a bidirectional LSTM: one token for each attribute or word (Sec. 3.1; AG RNN_ENCODER).

    534,220 parameters for CUB's 312 attributes and padding. Row 0 is of padding, which packing never reaches.
    """

    def __init__(self, *, tokens: int, word_dim: int, code_dim: int, dropout: float) -> None:
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
        trunk: str,
        code_dim: int,
        image_size: int,
        bn_train: bool,
        legacy: bool = False,
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


def stride2(before: int, after: int) -> nn.Sequential:
    """B,C,s,s -> B,C',s/2,s/2: convolution 3 x 3 of stride 2, BN, ReLU."""
    conv = nn.Conv2d(before, after, 3, 2, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


# ---- what the SVMs of denoising look through


class Colours(nn.Module):
    """Colour histograms in the place of a network's features: for drawn birds, where no network that has seen ImageNet
    is at hand. Roots of the shares of 6^3 colours in the image and of 4^3 in its upper, middle and lower third."""

    width, hash, side = 6**3 + 3 * 4**3, "colours", 64

    def features(self, images: Tensor) -> tuple[Tensor, None]:
        """Images B,3,*,* in [-1, 1] -> B,F; the second, for a classifier's logits, is None."""
        if images.shape[-2:] != (self.side, self.side):
            images = F.interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        pixels = ((images.float() + 1) * 127.5).round().clamp(0, 255).long()
        parts = [(pixels, 6), *((third, 4) for third in pixels.tensor_split(3, 2))]
        return torch.cat([self.shares(part, levels) for part, levels in parts], 1).sqrt(), None

    @staticmethod
    def shares(pixels: Tensor, levels: int) -> Tensor:
        """B,3,H,W in 0..255 -> B,levels^3 of sum 1."""
        red, green, blue = (pixels * levels // 256).flatten(2).unbind(1)
        code = (red * levels + green) * levels + blue
        counts = torch.zeros(len(code), levels**3, device=code.device)
        return counts.scatter_add_(1, code, torch.ones_like(code, dtype=counts.dtype)) / code.shape[1]
