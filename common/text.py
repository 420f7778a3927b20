"""Sentences to vectors: tokens, vocabulary, word vectors and the recurrent encoder.

B sentences, T words of the longest, D width of a word vector, H width of a sentence vector.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from common.errors import UserError
from common.files import sha256

PAD, UNKNOWN = 0, 1


def tokenize(sentence: str, max_words: int) -> list[str]:
    r"""Lower case, `\w+`, the first `max_words` words (woozzu/dong_iccv_2017)."""
    return re.findall(r"\w+", sentence.lower())[:max_words]


class Vocabulary:
    """Words with their ids. 0 is padding, 1 any other word; the rest in the order given."""

    def __init__(self, words: Sequence[str], *, max_words: int) -> None:
        """words: real words only, each once."""
        self.words, self.max_words = tuple(words), max_words
        self.ids = {word: i for i, word in enumerate(self.words, start=UNKNOWN + 1)}

    @classmethod
    def build(cls, sentences: Iterable[str], *, min_count: int = 1, max_words: int) -> "Vocabulary":
        """The words of some sentences, most frequent first, ties by alphabet, whatever the order of sentences."""
        counts = Counter(word for sentence in sentences for word in tokenize(sentence, max_words))
        kept = [word for word, count in counts.items() if count >= min_count]
        return cls(sorted(kept, key=lambda word: (-counts[word], word)), max_words=max_words)

    def __len__(self) -> int:
        """Ids in use, padding and unknown among them: the rows of an embedding."""
        return len(self.words) + UNKNOWN + 1

    @property
    def hash(self) -> str:
        return sha256("\n".join(self.words))[:8]

    def encode(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """-> ids B,T int64 padded with 0, lengths B int64. A sentence without a word is a UserError."""
        rows = [torch.tensor([self.ids.get(word, UNKNOWN) for word in words_of(s, self.max_words)]) for s in sentences]
        return pad_sequence(rows, batch_first=True, padding_value=PAD), torch.tensor([len(row) for row in rows])

    def unknown(self, sentence: str) -> list[str]:
        """The words of a user's sentence that are not here, for a warning. UserError when that is all of them."""
        words = words_of(sentence, self.max_words)
        absent = [word for word in dict.fromkeys(words) if word not in self.ids]
        if len(absent) == len(set(words)):
            some = ", ".join(self.words[:8])
            raise UserError(
                f"no word of the sentence '{sentence}' is known: use words of the captions, such as {some}."
            )
        return absent


class FastText:
    """Vectors of any word, known or not, from the parts of its spelling: a fastText binary such as wiki.en.bin.

    Speaks like a Vocabulary, but `encode` gives vectors in place of ids. Needs the optional package `fasttext`.
    """

    def __init__(self, path: str | Path, *, max_words: int) -> None:
        self.path, self.max_words = Path(path), max_words
        if not self.path.is_file():
            raise UserError(f"no fastText file at {path}: put wiki.en.bin of fasttext.cc there, or use learned words.")
        try:
            import fasttext
        except ImportError:
            raise UserError(f"reading {path} needs the package fasttext: pip install fasttext-wheel.") from None
        self.model = fasttext.load_model(str(path))

    @property
    def hash(self) -> str:
        """Of name and size only: the file has 8 GB."""
        return sha256(f"{self.path.name}:{self.path.stat().st_size}")[:8]

    def vectors(self, words: Sequence[str]) -> Tensor:
        """-> len(words),D float32."""
        return torch.from_numpy(np.stack([self.model.get_word_vector(word) for word in words]).astype(np.float32))

    def encode(self, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        """-> word vectors B,T,D float32 padded with 0, lengths B int64. A sentence without a word is a UserError."""
        rows = [self.vectors(words_of(sentence, self.max_words)) for sentence in sentences]
        return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])

    def unknown(self, sentence: str) -> list[str]:
        """Always empty; UserError for a sentence without a word."""
        words_of(sentence, self.max_words)
        return []


def words_of(sentence: str, max_words: int) -> list[str]:
    """`tokenize` for a sentence that must say something."""
    words = tokenize(sentence, max_words)
    if not words:
        raise UserError(f"the sentence '{sentence}' holds no word: write at least one.")
    return words


def read_vectors(path: str | Path, wanted: Collection[str], *, most: int = 100_000) -> tuple[list[str], Tensor]:
    """Word vectors from a text file: a line `V D`, then `word f1 ... fD`. -> V' words, V',D float32.

    Keeps the wanted words and the first `most` of the file (they are sorted by frequency), so that a user's sentence
    may use words beyond the captions without carrying the whole file along.
    """
    if not Path(path).is_file():
        raise UserError(f"no word vectors at {path}: put a text file there (wiki.en.vec of fasttext.cc is one).")
    wanted, words, rows = set(wanted), [], []
    with open(path, encoding="utf-8", errors="replace") as file:
        header = file.readline().split()
        if len(header) != 2 or not all(number.isdigit() for number in header):
            raise UserError(f"{path}:1 is no header of word vectors: write the number of words and their width there.")
        width = int(header[1])
        for number, line in enumerate(file, start=2):
            if number - 2 >= most and line.partition(" ")[0] not in wanted:
                continue
            word, *numbers = line.rstrip().rsplit(" ", width)  # from the right: a few words hold a space
            try:
                rows.append(np.array(numbers, dtype=np.float32).reshape(width))
            except ValueError:
                raise UserError(
                    f"{path}:{number} is not a word and {width} numbers: download the file again."
                ) from None
            words.append(word)
    return words, torch.from_numpy(np.array(rows, dtype=np.float32).reshape(-1, width))


class SentenceEncoder(nn.Module):
    """Word vectors through one GRU; the sentence vector is its state at the last real word (Kiros et al. 2014).

    541,800 parameters at 300/300 besides the embedding. Gate order r, z, n as in PyTorch.
    """

    def __init__(self, *, words: int | None, word_dim: int, dim: int) -> None:
        """words: rows of the embedding, or None when `forward` is given vectors (FastText)."""
        super().__init__()
        self.dim = dim
        self.embedding = None if words is None else nn.Embedding(words, word_dim, padding_idx=PAD)
        if self.embedding is not None:
            with torch.no_grad():
                self.embedding.weight.uniform_(-0.1, 0.1)[PAD] = 0  # ryankiros/visual-semantic-embedding
        self.gru = nn.GRU(word_dim, dim, batch_first=True)

    def freeze_words(self, table: Tensor) -> None:
        """Sets the vectors of all words but padding and unknown, which become 0; they are trained no more. V',D."""
        assert self.embedding is not None
        with torch.no_grad():
            self.embedding.weight.zero_()[UNKNOWN + 1 :] = table
        self.embedding.requires_grad_(False)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """words: B,T int64 ids or B,T,D float vectors; lengths: B -> B,H, coordinates in (-1, 1)."""
        vectors = words if self.embedding is None else self.embedding(words)
        vectors = vectors.to(next(self.gru.parameters()).dtype)
        packed = pack_padded_sequence(vectors, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.gru(packed)[1][-1]
