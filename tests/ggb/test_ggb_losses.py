"""GGB's own terms by hand; the sums of Eq. 1 to 9 are in test_ggb_step.py."""

import pytest
import torch

from ggb.losses import body_reconstruction, reconstruction
from ggb.networks import downsized


def test_reconstruction_is_a_mean() -> None:
    """Of -1 against 1: 2 at each level, 6 over three levels (Sec. 9, check 3), whatever batch and resolution."""
    y = torch.ones(2, 3, 64, 64)
    values = [reconstruction(-s, s) for s in downsized(y, (4, 5, 6))]
    assert sum(values).item() == 6  # type: ignore[union-attr]
    assert values[0].item() == reconstruction(-y, y).item() == 2
    assert reconstruction(y, y).item() == 0


def test_reconstruction_by_hand() -> None:
    image, target = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    target[0, 1, 2, 3], target[1] = -1.0, 0.5
    assert reconstruction(image, target).item() == pytest.approx((1 + 48 * 0.5) / 96)
    assert reconstruction(image.bfloat16(), target).dtype == torch.float32


def test_body_reconstruction_counts_the_body_in_the_mean_of_all() -> None:
    image, target, mask = torch.zeros(2, 3, 8, 8), torch.full((2, 3, 8, 8), -0.4), torch.zeros(2, 1, 8, 8)
    assert body_reconstruction(image, target, mask).item() == 0
    mask[0, 0, :4] = 1
    assert body_reconstruction(image, target, mask).item() == pytest.approx(0.4 / 4)
    target[0, :, 4:] = 9.0  # off the body
    assert body_reconstruction(image, target, mask).item() == pytest.approx(0.4 / 4)
    assert body_reconstruction(image, target, torch.ones_like(mask)).item() == pytest.approx(
        reconstruction(image, target).item()
    )


@pytest.mark.parametrize("sign", [-1, 1])
def test_descent_moves_towards_the_target(sign: int) -> None:
    image = torch.zeros(1, 3, 2, 2, requires_grad=True)
    (
        reconstruction(image, torch.full_like(image, sign)) + body_reconstruction(image, image + sign, torch.ones(1))
    ).backward()
    assert (image.grad.sign() == -sign).all()
