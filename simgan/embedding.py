"""Sentences and images in one space: the networks of a finished `vse`, as others are given them, and its files.

B images, M sentences, D width of a vector. Where no network has learnt to see, an image is which colours lie where.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.blocks import Frozen
from common.classifier import PARTS as CLASSIFIER_PARTS
from common.classifier import ImageClassifier, load_image_encoder
from common.files import file_hash
from common.text import FastText, SentenceEncoder, Vocabulary
from common.weights import are_words, check_parts, fill, is_state, on_cpu, read_artifact, settings_of

NAME = "colours"  # in place of a file, as model.image_encoder
LEVELS, CELLS = 4, 8  # of each of R, G, B; along each side of the grid


class ColourGrid(torch.nn.Module):
    """A histogram of RGB colours in each cell of a grid (Swain and Ballard 1991); stands in for a network's features.

    LEVELS^3 colours, a pixel shared among the nearest by its distance on each axis, in CELLS^2 cells: 4,096 numbers, as
    many as fc7 has. The square roots (Hellinger's kernel), from which those of a histogram of all colours alike are
    taken. Nothing is learnt, so the hash is the name.
    """

    width, hash = LEVELS**3 * CELLS**2, NAME

    def features(self, images: Tensor) -> tuple[Tensor, None]:
        """Images B,3,H,W in [-1, 1], H and W divisible by CELLS -> B,4096 float32; no logits."""
        x = (images.float() + 1) * (LEVELS - 1) / 2
        level = torch.arange(LEVELS, device=x.device).view(1, LEVELS, 1, 1)
        r, g, b = ((1 - (x[:, c : c + 1] - level).abs()).clamp_min(0) for c in range(3))
        rg = (r[:, :, None] * g[:, None]).flatten(1, 2)
        shares = F.adaptive_avg_pool2d((rg[:, :, None] * b[:, None]).flatten(1, 2), CELLS)
        return (shares.sqrt() * LEVELS**1.5 - 1).flatten(1), None

    def export(self) -> dict[str, Any]:
        """Its name: nothing else decides its features."""
        return {"arch": NAME}


ImageEncoder = ImageClassifier | ColourGrid


def image_encoder(file: str) -> ImageEncoder:
    """What model.image_encoder names: a file of a classifier's, or `colours`."""
    return ColourGrid() if file == NAME else load_image_encoder(file)


def exported_encoder(export: Mapping[str, Any], hash: str, path: str | Path) -> ImageEncoder:
    """From what its `export` gave, found in the file `path`."""
    if export.get("arch") == NAME:
        return ColourGrid()
    check_parts(export, CLASSIFIER_PARTS, path, "image_encoder.")
    return ImageClassifier(export, hash, path)


class TextEncoder(Frozen):
    """phi: sentences to raw, not normalised vectors with coordinates in (-1, 1). Frozen."""

    net: SentenceEncoder

    def __init__(self, *, vocabulary: Vocabulary | FastText, net: SentenceEncoder, hash: str) -> None:
        """vocabulary: of the embedding of `net`, or FastText where it has none. hash: of the file it came from."""
        super().__init__(net)
        self.vocabulary, self.hash, self.dim = vocabulary, hash, net.dim

    def export(self) -> dict[str, Any]:
        """Plain values and tensors for a SIMGAN's file: {vse: see TEXT_PARTS, vocab, phi_hash}."""
        known = self.vocabulary
        words, vectors = (None, str(known.path)) if isinstance(known, FastText) else (list(known.words), None)
        config = {"word_dim": self.net.gru.input_size, "dim": self.dim, "max_words": known.max_words}
        text = {"config": config | {"vectors": vectors}, "text": on_cpu(self.net.state_dict())}
        return {"vse": text, "vocab": words, "phi_hash": self.hash}

    def unknown(self, sentence: str) -> list[str]:
        """Words of a user's sentence that the encoder does not know. UserError when it knows none."""
        return self.vocabulary.unknown(sentence)

    @torch.no_grad()
    def encode(self, sentences: Sequence[str], batch_size: int = 1024) -> Tensor:
        """M sentences -> M,D float32 on the encoder's device. UserError for a sentence without a word."""
        device = next(self.net.parameters()).device
        parts = []
        with torch.autocast(device.type, enabled=False):
            for start in range(0, len(sentences), batch_size):
                words, lengths = self.vocabulary.encode(sentences[start : start + batch_size])
                parts.append(self.net(words.to(device), lengths))
        return torch.cat(parts) if parts else torch.zeros(0, self.dim, device=device)


class JointEmbedding(Frozen):
    """Images and sentences in one space, compared by cosine: the judge of whether an edit fits its sentence. Frozen."""

    def __init__(self, *, text: TextEncoder, images: ImageEncoder, project: nn.Linear, hash: str) -> None:
        super().__init__(project)  # W_I
        self.text, self.images, self.hash = text, images, hash

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """B,3,*,* in [-1, 1] -> B,D of length 1."""
        features, _ = self.images.features(images)
        with torch.autocast(images.device.type, enabled=False):
            return F.normalize(self.net(features), dim=1)

    def encode_sentences(self, sentences: Sequence[str]) -> Tensor:
        """M sentences -> M,D of length 1."""
        return F.normalize(self.text.encode(sentences), dim=1)


# ---- from and into files


def is_vocabulary(value: object) -> bool:
    """Words, or None for those of fastText."""
    return value is None or are_words(value)


# what a file holds of phi: a SentenceEncoder's state; its words are the vocabulary's, or fastText's where that is null
TEXT_PARTS = {"config": {"word_dim": int, "dim": int, "max_words": int, "vectors": str | None}, "text": is_state}
PARTS = {
    **TEXT_PARTS,
    "vocabulary": is_vocabulary,
    "image": is_state,
    "image_encoder": dict,
    "image_encoder_hash": str,
}


def text_encoder(content: Mapping[str, Any], words: list[str] | None, hash: str, path: str | Path) -> TextEncoder:
    """phi of a file's content, which TEXT_PARTS describes. UserError for weights of other sizes than its settings."""
    config = content["config"]
    vocabulary: Vocabulary | FastText
    if words is None:
        vocabulary = FastText(str(config["vectors"]), max_words=config["max_words"])
    else:
        vocabulary = Vocabulary(words, max_words=config["max_words"])
    rows = None if words is None else len(words) + 2
    with settings_of(path), torch.device("meta"):
        net = SentenceEncoder(words=rows, word_dim=config["word_dim"], dim=config["dim"])
    return TextEncoder(vocabulary=vocabulary, net=fill(net, content["text"], path), hash=hash)


def load_text_encoder(path: str | Path) -> TextEncoder:
    """phi of an export of `model=vse`."""
    content = read_artifact(path, "vse", TEXT_PARTS | {"vocabulary": is_vocabulary})
    return text_encoder(content, content["vocabulary"], file_hash(path), path)


def load_judge(path: str | Path) -> JointEmbedding:
    """Both sides of an export of `model=vse`."""
    content, hash = read_artifact(path, "vse", PARTS), file_hash(path)
    images = exported_encoder(content["image_encoder"], content["image_encoder_hash"], path)
    with settings_of(path), torch.device("meta"):
        project = nn.Linear(images.width, content["config"]["dim"], bias=False)
    text = text_encoder(content, content["vocabulary"], hash, path)
    return JointEmbedding(text=text, images=images, project=fill(project, content["image"], path), hash=hash)
