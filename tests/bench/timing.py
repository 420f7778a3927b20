"""What the benchmarks share: a clock that waits for the device, two ways of doing a thing in turn, a row of results."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One line of docs/performance.md. `other` is the same work done another way; the aim is any of the last three."""

    work: str
    ours: float
    other: float | None = None
    unit: str = "images/s"
    at_least: float | None = None  # of `ours`
    at_most: float | None = None
    times: float | None = None  # of `ratio`

    @property
    def ratio(self) -> float | None:
        return None if self.other is None else self.ours / self.other

    @property
    def aim(self) -> str:
        bounds = [f">= {self.at_least:,g} {self.unit}"] if self.at_least is not None else []
        bounds += [f"< {self.at_most:g} {self.unit}"] if self.at_most is not None else []
        bounds += [f">= {self.times:g} x"] if self.times is not None else []
        return ", ".join(bounds)

    @property
    def met(self) -> bool | None:
        """None where there is no aim."""
        if not self.aim:
            return None
        enough = self.at_least is None or self.ours >= self.at_least
        little = self.at_most is None or self.ours < self.at_most
        return enough and little and (self.times is None or (self.ratio or 0) >= self.times)


def now(device: torch.device) -> float:
    """Seconds, once all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def alternate(
    ours: Callable[[], Any], other: Callable[[], Any], *, rounds: int, device: torch.device
) -> tuple[float, float]:
    """Median seconds of either, run in turn: what else the machine does, and its changes of clock, falls on both."""
    seconds: tuple[list[float], list[float]] = [], []
    for _ in range(rounds):
        for work, taken in zip((ours, other), seconds, strict=True):
            start = now(device)
            work()
            taken.append(now(device) - start)
    return median(seconds[0]), median(seconds[1])
