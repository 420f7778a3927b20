"""Building blocks that two papers or more use."""

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
