"""The reconstruction terms of GGB (Eq. 3) and of PG2. The adversarial costs are those of common.losses."""

import torch.nn.functional as F
from torch import Tensor

from common.blocks import upcast


def reconstruction(image: Tensor, target: Tensor) -> Tensor:
    """|y^n - x-hat^n|, Eq. 3, as a mean over batch, channels and pixels: B,3,s,s twice -> scalar.

    A mean, not a sum, because lambda_real = 0.02 is the 1 / 50 of PG2's code, whose L1 is a mean.
    """
    return F.l1_loss(upcast(image), upcast(target))


def body_reconstruction(image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """|y - x-hat| M, the second part of PG2's pose mask loss (Ma et al. 2017, Sec. 3.1).

    mask: B,1,S,S in {0, 1}, 1 on the body. A mean over all pixels, as in PG2's code, also where M is 0.
    """
    return ((upcast(image) - upcast(target)).abs() * mask).mean()
