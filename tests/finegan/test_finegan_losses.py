"""FineGAN's terms on inputs whose values are known by hand, and the word loss against its definition in a loop."""

from functools import partial
from itertools import pairwise
from math import exp, log, tanh

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from finegan import losses
from finegan.losses import kl, mismatch, region_attention
from tests.agree import agree

pytestmark = pytest.mark.usefixtures("float64")

LN3 = log(3)
GAMMAS = (4.0, 5.0, 10.0)
damsm_loss = partial(losses.damsm_loss, length_norm=False)
word_scores, word_loss = (
    partial(of, gammas=GAMMAS, length_norm=False) for of in (losses.word_scores, losses.word_loss)
)
sentence_loss = partial(losses.sentence_loss, gamma=GAMMAS[2])


@pytest.mark.parametrize(("mu", "logvar", "value"), [(1.0, 0.0, 0.5), (0.0, 0.0, 0.0), (0.0, log(4), 0.80685)])
def test_kl_is_a_mean_over_batch_and_dimensions(mu: float, logvar: float, value: float) -> None:
    given = torch.full((3, 100), mu), torch.full((3, 100), logvar)
    assert kl(*given).item() == pytest.approx(value, abs=1e-5)
    assert kl(*(x.bfloat16() for x in given)).dtype == torch.float32


# ---- the condition that is not the image's


def test_shift_is_the_next_one_whatever_its_class() -> None:
    i, j = mismatch(torch.tensor([4, 4, 7, 4]), "shift")
    assert (i.tolist(), j.tolist()) == ([0, 1, 2], [1, 2, 3])


@pytest.mark.parametrize(
    ("labels", "i", "j"),
    [
        ([1, 2, 3], [0, 1, 2], [1, 2, 0]),
        ([1, 1, 2, 1], [0, 1, 2, 3], [2, 2, 3, 2]),  # round the end
        ([5, 5, 5], [], []),
        ([5], [], []),
    ],
)
def test_class_is_the_next_one_of_another_class(labels: list[int], i: list[int], j: list[int]) -> None:
    own, wrong = mismatch(torch.tensor(labels), "class")
    assert (own.tolist(), wrong.tolist()) == (i, j)
    assert torch.arange(9)[wrong].shape == (len(i),)  # both index, also when empty


def test_class_equals_its_words_written_out() -> None:
    labels = torch.randint(3, (12,), generator=torch.Generator().manual_seed(0))
    wanted = [(i, next((i + k) % 12 for k in range(1, 12) if labels[(i + k) % 12] != labels[i])) for i in range(12)]
    assert list(zip(*(x.tolist() for x in mismatch(labels, "class")), strict=True)) == wanted


# ---- global codes


def test_sentence_loss_at_chance_of_one_class_and_at_a_match() -> None:
    same, labels = torch.ones(3, 8), torch.arange(3)
    for value in sentence_loss(same, same, labels):
        assert value.item() == pytest.approx(LN3, abs=1e-5)
    for value in sentence_loss(same, same, torch.zeros(3, dtype=torch.long)):
        assert value.item() == 0
    for value in sentence_loss(torch.eye(3), 7 * torch.eye(3), labels):  # the cosine knows no length
        assert value.item() == pytest.approx(log(1 + 2 * exp(-10)), rel=1e-3)
        assert value.item() == pytest.approx(9.08e-5, abs=1e-7)


def test_directions_are_image_to_condition_and_back() -> None:
    code, sent = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # both conditions lie by image 0
    forth, back = sentence_loss(code, sent, torch.arange(2))
    assert forth.item() == pytest.approx(log(2), abs=1e-5)
    assert back.item() == pytest.approx((log(1 + exp(-10)) + log(1 + exp(10))) / 2, abs=1e-4)


def test_a_wrong_pair_of_the_own_class_does_not_count() -> None:
    torch.manual_seed(0)
    code, sent, labels = torch.randn(3, 8), torch.randn(3, 8), torch.tensor([0, 0, 1])
    cosine = 10 * F.normalize(code, dim=1) @ F.normalize(sent, dim=1).T
    rows = [torch.stack([cosine[0, 0], cosine[0, 2]]), torch.stack([cosine[1, 1], cosine[1, 2]]), cosine[2].roll(1)]
    wanted = torch.stack([row.logsumexp(0) - row[0] for row in rows]).mean()
    agree(sentence_loss(code, sent, labels)[0], wanted)


# ---- words and regions


def test_attention_over_two_regions() -> None:
    regions, words, pad = torch.eye(2)[None], torch.eye(2)[None], torch.zeros(1, 2, dtype=torch.bool)
    alpha, s = region_attention(regions, words, pad, 4.0)
    agree(s[0, 0], torch.eye(2))
    own = 1 / (1 + exp(-4 * tanh(0.5)))  # 0.86395
    wanted = torch.tensor([[own, 1 - own], [1 - own, own]])
    agree(alpha[0, 0], wanted)


