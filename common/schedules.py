"""Learning rates that depend on how long training is; conf/model says `horizon` where they do.

Lightning keeps their state in a checkpoint, so that `common.tasks.trainer.epochs_of` sees which length a rate was for.
"""

import math


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
