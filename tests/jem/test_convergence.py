"""When a curve has converged: papers/jem.md, number 15."""

import numpy as np
import pytest

from jem.convergence import area_under, convergence_epoch, first_at, running_median

E = np.arange(10, 801, 10)


def falling(tau: float) -> np.ndarray:
    return 10 + 90 * np.exp(-E / tau)


@pytest.mark.parametrize(
    ("curve", "epoch", "status"),
    [
        (falling(50), 170, "converged"),
        (falling(100), 320, "converged"),
        (falling(200), 550, "converged"),
        (falling(400), 670, "not_converged"),
        (100 - 0.1 * E, 730, "not_converged"),
        (np.full(len(E), 7.0), 10, "converged"),
    ],
)
def test_epochs_of_known_curves(curve: np.ndarray, epoch: float, status: str) -> None:
    """Number 15."""
    found = convergence_epoch(E, curve)
    assert (found.epoch, found.status) == (epoch, status)


def test_curves_that_get_worse_again_have_diverged_and_a_best_epoch() -> None:
    """Number 15."""
    jumping = np.where(E >= 600, 90.0, falling(50))
    found = convergence_epoch(E, jumping)
    assert (found.status, found.best_epoch, found.epoch) == ("diverged", 170, None)
    found = convergence_epoch(E, 10 + 0.1 * E)
    assert (found.status, found.best_epoch) == ("diverged", 10)


def test_one_outlier_does_not_move_it_and_being_better_never_counts_against() -> None:
    curve = falling(50)
    curve[40] = 500.0
    assert convergence_epoch(E, curve).epoch == 170
    dip = falling(50)
    dip[30:34] -= 8
    found = convergence_epoch(E, dip)
    assert found.status == "converged"
    assert found.epoch is not None
    assert found.epoch <= 170


def test_a_curve_of_other_lengths_is_no_curve() -> None:
    with pytest.raises(ValueError, match="no curve"):
        convergence_epoch([10, 20], [1.0])
    with pytest.raises(ValueError, match="no curve"):
        convergence_epoch([], [])


def test_common_level_and_area() -> None:
    assert running_median(np.array([5.0, 1.0, 4.0, 2.0]), 3).tolist() == [3.0, 4.0, 2.0, 3.0]
    assert first_at([10, 20, 30], [9.0, 5.0, 1.0], 5.0, window=1) == 20
    assert first_at([10, 20, 30], [9.0, 5.0, 1.0], 0.5, window=1) is None
    assert area_under([10, 20, 30], [3.0, 2.0, 1.0], window=1) == 2.0
