"""Skip-thought vectors: the published sizes (check 1), the step of [K]'s GRU (check 13), halves (check 14), words."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from common.errors import UserError
from jem.skipthoughts import SkipThoughts, gru, last_states, skipthoughts, tokens
from tests.agree import agree

WORDS = ["<eos>", "UNK", "a", "red", "flower", "with", "petals", ".", "yellow"]
SENTENCES = ["a red flower with petals .", "flower", "a yellow flower", "a flower yellow"]


def encoder(words: list[str] = WORDS, *, dim: int = 8, word_dim: int = 6, **options: Any) -> SkipThoughts:
    """Random weights, the same each time."""
    torch.manual_seed(0)
    grus = {half: gru(word_dim, dim, half) for half in ("uni", "bi")}
    tables = {half: torch.randn(len(words), word_dim).numpy() for half in grus}
    rows = {word: row for row, word in enumerate(words)}
    return SkipThoughts(words=rows, tables=tables, grus=grus, hash="0", **options)


# ---- sizes and the step


@pytest.mark.parametrize(("half", "count"), [("uni", 21_751_200), ("bi", 13_111_200)])
def test_published_sizes(half: str, count: int) -> None:
    """Check 1: one vector of biases for each GRU; the second that PyTorch has is 0 and not trained."""
    with torch.device("meta"):
        net = gru(620, 2400, half)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == count
    small = gru(4, 6, half)
    assert {name for name, p in small.named_parameters() if not p.requires_grad} == {
        name for name, p in small.named_parameters() if name.startswith("bias_hh") and not p.any()
    }
    assert last_states(small, pack_sequence([torch.randn(3, 4), torch.randn(1, 4)])).shape == (2, 6)


# ---- encoding


@pytest.mark.usefixtures("float64")
def test_each_half_has_length_one() -> None:
    """Check 14: both together have sqrt(2)."""
    found = encoder().encode(SENTENCES)
    agree(found[:, :8].norm(dim=1), torch.ones(4))
    agree(found[:, 8:].norm(dim=1), torch.ones(4))
    agree(found.norm(dim=1), torch.full((4,), 2.0).sqrt())


@pytest.mark.usefixtures("float64")
def test_reversed_words_swap_the_directions_of_bi_only_where_both_have_the_same_weights() -> None:
    """Check 14."""
    model, backwards = encoder(), " ".join(reversed(SENTENCES[0].split()))

    def bi() -> tuple[Tensor, Tensor]:
        there, back = model.encode([SENTENCES[0], backwards])[:, 8:]
        return there, back.roll(4)  # its two blocks swapped

    there, swapped = bi()
    assert (there - swapped).abs().max() > 0.01
    net: Any = model.net["bi"]
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0"):
        getattr(net, f"{name}_reverse").data.copy_(getattr(net, name))
    agree(*bi())


@pytest.mark.usefixtures("float64")
def test_a_sentence_is_the_same_in_any_company() -> None:
    """Sorted, packed and encoded once, it is what the GRU makes of it alone, forwards first."""
    model = encoder()
    found = model.encode([*SENTENCES, SENTENCES[1]])
    agree(found[1], found[4])
    agree(model.encode([*SENTENCES, SENTENCES[1]], batch_size=2), found)
    for sentence, vector in zip(SENTENCES, found, strict=False):
        ids = [WORDS.index(word) for word in sentence.split()]
        alone = [F.normalize(last(net, model.tables[half][ids]), dim=1) for half, net in model.net.items()]
        agree(torch.cat(alone, 1)[0], vector)


def last(net: Any, words: np.ndarray) -> Tensor:
    """The last state forwards and, with two directions, the state backwards at the first word."""
    states = net(torch.from_numpy(words)[None])[0][0]
    h = net.hidden_size
    return torch.cat([states[-1, :h], states[0, h:]])[None]


def test_sentences_that_are_alike_are_encoded_once() -> None:
    model, shown = encoder(), []
    model.net["uni"].register_forward_pre_hook(lambda _, args: shown.append(len(args[0].data)))
    model.encode(["a flower", "a flower", "flower", "a flower"])
    assert sum(shown) == 3  # words
    assert model.encode([]).shape == (0, 16)


def test_only_rows_of_the_words_said_are_read() -> None:
    class Lazy(np.ndarray):
        rows: list[int] = []  # noqa: RUF012

        def __getitem__(self, at: Any) -> Any:
            self.rows.extend(np.asarray(at).tolist())
            return np.asarray(self)[at]

    model = encoder()
    model.tables = {half: table.view(Lazy) for half, table in model.tables.items()}
    model.encode(["a red flower"])
    assert set(Lazy.rows) == {2, 3, 4}


def test_it_is_frozen_and_in_float32() -> None:
    """Check 7: no parameter of the text encoder has a gradient."""
    model = encoder().train()
    assert not any(p.requires_grad for p in model.parameters())
    assert not model.training
    assert model.encode(["a flower"]).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.encode(SENTENCES), encoder().encode(SENTENCES))


# ---- words


def test_tokens_as_the_treebank_has_them() -> None:
    assert tokens("This one isn't star-shaped, it's red/white.") == [
        *("This", "one", "is", "n't", "star-shaped", ",", "it", "'s", "red", "/", "white", "."),
    ]
    assert tokens("can't... DON'T") == ["ca", "n't", "...", "DO", "N'T"]
    with pytest.raises(UserError, match="holds no word"):
        tokens(" .,! ")


def test_unk_survives_and_words_are_looked_up_as_they_are_spelt_first() -> None:
    model = encoder([*WORDS, "Rose", "rose"])
    assert [model.row(word) for word in ("Rose", "rose", "ROSE", "Red", "unk", "orchid")] == [9, 10, 10, 3, 1, 1]
    assert torch.equal(model.encode(["A Red flower"]), model.encode(["a red flower"]))
    assert torch.equal(model.encode(["an orchid"]), model.encode(["xyz UNK"]))


def test_unknown_words_are_told_once_and_nothing_known_is_refused() -> None:
    model = encoder()
    assert model.unknown("a blue flower, a blue one.") == ["blue", "one"]
    assert model.unknown("A red flower!") == []
    with pytest.raises(UserError, match=r"no word of the sentence 'une fleur \.' is known.*such as a, red, flower"):
        model.unknown("une fleur .")
    for act in (model.unknown, lambda sentence: model.encode([sentence])):
        with pytest.raises(UserError, match="holds no word"):
            act("...")


# ---- files


def test_what_is_exported_encodes_alike() -> None:
    model = encoder()
    content = model.export()
    again = skipthoughts(content, "jem.pt")
    assert (again.hash, again.dim, again.kept) == ("0", 16, ("UNK", *(word for word in WORDS if word != "UNK")))
    assert torch.equal(again.encode(SENTENCES), model.encode(SENTENCES))
    assert not [name for state in content["halves"].values() for name in state if name.startswith("bias_hh")]


def test_an_export_takes_along_the_words_kept_alone() -> None:
    again = skipthoughts(encoder(kept=["red", "flower"]).export(), "jem.pt")
    assert list(again.words) == ["UNK", "red", "flower"]
    assert torch.equal(again.encode(["red flower"]), encoder().encode(["red flower"]))
    assert again.unknown("yellow flower") == ["yellow"]


@pytest.mark.parametrize("dims", ["uni", "bi"])
def test_a_half_can_be_taken_alone_and_has_a_hash_of_its_own(dims: str) -> None:
    both, content = encoder(), encoder().export()
    half = skipthoughts(content, "jem.pt", dims=dims)
    part = slice(0, 8) if dims == "uni" else slice(8, None)
    assert torch.equal(half.encode(SENTENCES), both.encode(SENTENCES)[:, part])
    assert len({both.hash, half.hash, skipthoughts(content, "jem.pt", dims="uni").hash}) == (2 if dims == "uni" else 3)
    only = {**content, "halves": {"uni": content["halves"]["uni"]}}
    assert skipthoughts(only, "jem.pt").hash == "0"  # combine: all that there is
    with pytest.raises(UserError, match=r"jem\.pt has no half bi: set model\.sentence\.dims=uni"):
        skipthoughts(only, "jem.pt", dims="bi")
    with pytest.raises(UserError, match=r"model\.sentence\.dims=both is not known"):
        skipthoughts(content, "jem.pt", dims="both")


def broken(name: str, change: Any) -> dict[str, Any]:
    content = encoder().export()
    half, _, part = name.partition(".")
    if part:
        content["halves"][half][part] = change(content["halves"][half][part])
    else:
        content[half] = change(content[half])
    return content


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("uni.embedding", lambda x: x[:-1], "word vectors of shape"),
        ("bi.embedding", lambda x: x[:, :-1], "word vectors of shape"),
        ("uni.weight_hh_l0", lambda x: x[:-1], "weight_hh_l0"),
        ("bi.bias_ih_l0_reverse", lambda x: None, r"halves\.bi is a dict"),
        ("uni.weight_ih_l0", lambda x: x.long(), "weight_ih_l0"),
        ("words", lambda x: x[1:], "unknown words"),
        ("words", lambda x: x[:-1], "word vectors of shape"),
        ("halves", lambda x: {}, "halves"),
        ("halves", lambda x: x | {"tri": {}}, "halves"),
        ("hash", lambda x: None, "hash"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(name: str, change: Any, fault: str) -> None:
    with pytest.raises(UserError, match=rf"jem\.pt .*{fault}"):
        skipthoughts(broken(name, change), "jem.pt")


def test_a_gru_of_files_is_of_any_width() -> None:
    model = skipthoughts(encoder(dim=10, word_dim=3).export(), "jem.pt")
    assert (model.dim, cell(model, "uni"), cell(model, "bi")) == (20, (3, 10), (3, 5))


def cell(model: SkipThoughts, half: str) -> tuple[int, int]:
    net = model.net[half]
    assert isinstance(net, nn.GRU)
    return net.input_size, net.hidden_size
