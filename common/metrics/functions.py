"""Metrics as functions of features and pixels: no network, no loop, no file; extractors.py makes the features.

N images, F width of a feature, K classes, D width of a code, B batch, H,W sides of an image. What is summed over many
images or pixels is summed in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError

STANDARD = "inception-2015-12-05"  # the extractor whose numbers may be called plain FID, KID and IS
ENOUGH = 2048  # images: below it the covariance of 2048 features is rank-deficient and FID is mostly bias
SEED = 2020  # torch-fidelity's: it shuffles the images of IS and draws the subsets of KID


def to_uint8(images: Tensor, *, rounding: Literal["round", "floor"] = "round") -> Tensor:
    """Images of any shape in [-1, 1] -> uint8: the only door from a generator to a metric.

    "round" gives each photo back exactly; "floor", floor((x + 1) * 127.5) as AttnGAN does it, lowers 63 of the 256
    values by one in float32. Raises ValueError on integers, NaN and values outside [-1, 1] (by more than 1e-3).
    """
    if not images.is_floating_point():
        raise ValueError(f"images in [-1, 1] are floats, not {images.dtype}")
    low, high = torch.aminmax(images.detach().float())
    if not (low >= -1.001 and high <= 1.001):  # also when NaN
        raise ValueError(f"images must lie in [-1, 1], these span [{low:.4g}, {high:.4g}]")
    levels = (images.detach().float() + 1) * 127.5
    return (levels.round() if rounding == "round" else levels.floor()).clamp_(0, 255).to(torch.uint8)


def from_uint8(images: Tensor) -> Tensor:
    """uint8 images of any shape -> [-1, 1], v / 127.5 - 1, in torch's default type: the way back of `to_uint8`."""
    return images.to(torch.get_default_dtype()) / 127.5 - 1


# ---- which numbers may be compared: who made the features, of what, how many


@dataclass(frozen=True)
class Features:
    """What an extractor saw in N images, in their order, on the CPU."""

    features: Tensor  # N,F float32
    logits: Tensor  # N,K float32
    extractor: str  # such as STANDARD or classifier-cub
    weights: str  # first 8 hexadecimal digits of the weights' SHA-256
    input: str  # size and resize, in words

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, which: slice | Tensor) -> Self:
        """Of some of the images, in the order asked for."""
        return replace(self, features=self.features[which], logits=self.logits[which])


@dataclass(frozen=True)
class Protocol:
    """How a number was measured; goes into each result. Numbers of two protocols are never compared."""

    extractor: str
    weights: str
    input: str
    pixels: str  # how floats became uint8: round or floor
    reference: str  # which real images
    n_real: int
    n_fake: int
    is_splits: int
    kid_subset: int
    kid_subsets: int
    seed: int = SEED

    @property
    def few(self) -> bool:
        """Whether FID and IS are too biased to be shown without a remark."""
        return min(self.n_real, self.n_fake) < ENOUGH


def metric_key(metric: str, extractor: str) -> str:
    """`fid` is measured with the standard Inception and nothing else; the rest is `fid@classifier-cub` and the like."""
    return metric if extractor == STANDARD else f"{metric}@{extractor}"


class Meaning(NamedTuple):
    """How a number is read."""

    better: Literal["higher", "lower", ""]  # "" where it is only told
    unit: str = ""


UP, DOWN, TOLD = Meaning("higher"), Meaning("lower"), Meaning("")
MEANINGS = {"fid": DOWN, "kid": DOWN, "is_mean": UP}  # of `score`


def require_enough(n_real: int, n_fake: int, *, allow_few: bool) -> None:
    """UserError when FID and IS would be mostly bias. Known before anything is generated, so call it early."""
    if min(n_real, n_fake) < ENOUGH and not allow_few:
        raise UserError(
            f"FID and IS need {ENOUGH:,} images on either side, here are {n_real:,} real and {n_fake:,} generated: "
            "take more images, report KID alone, or set allow_few=true to see the biased numbers."
        )


