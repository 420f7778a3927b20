"""Conditions: attributes and captions as tokens, what is left of long ones, and codes that are looked up."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.blocks import Frozen
from common.data.procedural.attributes import NAMES
from common.data.readers.cub import CUB
from common.data.records import Records
from finegan.conditions import (
    CLASS_TABLE,
    Codes,
    Conditions,
    Sequences,
    attribute_sequences,
    caption_sequences,
    denoised_hash,
    groups,
    parse_attributes,
    parse_sentence,
    pick,
    readable,
    words,
)
from finegan.denoise import Denoised
from finegan.encoders import RNNEncoder
from tests.worlds.layouts import make_cub, refusal

COLOURS = ("has_wing_color::blue", "has_wing_color::red", "has_eye_color::red", "has_size::small_(5_-_9_in)")


def birds(root: Path, attributes: list[list[int]], certainty: list[list[int]] | None = None, **more: Any) -> Records:
    """Images of classes 0, 0, 1, 1, ...; one row of 0 and 1 for each."""
    n = len(attributes)
    fields: dict[str, Any] = {
        "name": "cub",
        "root": root,
        "keys": tuple(f"{i // 2}/bird_{i}" for i in range(n)),
        "images": tuple(root / f"{i}.jpg" for i in range(n)),
        "labels": np.arange(n) // 2,
        "classes": tuple(str(i) for i in range((n + 1) // 2)),
        "test": np.zeros(n, bool),
        "attributes": np.array(attributes, np.uint8),
        "certainty": np.full((n, len(attributes[0])), 4, np.uint8)
        if certainty is None
        else np.array(certainty, np.uint8),
        "attribute_names": COLOURS[: len(attributes[0])],
    }
    return Records(**fields | more)


def denoised(path: Path, records: Records, present: list[list[int]], score: list[Any], **more: Any) -> Path:
    a = len(records.attribute_names)
    fields: dict[str, Any] = {
        "present": np.array(present, np.uint8),
        "score": np.array(score, np.float32),
        "removed": (np.array(present) == 0) & (records.attributes == 1),
        **{name: np.zeros(a) for name in ("rho", "threshold", "rounds", "n_pos", "offset")},
        "skipped": np.zeros(a, bool),
        "weights": np.zeros((a, 2)),
        "names": records.attribute_names,
        "keys": records.keys,
        "params": {"rule": "rank"},
        "feature_hash": "00000000",
    }
    Denoised(**fields | more).write(path)
    return path


def rows(sequences: Sequences) -> list[list[int]]:
    return [row[:n] for row, n in zip(sequences.ids.tolist(), sequences.lengths.tolist(), strict=True)]


def table(root: Path, lines: list[str]) -> None:
    (root / CLASS_TABLE).parent.mkdir(parents=True, exist_ok=True)
    (root / CLASS_TABLE).write_text("\n".join(lines) + "\n")


# ---- names


def test_the_312_names_make_28_groups() -> None:
    """Check 13: ids of CUB's attributes.txt."""
    found = groups(NAMES)
    assert len(found) == 28
    assert [NAMES[token - 1] for token in (10, 23, 306, 246)] == [
        "has_wing_color::blue",
        "has_wing_color::red",
        "has_crown_color::white",
        "has_belly_pattern::spotted",
    ]
    known = {"bill_shape": (1, 9), "wing_color": (10, 24), "eye_color": (136, 149), "wing_pattern": (309, 312)}
    assert {name: (found[name][0], found[name][-1]) for name in known} == known
    assert [token for tokens in found.values() for token in tokens] == list(range(1, 313))


def test_every_name_is_understood_in_every_spelling() -> None:
    for token, name in enumerate(NAMES, 1):
        for spelling in (name, name.removeprefix("has_"), readable(name), readable(name).upper()):
            assert parse_attributes([spelling], NAMES) == [token], spelling
    for spelling in ("wing color: red", "wing_color: red", "Wing colour red", "has_wing_color::red"):
        assert parse_attributes([spelling], NAMES) == [23]
    assert parse_attributes(["eye color: gray"], NAMES) == parse_attributes(["has_eye_color::grey"], NAMES)
    assert parse_attributes(["wing color: red", "bill shape: cone", "has_wing_color::red"], NAMES) == [8, 23]


