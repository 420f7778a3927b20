"""Building blocks that two papers or more use."""

from typing import Any, Self

from torch import nn


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