def score(
    real: Features,
    fake: Features,
    *,
    reference: str,
    pixels: str = "round",
    splits: int = 10,
    kid_subset: int | None = None,
    kid_subsets: int = 100,
    shuffle: bool = True,
    allow_few: bool = False,
) -> tuple[dict[str, float], Protocol]:
    """fid, kid, kid_std, is_mean, is_std of `fake`, under keys that name the extractor, and the protocol.

    UserError below 2,048 images on either side unless allow_few. kid_subset null: see `usual_subset`. shuffle: whether
    the splits of IS are of shuffled images (torch-fidelity) or of consecutive ones (its authors' code).
    """
    if (real.extractor, real.weights, real.input) != (fake.extractor, fake.weights, fake.input):
        raise ValueError(f"features of {real.extractor} {real.weights} beside {fake.extractor} {fake.weights}")
    require_enough(len(real), len(fake), allow_few=allow_few)
    subset = kid_subset or usual_subset(len(real), len(fake))
    values = {"fid": fid(real, fake)}
    values["kid"], values["kid_std"] = kernel_distance(real.features, fake.features, subset=subset, subsets=kid_subsets)
    values["is_mean"], values["is_std"] = inception_score(fake.logits, splits=splits, seed=SEED if shuffle else None)
    protocol = Protocol(
        extractor=fake.extractor,
        weights=fake.weights,
        input=fake.input,
        pixels=pixels,
        reference=reference,
        n_real=len(real),
        n_fake=len(fake),
        is_splits=splits,
        kid_subset=subset,
        kid_subsets=kid_subsets,
    )
    return {metric_key(k, fake.extractor): v for k, v in values.items()}, protocol


def fid(real: Features, fake: Features) -> float:
    """Frechet Inception distance of two sets of features of one extractor."""
    a, b = (FeatureStatistics(width=x.features.shape[1]).update(x.features) for x in (real, fake))
    return frechet_distance(a.mean, a.cov, b.mean, b.cov)


# ---- distributions


class FeatureStatistics:
    """Mean and covariance of a stream of features from float64 sums; two images are enough, also when N < F."""

    def __init__(self, *, width: int, device: str | torch.device = "cpu") -> None:
        self.n = 0
        self._sum = torch.zeros(width, dtype=torch.float64, device=device)
        self._outer = torch.zeros(width, width, dtype=torch.float64, device=device)

    def update(self, features: Tensor) -> Self:
        """features: any number of rows of width F."""
        for part in features.split(4096):  # bounds the float64 copy
            x = part.to(self._sum)
            self.n += len(x)
            self._sum += x.sum(0)
            self._outer.addmm_(x.T, x)
        return self

    @property
    def mean(self) -> Tensor:
        """F, float64."""
        return self._sum / self.n

    @property
    def cov(self) -> Tensor:
        """F,F float64, divided by N - 1 as NumPy and torch-fidelity do."""
        if self.n < 2:
            raise ValueError(f"a covariance needs two images, not {self.n}")
        return (self._outer - self.n * torch.outer(self.mean, self.mean)) / (self.n - 1)