def test_an_unknown_attribute_is_refused_with_the_nearest() -> None:
    assert "'has_wing_color::red'" in refusal(lambda: parse_attributes(["wing color: redd"], NAMES))
    assert "'has_crown_color::yellow'" in refusal(lambda: parse_attributes(["crowncolor: yelow"], NAMES))
    assert "the nearest are" in refusal(lambda: parse_attributes([""], NAMES))


# ---- attributes


def test_attributes_become_ascending_tokens(tmp_path: Path) -> None:
    records = birds(tmp_path, [[1, 0, 1, 1], [0, 1, 0, 0]], [[4, 1, 2, 3], [3, 3, 3, 3]])
    found = attribute_sequences(records, inputs="raw")
    assert rows(found) == [[1, 3, 4], [2]]
    assert found.ids.tolist() == [[1, 3, 4], [2, 0, 0]]
    assert found.certainty is not None
    assert found.certainty.tolist()[0] == [4, 2, 3]
    assert (found.tokens, found.names, found.inputs, found.per_row) == (5, COLOURS, "raw", 1)
    assert found.of(torch.tensor([1, 0, 1]), torch.tensor([7, 7, 7])).tolist() == [1, 0, 1]  # no captions here
    assert rows(attribute_sequences(records, inputs="raw", min_certainty=3)) == [[1, 4], [2]]


def test_the_reader_and_the_sequences_agree(tmp_path: Path) -> None:
    make_cub(tmp_path, classes=3, images=2, captions=None, attributes=312)
    records = CUB(root=tmp_path, captions="none", attributes=True).read()
    found = attribute_sequences(records, inputs="raw")
    assert found.tokens == 313
    for row, tokens in enumerate(rows(found)):
        assert tokens == [a for a in range(1, 313) if (row + 1 + a) % 2]  # as make_cub labels them


def test_an_image_without_attributes_gets_some(tmp_path: Path) -> None:
    """Sec. 4.3 of the notes: first the limit of certainty goes, then the class's commonest attribute comes."""
    records = birds(tmp_path, [[1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 1, 0]], [[2, 4, 2], *[[4, 4, 4]] * 3])
    assert rows(attribute_sequences(records, inputs="raw", min_certainty=3)) == [[1, 3], [1], [2], [2]]
    table(tmp_path, ["10 20 70.5", "60 0 50"])
    assert rows(attribute_sequences(records, inputs="raw")) == [[1, 3], [3], [1], [2]]
    of_class = np.array([[0, 1, 0], [0, 0, 1]])
    assert rows(attribute_sequences(records, inputs="raw", percentages=of_class))[1:3] == [[2], [3]]
    table(tmp_path, ["0 0 0", "60 0 50"])
    assert "neither 0/bird_1 nor its class" in refusal(lambda: attribute_sequences(records, inputs="raw"))


def test_class_attributes_are_those_of_half_the_class(tmp_path: Path) -> None:
    records = birds(tmp_path, [[1, 0, 0], [0, 0, 0], [1, 1, 1]])
    message = refusal(lambda: attribute_sequences(records, inputs="class"))
    assert str(tmp_path / CLASS_TABLE) in message
    table(tmp_path, ["50 49.9 100", "10 30 20"])
    found = attribute_sequences(records, inputs="class")
    assert rows(found) == [[1, 3], [1, 3], [2]]
    assert found.certainty is None
    for lines in (["50 49.9 100"], ["1 2 x", "1 2 3"]):
        table(tmp_path, lines)
        message = refusal(lambda: attribute_sequences(records, inputs="class"))
        assert "is not a table of 2 classes and 3 attributes" in message


def test_denoised_attributes(tmp_path: Path) -> None:
    records = birds(
        tmp_path, [[1, 1, 0], [1, 1, 0], [1, 0, 1], [0, 0, 0]], [[4, 4, 4], [4, 4, 4], [2, 2, 4], [4, 4, 4]]
    )
    present = [[0, 1, 1], [0, 0, 0], [1, 0, 1], [0, 0, 0]]  # the last of the first image was added
    score = [[0.0, 0, 0], [0.5, 0.9, 7], [0, 0, 0], [1, 0, 0]]
    path = denoised(tmp_path / "a.npz", records, present, score, threshold=np.array([0.6, 1.3, 0]))
    found = attribute_sequences(records, inputs="clean", denoised=path)
    assert rows(found) == [[2, 3], [1], [1, 3], [1]]  # -0.1 beats -0.4; the third was never labelled
    assert rows(attribute_sequences(records, inputs="clean", denoised=path, min_certainty=3))[2] == [3]
    part = records.take(np.array([2, 0]))  # a file of all images serves for some of them
    assert rows(attribute_sequences(part, inputs="clean", denoised=path)) == [[1, 3], [2, 3]]
    assert rows(attribute_sequences(records, inputs="raw", denoised=path))[0] == [1, 2]


