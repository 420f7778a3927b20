"""Two computations of one thing, both in float64 (the fixture of that name): they agree, or they are two things."""

from typing import Any

import torch


def agree(ours: Any, theirs: Any, what: str | None = None) -> None:
    """AssertionError unless both, tensors or numbers or some of them, are the same to 1e-10."""
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10, msg=what and (lambda said: f"{what}: {said}"))
