"""Building blocks that two papers or more use."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn


def upcast(x: Tensor) -> Tensor:
    """float32 of float16, bfloat16 and whole numbers, for sums that need its bits; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def initialise(module: nn.Module) -> None:
    """Weights N(0, 0.02^2), biases 0, BN gamma N(1, 0.02^2), beta 0: DCGAN, as pix2pix and SISGAN have it."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)


@contextmanager
def in_mode(net: nn.Module, training: bool) -> Iterator[nn.Module]:
    """The network in train or in eval mode, and afterwards as it was."""
    was_training = net.training
    net.train(training)
    try:
        yield net
    finally:
        net.train(was_training)


class Frozen(nn.Module):
    """A network that only serves: in eval mode and without gradients for good, and left out of checkpoints.

    `train()` is ignored, so batch statistics never move; `GANModule` drops every state-dict key under a Frozen.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)


def frozen_prefixes(module: nn.Module) -> tuple[str, ...]:
    """State-dict prefixes of all the Frozen networks inside a module."""
    return tuple(f"{name}." for name, child in module.named_modules() if isinstance(child, Frozen))


# ---- learning rates that depend on how long training is; conf/model says `horizon` where they do. Lightning keeps
# their state in a checkpoint, so that `common.tasks.trainer.epochs_of` sees which length a rate was for.


class LinearDecay:
    """The rate as it is in the first half of the epochs, then straight to 0 at their end (pix2pix's shape)."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def __call__(self, epoch: int) -> float:
        return min(1.0, 2 - 2 * epoch / self.epochs)


class WarmCosine:
    """A linear warm-up, then half a cosine to 0, a step at a time. warm: steps of the warm-up, at most half of all."""

    def __init__(self, steps: int, epochs: int, warmup_epochs: float) -> None:
        self.epochs, self.steps = epochs, steps
        self.warm = min(warmup_epochs / max(1, epochs), 0.5) * steps

    def __call__(self, step: int) -> float:
        if step < self.warm:
            return (step + 1) / (self.warm + 1)
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - self.warm) / max(1.0, self.steps - self.warm)))