def test_the_hash_says_which_labels_survived(tmp_path: Path) -> None:
    records = birds(tmp_path, [[1, 1], [1, 1]])
    score = [[0.0, 0], [0, 0]]
    one = denoised_hash(denoised(tmp_path / "1.npz", records, [[1, 0], [1, 1]], score))
    assert len(one) == 8
    assert one == denoised_hash(denoised(tmp_path / "2.npz", records, [[1, 0], [1, 1]], [[3.0, 0], [0, 0]]))
    assert one != denoised_hash(denoised(tmp_path / "3.npz", records, [[1, 1], [1, 0]], score))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    records = birds(tmp_path, [[1, 0], [0, 1]])
    bare = replace(records, attributes=None, certainty=None, attribute_names=())
    assert "has no attributes, which model.inputs=raw reads" in refusal(lambda: attribute_sequences(bare, inputs="raw"))
    assert "has no attributes, which model.inputs=class" in refusal(lambda: attribute_sequences(bare, inputs="class"))
    assert "There are raw, clean, class" in refusal(lambda: attribute_sequences(records, inputs="text"))
    assert "model.denoised" in refusal(lambda: attribute_sequences(records, inputs="clean"))
    other = replace(records, keys=("0/bird_0", "0/owl"))
    path = denoised(tmp_path / "a.npz", other, [[1, 0], [0, 1]], [[0.0, 0], [0, 0]])
    message = refusal(lambda: attribute_sequences(records, inputs="clean", denoised=path))
    assert "of other images than cub, 1 of 2 are absent, such as 0/bird_1" in message
    path = denoised(tmp_path / "b.npz", records, [[1, 0], [0, 1]], [[0.0, 0], [0, 0]], names=("a", "b"))
    assert "are not the 2 of cub" in refusal(lambda: attribute_sequences(records, inputs="clean", denoised=path))
    assert "has no captions" in refusal(lambda: caption_sequences(records))


# ---- captions


def test_captions_become_words_in_their_order(tmp_path: Path) -> None:
    assert words("It's a R\u00e9d-winged bird\u2026 \u9ce5 no. 3") == "it s a rd winged bird no 3".split()
    records = birds(tmp_path, [[1], [1]], captions=(("a red bird", "red is it"), ("A bird!",)))
    found = caption_sequences(records)
    assert found.names == ("a", "bird", "is", "it", "red")
    assert [[found.names[i - 1] for i in row] for row in rows(found)] == [
        ["a", "red", "bird"],
        ["red", "is", "it"],
        ["a", "bird"],
    ]
    assert found.of(torch.tensor([1, 0, 0]), torch.tensor([0, 1, 0])).tolist() == [2, 1, 0]
    assert found.of(torch.tensor([1, 0])).tolist() == [2, 0]
    assert (found.inputs, found.per_row, found.certainty) == ("text", None, None)


def test_captions_in_the_words_of_an_encoder(tmp_path: Path) -> None:
    records = birds(tmp_path, [[1], [1]], captions=(("quite so", "a red bird"), ("bird", "red bird")))
    found = caption_sequences(records, names=["red", "bird"])
    assert rows(found) == [[1, 2], [1, 2], [2], [1, 2]]  # the first knows no word and says what the second says
    assert found.per_row == 2
    message = refusal(lambda: caption_sequences(records, names=["quite", "a"]))
    assert "captions of 0/bird_1 is known" in message


def test_a_users_sentence(caplog: pytest.LogCaptureFixture) -> None:
    names = ("a", "bird", "red")
    with caplog.at_level(logging.WARNING, "finegan.conditions"):
        assert parse_sentence("A RED, red griffin", names) == [1, 3, 3]
    assert caplog.messages == ["words that the encoder does not know are left out: griffin"]
    assert "such as a, bird, red" in refusal(lambda: parse_sentence("one griffin", names))
    assert "no word of the sentence ''" in refusal(lambda: parse_sentence("", names))


