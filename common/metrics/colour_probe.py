"""Which colours sentence vectors tell: what a linear map reads from them of sentences that it was not fitted on."""

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from common.metrics.colour_match import named_colours

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
            with threadpool_limits(
                1
            ):  # so small a product, on several threads of a busy machine, takes 30 times as long
                fit = LogisticRegression(max_iter=ITERATIONS).fit(fitted[rows], [told[k][part] for k in rows])
            found[f"probe_{part}"] = float(fit.score(scored[targets], [asked[k][part] for k in targets]))
    return found