def frechet_distance(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2) (Heusel et al. 2017, Eq. 6). mean: F, cov: F,F, float64.

    With C1 = R R^T the eigenvalues of C1 C2 are those of the symmetric R^T C2 R: real, never negative, and found in
    half the time that torch-fidelity's general solver takes. R is a Cholesky factor, or a root by eigenvectors where
    C1 is singular.
    """
    mean_1, cov_1, mean_2, cov_2 = (x.double() for x in (mean_1, cov_1, mean_2, cov_2))
    root, failed = torch.linalg.cholesky_ex(cov_1)
    if failed:
        values, vectors = torch.linalg.eigh(cov_1)
        root = vectors * values.clamp_min(0).sqrt()
    cross = torch.linalg.eigvalsh(root.T @ cov_2 @ root).clamp_min(0).sqrt().sum()
    distance = (mean_1 - mean_2).square().sum() + cov_1.trace() + cov_2.trace() - 2 * cross
    return max(0.0, distance.item())  # rounding leaves +-1e-6 where the sets are equal


def inception_score(logits: Tensor, *, splits: int = 10, seed: int | None = SEED) -> tuple[float, float]:
    """exp E KL(p(y|x) || p(y)) by split: mean and population std (Salimans et al. 2016).

    logits: N,K before softmax; logarithms of probabilities are logits too. seed: shuffles the images as torch-fidelity
    does, so that splits do not follow the order of classes; None keeps the order.
    """
    n = len(logits)
    if n < splits:
        raise UserError(f"an Inception Score over {splits} splits needs {splits} images at least, not {n}.")
    if seed is not None:
        logits = logits[torch.from_numpy(np.random.RandomState(seed).permutation(n)).to(logits.device)]
    log_p = logits.double().log_softmax(1)
    scores = []
    for i in range(splits):
        part = log_p[i * n // splits : (i + 1) * n // splits]
        p = part.exp()
        log_q = p.mean(0).clamp_min(torch.finfo(torch.float64).tiny).log()  # a class that nothing is: 0, not NaN
        scores.append((p * (part - log_q)).sum(1).mean().exp().item())
    return float(np.mean(scores)), float(np.std(scores))


def usual_subset(*counts: int) -> int:
    """Images in a KID subset: 1,000, 500 below 2,000 images, or half of what there is below 1,000, two at least."""
    n = min(counts)
    return next((size for size in (1000, 500) if n >= 2 * size), max(n // 2, 2))


def kernel_distance(
    real: Tensor, fake: Tensor, *, subset: int, subsets: int = 100, seed: int = SEED
) -> tuple[float, float]:
    """KID: unbiased MMD^2 with the kernel (x.y / F + 1)^3 over random subsets: mean and population std.

    real, fake: N,F, any two N >= subset >= 2 (else UserError). Binkowski et al. 2018, Sec. 4; the draws are
    torch-fidelity's. May be slightly negative when the two sets are alike.
    """
    if not 2 <= subset <= min(len(real), len(fake)):
        raise UserError(
            f"KID over subsets of {subset:,} images needs as many on either side (and 2 at least), here are "
            f"{len(real):,} real and {len(fake):,} generated: choose a smaller subset or take more images."
        )
    rng = np.random.RandomState(seed)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    distances = []
    for _ in range(subsets):  # torch-fidelity draws from its first input first, which is the generated one
        x, y = (f[torch.from_numpy(rng.choice(len(f), subset, replace=False))].double() for f in (fake, real))
        within = sum((k.sum() - k.trace()) / (subset * (subset - 1)) for k in (kernel(x, x), kernel(y, y)))
        distances.append((within - 2 * kernel(x, y).mean()).item())
    return float(np.mean(distances)), float(np.std(distances))


def r_precision(
    images: Tensor,
    texts: Tensor,
    labels: Sequence[int] | np.ndarray,
    pool: Tensor,
    pool_labels: Sequence[int] | np.ndarray,
    *,
    draws: int = 30_000,
    distractors: int = 99,
    folds: int = 10,
    seed: int = 0,
) -> tuple[float, float]:
    """Share of draws where an image is nearest to its own text among 99 of other classes: mean and std over folds.

    images, texts: N,D codes of the images and of the sentences they were made from, of the classes `labels`; used in
    turn until there are `draws`. pool: M,D codes to draw distractors from, of the classes `pool_labels`. Nearest by
    cosine; texts that tie for the first place share it, so a collapsed encoder scores by chance. AttnGAN, Sec. 4.
    """
    labels, pool_labels = np.asarray(labels), np.asarray(pool_labels)
    others = {label: np.flatnonzero(pool_labels != label) for label in np.unique(labels)}
    if (fewest := min(map(len, others.values()))) < distractors:
        raise UserError(
            f"R-precision ranks a sentence among {distractors} of other classes, here are {fewest}: take more images."
        )
    rng = np.random.default_rng(seed)
    images, texts, pool = (F.normalize(x.double(), dim=1) for x in (images, texts, pool))
    hits = []
    for start in range(0, draws, 250):  # 250 x 99 x D float64 at a time
        rows = np.arange(start, min(start + 250, draws)) % len(images)
        wrong = np.stack([rng.choice(others[label], distractors, replace=False) for label in labels[rows]])
        candidates = torch.cat([texts[rows, None], pool[torch.from_numpy(wrong)]], 1)
        cosines = torch.einsum("ncd,nd->nc", candidates, images[rows])
        first = cosines >= cosines.amax(1, keepdim=True) - 1e-9
        hits.append(first[:, 0] / first.sum(1))
    by_fold = np.array([fold.mean().item() for fold in torch.cat(hits).double().tensor_split(folds)])
    return float(by_fold.mean()), float(by_fold.std())


# ---- pairs of images: B,3,H,W each, uint8 or float in [0, 1]; one float64 value for each pair


def l1(x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean |x - y| over pixels in [0, 1] (half of what it is in [-1, 1]). weight: B,1,H,W. -> B."""
    return weighted_mean((unit(x) - unit(y)).abs(), weight)


