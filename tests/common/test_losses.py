"""Costs by hand and by direction: a flipped sign fails here."""

import math

import pytest
import torch

from common.losses import ADVERSARIAL, kl_log_std, l1, weighted


def test_lsgan_by_hand() -> None:
    real, fake = ADVERSARIAL["lsgan"]
    scores = torch.tensor([0.0, 1.0, 2.0])
    assert (real(scores).item(), fake(scores).item()) == pytest.approx((2 / 3, 5 / 3))


def test_bce_by_hand() -> None:
    real, fake = ADVERSARIAL["bce"]
    zero = torch.zeros(3)
    assert (real(zero).item(), fake(zero).item()) == pytest.approx((math.log(2), math.log(2)))


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_descent_moves_scores_the_right_way(name: str) -> None:
    for cost, sign in zip(ADVERSARIAL[name], (-1, 1), strict=True):
        scores = torch.full((4,), 0.5, requires_grad=True)
        cost(scores).backward()
        assert (scores.grad.sign() == sign).all()


@pytest.mark.parametrize(
    ("mu", "log_std", "value"),
    [(0.0, 0.0, 0.0), (1.0, 0.0, 0.5), (0.0, math.log(2), 0.80685), (0.0, -math.log(2), 0.31815)],
)
def test_kl_takes_log_sigma_and_not_log_variance(mu: float, log_std: float, value: float) -> None:
    one = kl_log_std(torch.full((1, 1), mu), torch.full((1, 1), log_std))
    tiled = kl_log_std(torch.full((3, 128), mu), torch.full((3, 128), log_std))
    assert one.item() == pytest.approx(value, abs=1e-5)
    assert tiled.item() == pytest.approx(value, abs=1e-5)
    summed = kl_log_std(torch.full((3, 128), mu), torch.full((3, 128), log_std), "sum")
    assert summed.item() == pytest.approx(128 * value, abs=1e-3)


def test_weighted_wants_exactly_the_terms() -> None:
    terms = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    assert weighted(terms, {"a": 1.0, "b": 10.0, "c": None}).item() == 32
    for wrong in ({"a": 1.0}, {"a": 1.0, "b": 1.0, "c": 0.0}, {"a": 1.0, "b": None}):
        with pytest.raises(KeyError):
            weighted(terms, wrong)


def test_l1_by_hand() -> None:
    image, target = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    target[0, 1, 2, 3], target[1] = -1.0, 0.5
    assert l1(image, target).item() == pytest.approx((1 + 48 * 0.5) / 96)
    assert l1(image.bfloat16(), target).dtype == torch.float32


def test_l1_of_a_mask_is_in_the_mean_of_all() -> None:
    image, target, mask = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), -0.4), torch.zeros(2, 1, 8, 8)
    assert l1(image, target, mask).item() == 0
    mask[0, 0, :4] = 1
    assert l1(image, target, mask).item() == pytest.approx(0.4 / 4)
    target[0, :, 4:] = 9.0  # outside
    assert l1(image, target, mask).item() == pytest.approx(0.4 / 4)
    assert l1(image, target, torch.ones_like(mask)).item() == pytest.approx(l1(image, target).item())


@pytest.mark.parametrize("sign", [-1, 1])
def test_descent_moves_towards_the_target(sign: int) -> None:
    image = torch.zeros(1, 3, 2, 2, requires_grad=True)
    (l1(image, torch.full_like(image, sign)) + l1(image, image.detach() + sign, torch.ones(1))).backward()
    assert (image.grad.sign() == -sign).all()
