"""Skip-thought vectors (Kiros et al. 2015; [K] is ryankiros/skip-thoughts): sentences through frozen GRUs.

A vector is made of halves: `uni`, the last state of one GRU, and `bi`, those of two of half the width, which read the
sentence forwards and backwards. M sentences, V words, E width of a word's vector (620), D of a half (2400).
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from common.blocks import Frozen
from common.errors import UserError, choose
from common.files import file_hash, short_hash
from common.weights import are_words, check_parts, fill, is_state, on_cpu, read_artifact, settings_of

log = logging.getLogger(__name__)

END, UNKNOWN = "<eos>", "UNK"
HALVES = {"combine": ("uni", "bi"), "uni": ("uni",), "bi": ("bi",)}  # model.sentence.dims -> halves, in this order
MANY = 2000  # sentences whose encoding is worth a line

# [K] splits by NLTK's word_tokenize, the Penn Treebank's rules: "isn't" is `is n't`, "it's" `it 's`, "star-shaped" one
# word. Where captions lack a blank ("petals.the", "red/white") these are words here and an unknown one there.
TOKEN = re.compile(r"(?i)\w+(?=n't\b)|n't\b|'(?:s|m|d|ll|re|ve)\b|\w+(?:-\w+)*|\.\.\.|--|[^\w\s]")
WORD = re.compile(r"\w")


def tokens(sentence: str) -> list[str]:
    """Words and punctuation, as they are spelt. UserError for a sentence without a word, whose vector has no length."""
    if not WORD.search(sentence):
        raise UserError(f"the sentence '{sentence}' holds no word: write at least one.")
    return TOKEN.findall(sentence)


def gru(word_dim: int, dim: int, half: str) -> nn.GRU:
    """The GRU of a half of width D, with one vector of biases for each direction as [K]: PyTorch's second one is 0.

    21,751,200 parameters as uni and 13,111,200 as bi, at 620 and 2400.
    """
    both = half == "bi"
    net = nn.GRU(word_dim, dim // 2 if both else dim, batch_first=True, bidirectional=both)
    for name, bias in net.named_parameters():
        if name.startswith("bias_hh"):
            nn.init.zeros_(bias)
            bias.requires_grad_(False)
    return net


def last_states(net: nn.Module, words: PackedSequence) -> Tensor:
    """B packed sentences of word vectors -> B,D: the state after the last word, then, read backwards, the first."""
    return net(words)[1].transpose(0, 1).flatten(1)


class SkipThoughts(Frozen):
    """Sentences to vectors of one half or two, each of length 1, so that two together have sqrt(2). Frozen."""

    net: nn.ModuleDict

    def __init__(
        self,
        *,
        words: Mapping[str, int],
        tables: Mapping[str, np.ndarray],
        grus: Mapping[str, nn.GRU],
        hash: str,
        kept: Sequence[str] | None = None,
    ) -> None:
        """words: word -> row, UNK among them. tables: V,E word vectors of each half, where they lie; only rows that a
        sentence needs are read. grus: of the same halves. hash: of all this. kept: words that an export takes along,
        None = all.
        """
        super().__init__(nn.ModuleDict(grus))
        self.words, self.tables, self.hash = words, tables, hash
        self.kept = tuple(words) if kept is None else tuple(kept)
        self.dim = sum(net.hidden_size * (1 + net.bidirectional) for net in grus.values())

    def row(self, word: str) -> int:
        """Where the vector of a word stands, or else of the word in lower case, or else of UNK."""
        return self.words.get(word, self.words.get(word.lower(), self.words[UNKNOWN]))

    def unknown(self, sentence: str) -> list[str]:
        """The words of a user's sentence that are not known, for a warning. UserError when that is all of them."""
        said = [word for word in dict.fromkeys(tokens(sentence)) if WORD.search(word)]
        absent = [word for word in said if self.row(word) == self.words[UNKNOWN]]
        if len(absent) == len(said):
            some = ", ".join(islice((word for word in self.kept if word[0].isalpha() and word != UNKNOWN), 8))
            raise UserError(
                f"no word of the sentence '{sentence}' is known: use words of the captions, such as {some}."
            )
        return absent

    @torch.no_grad()
    def encode(self, sentences: Sequence[str], batch_size: int = 256) -> Tensor:
        """M sentences -> M,D or M,2D float32 on the encoder's device. UserError for a sentence without a word.

        Equal sentences are encoded once, and the longest come first, so that no batch holds padding.
        """
        like = next(self.net.parameters())
        rows = {sentence: np.array([self.row(word) for word in tokens(sentence)]) for sentence in sentences}
        if len(rows) > MANY:
            log.info("encoding %d different sentences on %s", len(rows), like.device)
        order = sorted(rows, key=lambda sentence: -len(rows[sentence]))
        used = np.unique(np.concatenate([*rows.values(), np.empty(0, np.int64)]))
        vectors = {half: torch.from_numpy(table[used]).to(like) for half, table in self.tables.items()}
        nets = list(self.net.items())
        found = like.new_empty(len(order), self.dim)
        with torch.autocast(like.device.type, enabled=False):
            for start in range(0, len(order), batch_size):
                part = slice(start, start + batch_size)
                places = [torch.from_numpy(np.searchsorted(used, rows[sentence])) for sentence in order[part]]
                packed = pack_sequence(places)
                ids = packed.data.to(like.device)
                states = [last_states(net, packed._replace(data=vectors[half][ids])) for half, net in nets]
                found[part] = torch.cat([F.normalize(state, dim=1) for state in states], 1)
        place = {sentence: k for k, sentence in enumerate(order)}
        return found[[place[sentence] for sentence in sentences]]

    def export(self) -> dict[str, Any]:
        """Plain values and tensors for a model's file, as PARTS has them, with the hash."""
        words = list(dict.fromkeys([UNKNOWN, *self.kept]))
        rows = [self.words[word] for word in words]
        halves = {half: half_state(self.tables[half][rows], net) for half, net in self.net.items()}
        return {"words": words, "halves": halves, "hash": self.hash}