def rmse(x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Root of the mean square difference over pixels in [0, 1]. weight: B,1,H,W. -> B."""
    return weighted_mean((unit(x) - unit(y)).square(), weight).sqrt()


def psnr(x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB, infinite for equal images. weight: B,1,H,W. -> B."""
    return -20 * rmse(x, y, weight).log10()


def ssim(
    x: Tensor,
    y: Tensor,
    *,
    window: Literal["gaussian", "uniform"] = "gaussian",
    data_range: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Structural similarity (Wang et al. 2004) by colour channel, averaged; scikit-image's two dialects. -> B.

    "gaussian": 11 taps, sigma 1.5, population covariance. "uniform": 7 x 7, sample covariance (49/48). Pixels whose
    window leaves the image are not counted, as in scikit-image and unlike torchmetrics. data_range: B in (0, 1], L of
    each pair as a share of 255 (None: 1). weight: B,1,H,W.
    """
    taps = torch.ones(7) if window == "uniform" else torch.exp(-torch.arange(-5, 6).double().square() / (2 * 1.5**2))
    x, y = unit(x), unit(y)
    rows, columns = (band(taps.to(x) / taps.sum(), side) for side in x.shape[-2:])
    smooth = rows.T @ torch.cat([x, y, x * x + y * y, x * y], 1) @ columns
    mean_x, mean_y, squares, product = smooth.chunk(4, 1)
    norm = 49 / 48 if window == "uniform" else 1.0
    span = torch.ones(1).to(x) if data_range is None else data_range.to(x)
    c1, c2 = ((k * span).square().view(-1, 1, 1, 1) for k in (0.01, 0.03))
    means = mean_x.square() + mean_y.square()
    covariance, variances = norm * (product - mean_x * mean_y), norm * (squares - means)
    values = (2 * mean_x * mean_y + c1) * (2 * covariance + c2) / ((means + c1) * (variances + c2))
    edge = len(taps) // 2
    return weighted_mean(values, None if weight is None else weight[..., edge:-edge, edge:-edge])


def unit(images: Tensor) -> Tensor:
    """uint8, or float in [0, 1], -> float64 in [0, 1]; ValueError on other ranges ([-1, 1] would pass unnoticed)."""
    if images.dtype == torch.uint8:
        return images.double() / 255
    low, high = torch.aminmax(images)
    if not (low >= 0 and high <= 1):
        raise ValueError(f"images must be uint8 or lie in [0, 1], these span [{low:.4g}, {high:.4g}]")
    return images.double()


def weighted_mean(values: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of B,C,H,W over all but B, each pixel counted by weight B,1,H,W (NaN where all weights are 0). -> B."""
    if weight is None:
        return values.mean((1, 2, 3))
    weight = weight.to(values)
    return (values * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) * values.shape[1])


def band(taps: Tensor, side: int) -> Tensor:
    """side, side - T + 1: the matrix that filters a row with T taps, without the border.

    A product with it takes a third of the time of a float64 convolution on the CPU.
    """
    matrix = taps.new_zeros(side, side - len(taps) + 1)
    for offset, tap in enumerate(taps):
        matrix.diagonal(-offset).fill_(tap)
    return matrix
