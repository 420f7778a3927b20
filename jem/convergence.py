"""When a GAN has converged: Table 1 of the paper as a criterion that can fail.

The paper "observed the training process": 600 and 300 epochs come without a protocol. Ours is docs/jem.md, Table 1.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

TOLERANCE = 0.05  # ours: of the range between the first look and the end
Status = Literal["converged", "not_converged", "diverged"]


class Convergence(NamedTuple):
    """What a curve says."""

    epoch: float | None  # E*, None where the curve leaves its final level at its very end
    status: Status
    final: float  # F, the level at the end
    best_epoch: float | None = None  # of a run that diverged: the first epoch near its best


def convergence_epoch(
    epochs: Sequence[float],
    metric: Sequence[float],
    *,
    tolerance: float = TOLERANCE,
    window: int = 5,
    tail: float = 0.1,
    censored: float = 0.8,
    divergence: float = 0.25,
) -> Convergence:
    """The first epoch from which a curve stays at its final level. metric: lower is better; without epoch 0.

    s: running median over `window`; F: mean of the last `tail` of s (three values at least); S = s[0]; b = min(s).
    E* is the smallest epoch from which on s - F <= tolerance * |S - F|: better than F never counts against it. Past
    `censored` of the run the end is too near to say that a level was reached; more than `divergence` of (S - b) above
    the best, the run got worse again.
    """
    if len(epochs) != len(metric) or len(epochs) == 0:
        raise ValueError(f"{len(epochs)} epochs and {len(metric)} values are no curve")
    e, m = np.asarray(epochs, float), np.asarray(metric, float)
    s = running_median(m, window)
    final = float(s[-max(3, math.ceil(tail * len(s))) :].mean())
    start, best = float(s[0]), float(s.min())
    if final - best > divergence * (start - best):
        near = s <= best + tolerance * (start - best)
        return Convergence(None, "diverged", final, float(e[np.argmax(near)]))
    above = np.flatnonzero(s - final > tolerance * abs(start - final))
    first = 0 if len(above) == 0 else int(above[-1]) + 1
    if first == len(e):
        return Convergence(None, "not_converged", final)
    reached = float(e[first])
    return Convergence(reached, "not_converged" if reached > censored * e[-1] else "converged", final)


def running_median(values: np.ndarray, window: int) -> np.ndarray:
    """Centred, cut at both ends."""
    half = window // 2
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def first_at(epochs: Sequence[float], metric: Sequence[float], level: float, *, window: int = 5) -> float | None:
    """The first epoch whose running median is at `level` or below: curves are compared at one level of all."""
    reached = np.flatnonzero(running_median(np.asarray(metric, float), window) <= level)
    return float(epochs[int(reached[0])]) if len(reached) else None


def area_under(epochs: Sequence[float], metric: Sequence[float], *, window: int = 5) -> float:
    """Mean of the smoothed curve over the epochs, trapezoidal."""
    e, s = np.asarray(epochs, float), running_median(np.asarray(metric, float), window)
    return float(s[0]) if len(e) == 1 else float(np.trapezoid(s, e) / (e[-1] - e[0]))