def constant(lengths: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Regions that are all alike and identical words."""
    count, longest = len(lengths), max(lengths)
    pad = torch.arange(longest) >= torch.tensor(lengths)[:, None]
    return torch.ones(count, 8, 3, 3), torch.ones(count, 8, longest), pad, torch.arange(count)


def test_word_loss_favours_long_conditions_unless_told() -> None:
    for value in word_loss(*constant((3, 3, 3))):
        assert value.item() == pytest.approx(LN3, abs=1e-5)
    forth, back = word_loss(*constant((4, 2, 1)))
    assert forth.item() == pytest.approx(6.93245, abs=1e-4)
    assert back.item() == pytest.approx(LN3, abs=1e-4)
    for value in word_loss(*constant((4, 2, 1)), length_norm=True):
        assert value.item() == pytest.approx(LN3, abs=1e-4)


def some(lengths: tuple[int, ...] = (5, 2, 1, 3), side: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    count, longest = len(lengths), max(lengths)
    pad = torch.arange(longest) >= torch.tensor(lengths)[:, None]
    regions, words = torch.randn(count, 16, side, side), torch.randn(count, 16, longest)
    return regions.requires_grad_(), words.requires_grad_(), pad, torch.tensor([0, 1, 1, 2])[:count]


def looped(regions: Tensor, words: Tensor, pad: Tensor, length_norm: bool = False) -> Tensor:
    """The definition of Sec. 3, one image, condition and word at a time."""
    scores = torch.zeros(len(regions), len(words))
    for i, v in enumerate(regions.flatten(2)):
        for j, w in enumerate(words):
            w = w[:, ~pad[j]]
            share = (w.T @ v).softmax(0)
            total = torch.zeros(())
            for word, weights in zip(w.T, share, strict=True):
                context = v @ (GAMMAS[0] * weights).softmax(0)
                total = total + (GAMMAS[1] * F.cosine_similarity(word, context, dim=0)).exp()
            scores[i, j] = GAMMAS[2] * (total / (w.shape[1] if length_norm else 1)).log()
    return scores


@pytest.mark.parametrize("length_norm", [False, True])
def test_vectorised_word_loss_equals_the_loop(length_norm: bool) -> None:
    regions, words, pad, labels = some()
    scores = word_scores(regions, words, pad, length_norm=length_norm)
    slow = looped(regions, words, pad, length_norm)
    agree(scores, slow)
    allowed = [[0, 1, 2, 3], [0, 1, 3], [0, 2, 3], [0, 1, 2, 3]]  # 1 and 2 are of one class
    forth = torch.stack([slow[i, own].logsumexp(0) - slow[i, i] for i, own in enumerate(allowed)]).mean()
    back = torch.stack([slow[own, i].logsumexp(0) - slow[i, i] for i, own in enumerate(allowed)]).mean()
    fast = word_loss(regions, words, pad, labels, length_norm=length_norm)
    agree(fast, (forth, back))
    for mine, wanted in zip(
        torch.autograd.grad(sum(fast), [regions, words]),
        torch.autograd.grad(forth + back, [regions, words]),
        strict=True,
    ):
        agree(mine, wanted)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_padding_columns_change_nothing_and_get_no_gradient(value: float) -> None:
    regions, words, pad, labels = some()
    wider = torch.cat([words.detach(), torch.full((4, 16, 3), value)], 2).requires_grad_()
    more = torch.cat([pad, torch.ones(4, 3, dtype=torch.bool)], 1)
    loss = word_loss(regions, wider, more, labels)
    agree(loss, word_loss(regions, words, pad, labels))
    sum(loss).backward()
    assert not wider.grad.transpose(1, 2)[more].any()
    assert wider.grad.isfinite().all()
    assert regions.grad.abs().sum() > 0


def test_a_batch_of_one_class_costs_nothing_and_gives_no_nan() -> None:
    regions, words, pad, _ = some()
    forth, back = word_loss(regions, words, pad, torch.zeros(4, dtype=torch.long))
    assert forth.item() == back.item() == 0
    (forth + back).backward()
    assert not regions.grad.any()
    assert not words.grad.any()


def test_large_batches_go_in_parts_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    # all, two and one condition at once; those are of equal lengths or not
    for largest, few in ((losses.LARGEST, 4), (losses.LARGEST, 3), (losses.LARGEST, 1), (2 * 4 * 5 * 16, 4), (1, 4)):
        monkeypatch.setattr(losses, "LARGEST", largest)
        monkeypatch.setattr(losses, "FEW", few)
        regions, words, pad, labels = some()
        loss = sum(word_loss(regions, words, pad, labels))
        loss.backward()
        found.append((loss.detach(), regions.grad, words.grad))
    for before, after in pairwise(found):
        agree(before, after)


def test_conditions_of_like_lengths_go_together_and_are_cut() -> None:
    pad = torch.arange(6) >= torch.tensor([[6], [1], [3], [2], [5]])
    found = [(rows.tolist(), length) for rows, length in losses.parts(pad, 2)]
    assert found == [([1, 3], 2), ([2, 4], 5), ([0], 6)]


def test_damsm_is_all_four_in_float32_under_autocast() -> None:
    regions, words, pad, labels = some()
    code, sent = torch.randn(4, 16), torch.randn(4, 16)
    plain = damsm_loss(regions, code, words, sent, pad, labels, gammas=(3.0, 2.0, 1.0))
    assert list(plain) == ["w0", "w1", "s0", "s1"]
    assert (plain["w0"], plain["w1"]) == word_loss(regions, words, pad, labels, gammas=(3.0, 2.0, 1.0))
    assert (plain["s0"], plain["s1"]) == sentence_loss(code, sent, labels, gamma=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same = damsm_loss(regions, code, words, sent, pad, labels, gammas=(3.0, 2.0, 1.0))
    for name, value in plain.items():
        assert torch.equal(same[name], value)