# ---- what is left of a sequence


def some(lengths: list[int], certainty: list[list[int]] | None = None) -> Sequences:
    """Rows of tokens 2, 4, 6, ... of these lengths."""
    width, n = max(lengths), torch.tensor(lengths)
    ids = torch.where(torch.arange(width) < n[:, None], 2 + 2 * torch.arange(width), 0)
    names = tuple(f"has_part::{i}" for i in range(2 * width))
    sure = None if certainty is None else torch.tensor(certainty, dtype=torch.uint8)
    return Sequences(ids, n, torch.arange(len(n)), names, "raw", sure, 1)


def test_evaluation_keeps_the_most_certain() -> None:
    found = some([6, 2], [[1, 4, 2, 4, 3, 2], [1, 1, 0, 0, 0, 0]])
    index = torch.tensor([0, 1, 0])
    for limit, kept in ((2, [4, 8]), (4, [4, 6, 8, 10]), (6, [2, 4, 6, 8, 10, 12])):  # of equals the first
        state = torch.get_rng_state()
        ids, lengths, changed = pick(found, index, max_len=limit, subset_prob=0.5, train=False)
        assert ids.tolist() == [kept, [2, 4] + [0] * (limit - 2), kept]
        assert lengths.tolist() == [limit, 2, limit]
        assert changed.tolist() == [limit < 6, False, limit < 6]
        assert torch.equal(torch.get_rng_state(), state)
    ids, _, _ = pick(some([6, 2]), index, max_len=3, train=False)  # captions: the first words
    assert ids.tolist() == [[2, 4, 6], [2, 4, 0], [2, 4, 6]]


def test_training_keeps_a_random_subset_in_order() -> None:
    torch.manual_seed(0)
    ids, lengths, changed = pick(some([10, 3]), torch.arange(2).repeat(2000), max_len=4, train=True)
    assert ids.shape == (4000, 4)
    assert lengths.tolist() == [4, 3] * 2000
    assert changed.tolist() == [True, False] * 2000
    assert (ids[0::2].diff(dim=1) > 0).all()  # four different ones, ascending
    assert (ids[1::2] == torch.tensor([2, 4, 6, 0])).all()
    share = torch.stack([(ids[0::2] == token).any(1).float().mean() for token in range(2, 22, 2)])
    assert share.sub(0.4).abs().max() < 0.05  # 4 standard deviations


def test_random_subsets_have_any_size() -> None:
    torch.manual_seed(1)
    found, index = some([5]), torch.zeros(10_000, dtype=torch.long)
    ids, lengths, changed = pick(found, index, max_len=64, subset_prob=1.0, train=True)
    shares = lengths.bincount(minlength=6) / 10_000
    assert shares[0] == 0
    assert shares[1:].sub(0.2).abs().max() < 0.02
    assert torch.equal(changed, lengths < 5)
    assert torch.equal((ids > 0).sum(1), lengths)
    alone = ids[lengths == 1, 0].bincount(minlength=11)[2::2] / (lengths == 1).sum()
    assert alone.sub(0.2).abs().max() < 0.05
    _, lengths, _ = pick(found, index, max_len=64, subset_prob=0.1, train=True)
    assert (lengths < 5).float().mean().item() == pytest.approx(0.08, abs=0.012)  # a fifth of the subsets is whole


def test_without_subsets_training_is_deterministic() -> None:
    found = some([5, 2, 7])
    picked = [pick(found, torch.arange(3), max_len=7, subset_prob=0.0, train=True) for _ in range(3)]
    assert all(torch.equal(ids, found.ids) and not changed.any() for ids, _, changed in picked)


def test_the_draws_follow_torchs_generator() -> None:
    def drawn() -> Tensor:
        torch.manual_seed(5)
        return pick(some([9] * 8), torch.arange(8), max_len=6, subset_prob=0.5, train=True)[0]

    assert torch.equal(drawn(), drawn())


# ---- codes


def encoder(sequences: Sequences, width: int = 8) -> Frozen:
    torch.manual_seed(0)
    return Frozen(RNNEncoder(tokens=sequences.tokens, word_dim=6, code_dim=width, dropout=0.5))


