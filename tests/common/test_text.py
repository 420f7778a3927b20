"""Tokens, vocabulary, word vectors and the sentence encoder (check 13 of SIMGAN's specification)."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.errors import UserError
from common.text import FastText, SentenceEncoder, Vocabulary, read_vectors, tokenize
from tests.agree import agree

pytestmark = pytest.mark.usefixtures("float64")

CAPTIONS = ["A red bird.", "a blue bird, with a long beak", "the bird's wings are red!"]


def test_tokens_are_lower_case_words_and_at_most_so_many() -> None:
    assert tokenize("This Bird's beak, 3cm; naïve", 50) == ["this", "bird", "s", "beak", "3cm", "naïve"]
    assert len(tokenize("word " * 60, 50)) == 50
    assert tokenize(" .,! ", 50) == []


def test_vocabulary_does_not_depend_on_the_order_of_captions() -> None:
    one, two = Vocabulary.build(CAPTIONS, max_words=50), Vocabulary.build(CAPTIONS[::-1], max_words=50)
    assert one.words == two.words
    assert one.words[:3] == ("a", "bird", "red")  # 3 and 3 times, then 2
    assert one.hash == two.hash != Vocabulary.build(CAPTIONS[:2], max_words=50).hash
    assert Vocabulary.build(CAPTIONS, min_count=2, max_words=50).words == ("a", "bird", "red")
    assert len(one) == len(one.words) + 2


def test_ids_pad_with_zero_and_unknown_is_one() -> None:
    ids, lengths = Vocabulary(["red", "bird"], max_words=50).encode(["Red bird", "a bird is red"])
    assert ids.tolist() == [[2, 3, 0, 0], [1, 3, 1, 2]]
    assert lengths.tolist() == [2, 4]
    assert ids.dtype == lengths.dtype == torch.int64


def test_unknown_words_are_reported_once_and_nothing_known_is_refused() -> None:
    vocabulary = Vocabulary(["red", "bird"], max_words=50)
    assert vocabulary.unknown("a green bird, a bird") == ["a", "green"]
    assert vocabulary.unknown("red bird") == []
    with pytest.raises(UserError, match=r"no word of the sentence 'un oiseau rouge' is known.*red, bird"):
        vocabulary.unknown("un oiseau rouge")
    for call in (lambda: vocabulary.unknown("..."), lambda: vocabulary.encode(["red", "  "])):
        with pytest.raises(UserError, match="holds no word"):
            call()


def test_gru_has_the_published_size() -> None:
    net = SentenceEncoder(words=None, word_dim=300, dim=300)
    assert sum(p.numel() for p in net.gru.parameters()) == 541_800
    embedding = SentenceEncoder(words=50, word_dim=300, dim=300).embedding
    assert embedding is not None
    assert embedding.weight.shape == (50, 300)
    assert embedding.weight[0].abs().max() == 0
    assert 0.09 < embedding.weight.abs().max() <= 0.1


def test_a_sentence_is_the_same_alone_and_padded() -> None:
    """Check 13; and the state at index -1 of the padded batch would be another one."""
    torch.manual_seed(0)
    vocabulary = Vocabulary.build(CAPTIONS, max_words=50)
    net = SentenceEncoder(words=len(vocabulary), word_dim=20, dim=16)
    together = net(*vocabulary.encode(CAPTIONS))
    alone = torch.cat([net(*vocabulary.encode([caption])) for caption in CAPTIONS])
    agree(together, alone)
    ids, _ = vocabulary.encode(CAPTIONS)
    assert net.embedding is not None
    at_the_end = net.gru(net.embedding(ids))[0][:, -1]
    assert (at_the_end[0] - together[0]).abs().max() > 0.01
    agree(at_the_end[1], together[1])  # the longest has no padding


def test_state_is_that_of_a_gru_by_hand() -> None:
    """Gate order r, z, n; h0 = 0."""
    torch.manual_seed(0)
    net = SentenceEncoder(words=5, word_dim=4, dim=3)
    assert net.embedding is not None
    w_ih, w_hh, b_ih, b_hh = net.gru.parameters()
    h = torch.zeros(3)
    for word in (2, 4):
        gi = w_ih @ net.embedding.weight[word] + b_ih
        gh = w_hh @ h + b_hh
        r, z = (gi[:6] + gh[:6]).sigmoid().chunk(2)
        h = (1 - z) * (gi[6:] + r * gh[6:]).tanh() + z * h
    agree(net(torch.tensor([[2, 4, 0]]), torch.tensor([2]))[0], h)


def write_vectors(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_word_vectors_are_frozen_and_unknown_is_zero(tmp_path: Path) -> None:
    path = write_vectors(tmp_path / "w.vec", "4 2\n. . 1 2\nof 3 4\nrare 5 6\nbird -7 8.5\n")
    words, table = read_vectors(path, {"bird"}, most=1)
    assert words == [". .", "bird"]
    assert table.tolist() == [[1, 2], [-7, 8.5]]
    net = SentenceEncoder(words=4, word_dim=2, dim=3)
    net.freeze_words(table)
    assert net.embedding is not None
    assert net.embedding.weight.tolist() == [[0, 0], [0, 0], [1, 2], [-7, 8.5]]
    net(*Vocabulary(words, max_words=50).encode(["the bird"])).sum().backward()
    assert net.embedding.weight.grad is None
    assert net.gru.weight_ih_l0.grad is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [("the 1 2\n", r"w\.vec:1 is no header"), ("3 3\nthe 1 2 3\nof 1 2\n", r"w\.vec:3 is not a word and 3 numbers")],
)
def test_broken_vector_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_vectors(write_vectors(tmp_path / "w.vec", text), set())


def test_absent_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no word vectors at"):
        read_vectors(tmp_path / "none.vec", set())
    with pytest.raises(UserError, match="no fastText file at"):
        FastText(tmp_path / "wiki.en.bin", max_words=50)


def test_fasttext_package_absent_or_present(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the optional third-party package: vectors of (length, 1)."""
    binary = tmp_path / "wiki.en.bin"
    binary.write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "fasttext", None)
    with pytest.raises(UserError, match="needs the package fasttext"):
        FastText(binary, max_words=50)
    package = SimpleNamespace(
        load_model=lambda _: SimpleNamespace(get_word_vector=lambda word: [float(len(word)), 1.0])
    )
    monkeypatch.setitem(sys.modules, "fasttext", package)
    words = FastText(binary, max_words=50)
    vectors, lengths = words.encode(["a red bird", "bird"])
    assert vectors.tolist() == [[[1, 1], [3, 1], [4, 1]], [[4, 1], [0, 0], [0, 0]]]
    assert lengths.tolist() == [3, 1]
    assert words.unknown("zyzzyva") == []
    with pytest.raises(UserError, match="holds no word"):
        words.unknown("")
    net = SentenceEncoder(words=None, word_dim=2, dim=3)
    agree(net(vectors, lengths)[1], net(*words.encode(["bird"]))[0])
