"""Speed of FID, KID and IS against torch-fidelity on the same images and weights."""

from pathlib import Path

import numpy as np
import torch

from common.metrics.extractors import InceptionExtractor, extract
from common.metrics.functions import score
from tests.bench.timing import Row, alternate
from tests.peers.fidelity import noise, reference, write_inception


def metrics(folder: Path, *, device: torch.device, quick: bool) -> list[Row]:
    """FID, KID and IS of n images of 256 px against n others, from reading the weights to the numbers. The weights are
    random, in the layout of the Inception of 2015-12-05, and the same for both. The last row is the largest relative
    difference between the numbers of the two.
    """
    n, side, rounds = (10_000, 256, 1) if device.type == "cuda" else (64, 256, 2)
    if quick:
        n, side, rounds = 6, 64, 1
    weights = write_inception(folder / "inception.pth")
    ours, theirs, seconds, seconds_other = compare(weights, n, side, rounds, device)
    apart = float(np.max([abs(ours[name] / value - 1) for name, value in theirs.items()]))  # NaN stays NaN
    return [
        Row(f"FID, KID and IS of {n:,} images", n / seconds, n / seconds_other, times=1.5),
        Row("relative difference of the numbers", apart, unit="", at_most=1e-3),
    ]


def compare(
    weights: Path, n: int, side: int, rounds: int, device: torch.device
) -> tuple[dict[str, float], dict[str, float], float, float]:
    """-> our numbers and torch-fidelity's, by the same names; the median seconds of ours and of theirs."""
    real, fake = (
        noise(n, side, 1, block=side // 4),
        noise(n, side, 2, low=128, block=side // 4),
    )  # like those of the weights
    options = {"splits": 2 if n < 1000 else 10, "subset": min(1000, n // 2)}
    ours: dict[str, float] = {}
    theirs: dict[str, float] = {}

    def by_us() -> None:
        extractor = InceptionExtractor(weights).to(device)
        seen, made = (extract(extractor, images.split(64)) for images in (real, fake))
        numbers, _ = score(
            seen, made, reference="noise", splits=options["splits"], kid_subset=options["subset"], allow_few=True
        )
        ours.update({name.split("@")[0]: value for name, value in numbers.items()})

    def by_torch_fidelity() -> None:
        theirs.update(reference(real, fake, weights, **options, subsets=100, cuda=device.type == "cuda"))

    seconds = alternate(by_us, by_torch_fidelity, rounds=rounds, device=device)
    return ours, theirs, *seconds