def conditions(sequences: Sequences, **options: Any) -> Conditions:
    return Conditions(
        encoder=encoder(sequences), sequences=sequences, **{"max_len_train": 64, "max_len_eval": 64} | options
    )


def same(a: Codes, b: Codes) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x.float(), y.float(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("limits", [(64, 64), (4, 6), (6, 4)])
@pytest.mark.parametrize("train", [False, True])
def test_looked_up_codes_are_fresh_codes(limits: tuple[int, int], train: bool) -> None:
    sequences = some([3, 9, 1, 5, 6, 4])
    options = {"max_len_train": limits[0], "max_len_eval": limits[1], "subset_prob": 0.3}
    kept, fresh = conditions(sequences, **options), conditions(sequences, cache=False, **options)
    for seed in range(10):
        row = torch.tensor([[1, 0, 2, 2], [2, 3, 4, 5], [0, 0, 2, 2]][seed % 3])
        torch.manual_seed(seed)
        looked_up = kept.codes(row, train=train)
        torch.manual_seed(seed)
        same(looked_up, fresh.codes(row, train=train))
        assert looked_up.words.is_contiguous()
    assert kept.table is not None
    assert fresh.table is None


def test_the_table_is_computed_once() -> None:
    found = conditions(some([3, 5]))
    first = found.codes(torch.tensor([0, 1]), train=False)
    with torch.no_grad():
        found.encoder.net.get_parameter("encoder.weight").zero_()
    same(found.codes(torch.tensor([0, 1]), train=False), first)


def test_codes_of_captions_go_by_caption(tmp_path: Path) -> None:
    records = birds(tmp_path, [[1], [1]], captions=(("a red bird", "red"), ("a bird", "such a small bird")))
    found = conditions(caption_sequences(records), max_len_eval=3)
    codes = found.codes(torch.tensor([0, 1]), torch.tensor([1, 1]), train=False)
    names = found.sequences.names
    same(codes, found.encode([parse_sentence("red", names), parse_sentence("such a small", names)]))
    assert found.condition_text(torch.tensor([0, 1]), torch.tensor([1, 1])) == ["red", "such a small"]
    assert found.condition_text(torch.tensor([1])) == ["a bird"]


def test_padding_and_companions_change_nothing() -> None:
    found = conditions(some([9, 2, 5]))
    alone = found.codes(torch.tensor([1]), train=False)
    among = found.codes(torch.tensor([0, 1, 2]), train=False)
    assert among.pad.tolist() == [[False] * 9, [False] * 2 + [True] * 7, [False] * 5 + [True] * 4]
    torch.testing.assert_close(among.words[1:2, :, :2], alone.words)
    torch.testing.assert_close(among.sent[1:2], alone.sent)
    assert (among.words[1, :, 2:] == 0).all()
    swapped = found.encode([[4, 2], [2, 4]])
    torch.testing.assert_close(swapped.sent[1:], alone.sent)
    assert (swapped.sent[0] - swapped.sent[1]).abs().max() > 1e-3


def test_free_conditions() -> None:
    found = conditions(some([4]), max_len_eval=2)
    assert found.encode([[2, 4, 6], [8]]).pad.tolist() == [[False, False], [False, True]]
    assert Conditions.of_ids(found.encoder, [[2, 4, 6], [8]]).words.shape == (2, 8, 3)
    assert "a condition is empty" in refusal(lambda: found.encode([[1], []]))
    assert "a condition is empty" in refusal(lambda: found.encode([]))


def test_conditions_in_words() -> None:
    sequences = replace(some([2]), ids=torch.tensor([[23, 246]]), names=NAMES)
    found = conditions(sequences)
    assert found.condition_text(torch.tensor([0])) == ["wing color: red, belly pattern: spotted"]
    assert parse_attributes(found.condition_text(torch.tensor([0]))[0].split(", "), NAMES) == [23, 246]


def test_an_encoder_of_other_tokens_is_refused() -> None:
    short = encoder(some([2]))
    message = refusal(
        lambda: Conditions(encoder=short, sequences=some([3]), max_len_train=9, max_len_eval=9, subset_prob=0)
    )
    assert "the data have 7 tokens and the encoder knows 5" in message
