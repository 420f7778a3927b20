"""Third-party weights: the files that woozzu/dong_iccv_2017 released for SISGAN and its text encoder.

They were saved by Python 2 and PyTorch 0.2 or 0.3.
"""

import hashlib
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from common.classifier import ImageClassifier, build, recognise
from common.errors import UserError
from common.files import file_hash
from common.text import FastText, SentenceEncoder, Vocabulary, read_vectors
from common.weights import check_fit, load_strict, read_state, without_parallel
from simgan.embedding import JointEmbedding, TextEncoder
from simgan.sisgan import SISGANGenerator

WIDTH = 300  # of its word and sentence vectors
MAX_WORDS = 50  # of a sentence


def load_sisgan(path: str | Path) -> SISGANGenerator:
    """SISGAN's released generator `{birds,flowers}.pth`, either encoder, in eval mode.

    The VGG variant reads plain [0, 1] images, as its weights were trained.
    """
    state = without_parallel(read_state(path))
    vgg = "encoder.29.weight" in state  # the tenth convolution of VGG-16
    if vgg:  # our frozen networks stand behind a `net`
        state = {name.replace("encoder.", "encoder.net.", name.startswith("encoder.")): v for name, v in state.items()}
    generator = SISGANGenerator(encoder="vgg" if vgg else "conv", vgg_input="unit")
    load_strict(generator, state, source=path)
    return generator.eval()


class SISGANEmbedding(nn.Module):
    """The networks of `text_embedding_{birds,flowers}.pth`, for their names and shapes alone."""

    def __init__(self) -> None:
        super().__init__()
        self.txt_encoder = nn.GRU(WIDTH, WIDTH)
        self.W = nn.Linear(4096, WIDTH, bias=False)  # W_I
        self.img_encoder = build("vgg16", 1000)


def read_embedding(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """SISGAN's visual-semantic embedding, `text_embedding_{birds,flowers}.pth`: a state for each of its networks."""
    state = without_parallel(read_state(path))
    state = {name: value for name, value in state.items() if not name.startswith("feat_extractor.")}  # VGG's fc6, fc7
    with torch.device("meta"):
        networks = SISGANEmbedding()
    check_fit(networks, state, (), path)
    return {
        part: {name.removeprefix(f"{part}."): v for name, v in state.items() if name.startswith(f"{part}.")}
        for part, _ in networks.named_children()
    }


def read_vse(path: str | Path, words: str | Path, wanted: Collection[str] = ()) -> TextEncoder:
    """phi of SISGAN's `text_embedding_{birds,flowers}.pth`, which holds no word vectors.

    words: fastText's `wiki.en.bin`, as it was trained with, through the optional package fasttext; or a text file of
        300-wide vectors such as `wiki.en.vec`, in which a word outside the file (or beyond its first 100,000 and not
        `wanted`) is 0.
    """
    return text_side(read_embedding(path)["txt_encoder"], path, words, wanted)


def read_vse_judge(path: str | Path, words: str | Path, wanted: Collection[str] = ()) -> JointEmbedding:
    """Both sides of the same file: VGG-16's fc7 and W_I, and `read_vse`."""
    states = read_embedding(path)
    text = text_side(states["txt_encoder"], path, words, wanted)
    project = nn.Linear(4096, WIDTH, bias=False)
    project.load_state_dict(states["W"])
    images = ImageClassifier(recognise(states["img_encoder"], path), text.hash, path)
    return JointEmbedding(text=text, images=images, project=project, hash=text.hash)


def text_side(gru: dict[str, Tensor], path: str | Path, words: str | Path, wanted: Collection[str]) -> TextEncoder:
    """The GRU behind the vectors of a file. The hash is of all that decides phi: it names the cache of sentences."""
    digest = hashlib.sha256(file_hash(path).encode())
    vocabulary: Vocabulary | FastText
    if Path(words).suffix == ".bin":
        vocabulary = FastText(words, max_words=MAX_WORDS)
        width, net = vocabulary.vectors(["bird"]).shape[1], SentenceEncoder(words=None, word_dim=WIDTH, dim=WIDTH)
        digest.update(vocabulary.hash.encode())
    else:
        known, table = read_vectors(words, wanted)
        vocabulary = Vocabulary(known, max_words=MAX_WORDS)
        width, net = table.shape[1], SentenceEncoder(words=len(vocabulary), word_dim=table.shape[1], dim=WIDTH)
        net.freeze_words(table)
        digest.update(vocabulary.hash.encode() + table.numpy().tobytes())
    if width != WIDTH:
        raise UserError(f"the vectors in {words} are {width} wide and {path} reads {WIDTH}: give fastText's wiki.en.")
    net.gru.load_state_dict(gru)
    return TextEncoder(vocabulary=vocabulary, net=net, hash=digest.hexdigest()[:8])
