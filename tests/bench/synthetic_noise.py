"""Noise that was put there on purpose: how well does denoising find it, beside an SVM of all the labels?

Features that look like a network's (classes, directions, ReLU), labels of one attribute with a known share of wrong
positives. N images, F feature width, K classes.
"""

from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from sklearn.metrics import roc_auc_score

from finegan.denoise import Settings, fit, plain

DROPPED = 0.05  # share of the true positives that goes unlabelled


class SyntheticNoise(NamedTuple):
    features: np.ndarray  # N,F
    true: np.ndarray  # N bool
    labels: np.ndarray  # N bool


@dataclass(frozen=True)
class Outcome:
    """How one set of labels came out. NaN where nothing is wrong."""

    precision_before: float  # share of right ones among the labelled positives
    precision: float  # and among those that were kept
    kept: float  # share of the right ones that were kept
    auc: float  # of the scores, right against wrong ones among the labelled positives
    auc_plain: float  # the same of an SVM of all labels
    rho: float  # what was estimated


def denoising(**changes: Any) -> Settings:
    """Those of conf/prepare/attributes.yaml, with seed 0."""
    file = Path(__file__).parents[2] / "conf/prepare/attributes.yaml"
    told = yaml.safe_load(file.read_text(encoding="utf-8"))["prepare"] | {"seed": 0} | changes
    return Settings(**{field.name: told[field.name] for field in fields(Settings)})


def synthetic_noise(
    seed: int,
    *,
    wrong: float,
    confusable: bool = False,
    images: int = 3000,
    features: int = 256,
    classes: int = 60,
    latent: int = 30,
    positive: float = 0.12,
    apart: float = 3.0,
) -> SyntheticNoise:
    """Class centres mu ~ N(0, 1.5^2 I), attribute y by a rate of the class, z = mu + N(0, I) + apart * y * u.

    The features are relu(z A + 0.3 N(0, I)), A ~ N(0, 1/latent). wrong: share of wrong ones among the labelled
    positives, chosen evenly, or, confusable, with weight exp(0.7 t), t the standardised <z, u>. latent: width of z.
    positive: mean rate.
    """
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1.5, (classes, latent))
    rates = rng.beta(0.3, 0.3 * (1 - positive) / positive, classes)
    label = rng.integers(classes, size=images)
    true = rng.random(images) < rates[label]
    u = rng.normal(size=latent)
    u /= np.linalg.norm(u)
    z = centres[label] + rng.normal(size=(images, latent)) + apart * true[:, None] * u
    mixed = z @ rng.normal(0, latent**-0.5, (latent, features))
    x = np.maximum(mixed + 0.3 * rng.normal(size=mixed.shape), 0)

    labels = true.copy()
    right, free = np.flatnonzero(true), np.flatnonzero(~true)
    labels[rng.permutation(right)[: round(DROPPED * len(right))]] = False
    along = z[free] @ u
    weight = np.exp(0.7 * (along - along.mean()) / along.std()) if confusable else np.ones(len(free))
    more = round(labels.sum() * wrong / (1 - wrong))
    labels[rng.choice(free, more, replace=False, p=weight / weight.sum())] = True
    return SyntheticNoise(x, true, labels)


def measure(noisy: SyntheticNoise, *, hypotheses: int = 20, pca: int = 64) -> Outcome:
    """Denoises the labels and counts."""
    true, labels = noisy.true, noisy.labels
    asked = denoising(hypotheses=hypotheses, pca=pca)
    denoised = fit(noisy.features, labels[:, None], asked, jobs=1)
    kept, right = denoised.present[:, 0] > 0, true[labels]
    auc = auc_plain = float("nan")
    if not right.all():
        baseline = plain(noisy.features, labels[:, None], asked)
        auc, auc_plain = (float(roc_auc_score(right, score[labels, 0])) for score in (denoised.score, baseline))
    return Outcome(
        precision_before=float(right.mean()),
        precision=float(true[kept].mean()),
        kept=float(kept[labels & true].mean()),
        auc=auc,
        auc_plain=auc_plain,
        rho=float(denoised.rho[0]),
    )


def mean_of(seeds: int, *, wrong: float, confusable: bool = False, images: int = 3000) -> Outcome:
    """Means over seeds 0, 1, ..."""
    each = [measure(synthetic_noise(seed, wrong=wrong, confusable=confusable, images=images)) for seed in range(seeds)]
    return Outcome(*np.mean([astuple(one) for one in each], 0).tolist())
