"""Costs as functions: logits or statistics in, one scalar out. No network, weight, config or device inside."""

from collections.abc import Callable, Collection, Mapping

import torch.nn.functional as F
from torch import Tensor

from common.blocks import upcast

Cost = Callable[[Tensor], Tensor]


# name -> (cost of calling these logits real, cost of calling them fake); means over the batch, in float32 or more
ADVERSARIAL: dict[str, tuple[Cost, Cost]] = {
    "lsgan": (lambda d: (upcast(d) - 1).square().mean(), lambda d: upcast(d).square().mean()),
    "bce": (lambda d: F.softplus(-upcast(d)).mean(), lambda d: F.softplus(upcast(d)).mean()),
}


def l1(image: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """|image - target| as a mean over batch, channels and pixels: B,C,H,W twice -> scalar.

    mask: B,1,H,W in {0, 1}, what counts; the mean is over all pixels, also those where it is 0 (PG2's pose mask loss).
    """
    if mask is None:
        return F.l1_loss(upcast(image), upcast(target))
    return ((upcast(image) - upcast(target)).abs() * mask).mean()


def kl_log_std(mu: Tensor, log_std: Tensor, reduction: str = "mean") -> Tensor:
    """KL(N(mu, exp(log_std)^2) || N(0, 1)), SIMGAN Eq. 3. mu, log_std: B,C; log_std is log sigma, not log variance.

    "mean" averages over batch and dimensions (as SISGAN and StackGAN do); "sum" adds the dimensions up.
    """
    mu, log_std = upcast(mu), upcast(log_std)
    terms = -log_std + 0.5 * ((2 * log_std).exp() + mu.square() - 1)
    return terms.mean() if reduction == "mean" else terms.sum(1).mean()


def weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float | None]) -> Tensor:
    """The sum of weight x term. A weight of null says that the term is absent on purpose; 0 measures it only.

    Raises KeyError unless both name exactly the same terms: silence is how ablations go wrong.
    """
    require_terms(terms, weights)
    parts = [weight * terms[name] for name, weight in weights.items() if weight is not None]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def require_terms(terms: Collection[str], weights: Mapping[str, float | None]) -> None:
    """KeyError unless the terms are exactly those whose weight is a number."""
    present = {name for name, weight in weights.items() if weight is not None}
    if set(terms) != present:
        raise KeyError(f"terms {sorted(terms)} do not match the weights {sorted(present)}")
