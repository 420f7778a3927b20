"""Which colours sentence vectors tell: what a linear map reads from them of sentences that it was not fitted on."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from common.metrics.colour_match import named_colours

log = logging.getLogger(__name__)

MOST = 6000  # sentences that a probe is fitted on: all would take longer than an encoder's training
ITERATIONS = 300


def colour_probe(known: np.ndarray, heard: Sequence[str], new: np.ndarray, unheard: Sequence[str]) -> dict[str, float]:
    """probe_<part>: share of the unheard sentences naming a colour for the part whose vector tells it, for each part.

    A logistic regression from the vectors known N,D of the N sentences heard, scored on new M,D of the M unheard ones.
    A generator can hardly read what a linear map cannot. Parts that too few sentences name are left out.
    """
    kept = np.random.default_rng(0).permutation(len(known))[:MOST]
    scale = StandardScaler().fit(known[kept])
    fitted, scored = scale.transform(known[kept]), scale.transform(new)
    told, asked = [named_colours(heard[k]) for k in kept], [named_colours(sentence) for sentence in unheard]
    found = {}
    for part in sorted({part for colours in asked for part in colours}):
        rows, targets = ([k for k, colours in enumerate(all_) if part in colours] for all_ in (told, asked))
        if len({told[k][part] for k in rows}) > 1:
            with threadpool_limits(1):  # on several threads of a busy machine so small a product takes 30 times as long
                fit = LogisticRegression(max_iter=ITERATIONS).fit(fitted[rows], [told[k][part] for k in rows])
            found[f"probe_{part}"] = float(fit.score(scored[targets], [asked[k][part] for k in targets]))
    return found


def tell_probes(measured: Mapping[str, float], vectors: str) -> None:
    """One line of what `colour_probe` found, where it was measured."""
    probes = {name.removeprefix("probe_"): value for name, value in measured.items() if name.startswith("probe_")}
    if probes:
        told = ", ".join(f"{part} {100 * value:.0f} %" for part, value in probes.items())
        log.info("of the colours named in unseen sentences a linear probe reads from %s: %s", vectors, told)
