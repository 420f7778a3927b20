"""Denoising of synthetic noise: how much of it is found, how fast, and what a second process brings."""

from pathlib import Path

import numpy as np
import torch

from finegan.denoise import fit
from tests.bench.synthetic_noise import denoising, mean_of, synthetic_noise
from tests.bench.timing import Row, alternate, now

# name, what noise, the least precision and share kept
CASES = (
    ("nothing", {"wrong": 0.0}, None, 0.94),
    ("20 % random", {"wrong": 0.2}, None, None),
    ("40 % random", {"wrong": 0.4}, 0.87, 0.80),
    ("40 % confusable", {"wrong": 0.4, "confusable": True}, 0.69, None),
)


def denoise(folder: Path, *, device: torch.device, quick: bool) -> list[Row]:
    """Attribute denoising (docs/finegan.md) of labels with synthetic wrong positives: 3,000 images, 256 features, PCA
    64, 20 hypotheses, means over seeds 0, 1, 2. Precision stands beside that of the labels as they were given, the
    ROC-AUC of the scores (right against wrong positives) beside that of an SVM of all labels. In the last row the other
    way is one process.
    """
    seeds, images, attributes = (1, 800, 4) if quick else (3, 3000, 16)
    rows = []
    began = now(device)
    for name, noise, precision, kept in CASES:
        found = mean_of(seeds, images=images, **noise)  # type: ignore[arg-type]
        rows.append(Row(f"{name}: precision", found.precision, found.precision_before, "", at_least=precision))
        rows.append(Row(f"{name}: right ones kept", found.kept, unit="", at_least=kept))
        if noise["wrong"]:
            least = 0.91 if name == "40 % random" else None
            rows.append(Row(f"{name}: AUC", found.auc, found.auc_plain, "", at_least=least))
            rows.append(Row(f"{name}: estimated share of wrong ones", found.rho, unit=""))
    seconds = (now(device) - began) / (seeds * len(CASES))
    rows.append(Row("an attribute, with the SVM of all labels", seconds, unit="s"))

    features = synthetic_noise(0, wrong=0.2, images=800).features
    labels = np.array([synthetic_noise(0, wrong=0.02 * k, images=800).labels for k in range(attributes)]).T
    asked = denoising(hypotheses=20, pca=64)
    fit(features, labels, asked, jobs=2)  # the processes are up
    both, one = alternate(
        lambda: fit(features, labels, asked, jobs=2),
        lambda: fit(features, labels, asked, jobs=1),
        rounds=1 if quick else 3,
        device=device,
    )
    return [*rows, Row("2 processes, 800 images", attributes / both, attributes / one, "attributes/s")]