# ---- from and into files


def half_state(table: np.ndarray, net: nn.Module) -> dict[str, Tensor]:
    """What a file holds of a half: word vectors and the GRU's tensors by PyTorch's names, without the biases of 0."""
    state = {name: value for name, value in net.state_dict().items() if not name.startswith("bias_hh")}
    return {"embedding": torch.from_numpy(np.array(table))} | on_cpu(state)


def are_halves(value: object) -> bool:
    return isinstance(value, Mapping) and 0 < len(value) and set(value) <= set(HALVES["combine"])


PARTS = {"words": are_words, "halves": are_halves}


def choose_halves(halves: Iterable[str], dims: str, path: str | Path) -> tuple[str, ...]:
    """The halves of a file that `dims` asks for; with combine, those that there are. UserError where one is absent."""
    there = [half for half in HALVES["combine"] if half in halves]
    wanted = choose("model.sentence.dims", dims, HALVES)
    if wanted != "combine" and wanted not in there:
        raise UserError(f"{path} has no half {wanted}: set model.sentence.dims={there[0]}.")
    return tuple(half for half in there if half in HALVES[wanted])


def skipthoughts(
    content: Mapping[str, Any], path: str | Path, *, hash: str | None = None, dims: str = "combine"
) -> SkipThoughts:
    """The encoder of what `export` gave, or of an artifact of model=skipthought, found in the file `path`.

    hash: of that file; None = the exported one.
    """
    check_parts(content, PARTS | ({"hash": str} if hash is None else {}), path)
    words = {word: row for row, word in enumerate(content["words"])}
    if UNKNOWN not in words:
        raise UserError(f"{path} has no vector for unknown words ({UNKNOWN}): take the original file.")
    halves = content["halves"]
    chosen = choose_halves(halves, dims, path)
    check_parts(halves, dict.fromkeys(chosen, is_state), path, "halves.")
    hash = content["hash"] if hash is None else hash
    hash = hash if len(chosen) == len(halves) else short_hash([hash, *chosen])
    grus = {half: gru_of(halves[half], half, path) for half in chosen}
    tables = {half: table_of(halves[half], (len(words), grus[half].input_size), path) for half in chosen}
    return SkipThoughts(words=words, tables=tables, grus=grus, hash=hash)


def load_skipthoughts(path: str | Path, dims: str = "combine") -> SkipThoughts:
    """The encoder of an artifact of model=skipthought."""
    return skipthoughts(read_artifact(path, "skipthought", PARTS), path, hash=file_hash(path), dims=dims)


def gru_of(state: Mapping[str, Tensor], half: str, path: str | Path) -> nn.GRU:
    """The GRU of a half's state (`half_state`). UserError where its tensors do not fit each other."""
    with settings_of(path), torch.device("meta"):
        gates, word_dim = state["weight_ih_l0"].shape
        net = gru(word_dim, gates // 3 * (2 if half == "bi" else 1), half)
    silent = {name: torch.zeros(bias.shape) for name, bias in net.named_parameters() if name.startswith("bias_hh")}
    return fill(net, silent | {name: value for name, value in state.items() if name != "embedding"}, path)


def table_of(state: Mapping[str, Tensor], shape: tuple[int, int], path: str | Path) -> np.ndarray:
    """The word vectors of a half's state, V,E. UserError where there are more or fewer, or of another width."""
    table = state.get("embedding", torch.empty(0))
    if table.shape != shape:
        raise UserError(f"{path} has word vectors of shape {tuple(table.shape)}, not {shape}: take the original file.")
    return table.to(torch.get_default_dtype()).numpy()
