"""Vectors of all sentences of a data set, made once, and what a linear map reads from them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data.records import Records
from common.data.sentences import sentence_table
from common.files import sha256
from common.metrics.colour_probe import colour_probe


class Counted:
    """An encoder that says how long a sentence is, and counts what it was asked."""

    hash = "c0ffee00"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, sentences: Sequence[str]) -> Tensor:
        self.asked += sentences
        return torch.tensor([[len(sentence), 1 / 3] for sentence in sentences])


def records(*captions: tuple[str, ...]) -> Records:
    n = len(captions)
    keys = tuple(f"image_{i}" for i in range(n))
    labels, test = np.zeros(n, np.int64), np.zeros(n, bool)
    return Records("toy", Path(), keys, tuple(map(Path, keys)), labels, ("one",), test, captions)


def test_a_vector_for_each_sentence_and_zeros_for_none(tmp_path: Path) -> None:
    encoder, three = Counted(), records(("a", "red one"), ("blue",))
    table = sentence_table(encoder, three)
    assert (table.dtype, table[..., 0].tolist()) == (torch.float32, [[1, 7], [4, 0]])
    assert encoder.asked == ["a", "red one", "blue"]
    for _ in range(2):
        assert torch.equal(sentence_table(encoder, three, tmp_path), table)
    assert len(encoder.asked) == 6  # the second time it is read
    (file,) = tmp_path.glob("*.pt")
    assert file.stem == "phi_toy_" + sha256("c0ffee00\nimage_0\nimage_1\na\nred one\nblue")[:8]


def test_half_precision_is_a_table_of_its_own(tmp_path: Path) -> None:
    encoder, one = Counted(), records(("a", "red one"))
    whole, half = (sentence_table(encoder, one, tmp_path, dtype) for dtype in (torch.float32, torch.float16))
    assert half.dtype == sentence_table(encoder, one, tmp_path, torch.float16).dtype == torch.float16
    assert torch.equal(half, whole.half())
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_the_probe_finds_what_lies_in_the_vectors_and_nothing_else() -> None:
    """Vectors that hold the body's colour and noise in place of the wings'."""
    rng = np.random.default_rng(0)
    colours = ("red", "blue", "green")
    body, wing = rng.integers(0, 3, (2, 400))
    sentences = [f"a {colours[b]} bird with {colours[w]} wings" for b, w in zip(body, wing, strict=True)]
    vectors = np.concatenate([np.eye(3)[body], rng.normal(size=(400, 3))], 1)
    found = colour_probe(vectors[:300], sentences[:300], vectors[300:], sentences[300:])
    assert set(found) == {"probe_body", "probe_wing"}
    assert found["probe_body"] == 1.0
    assert found["probe_wing"] < 0.6  # chance 1/3
