"""Attribute denoising (Sec. 3.1, 4.4): which labelled attributes does an image not have?

The paper says RANSAC, SVM and ResNet-101 features, and no more. Here hypotheses are linear SVMs of balanced random
subsets and their consensus is measured out of sample: in many dimensions a linear SVM separates any labelling of the
images that it saw. The best hypotheses vote, and SVMs of the inliers are fitted anew until the inliers stay the same.

N images, n training images, F feature width, D width after PCA, A attributes, T hypotheses.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from joblib import Parallel, delayed, parallel_config
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from common.errors import UserError, choose
from common.files import sha256, whole
from common.processes import end_with

FEWEST = 20  # positives, and negatives, below which an attribute keeps its labels
MOST_POSITIVE = 0.8  # share of positives above which it does: missed ones fill the negatives then
CONSENSUS = 0.9  # quantile of the negatives that a positive must beat
TRIMMED = 0.97  # quantile of the negatives above which one is likely a missed positive
STABLE = 0.005  # share of the positives that may change status in a last round
RULES = ("rank", "strict")
NEITHER = -1  # a label that is no negative, since nobody could see


@dataclass(frozen=True)
class Denoised:
    """The outcome, in the caller's order of rows. NaN in score, rho, threshold and weights where skipped."""

    present: np.ndarray  # N,A uint8: labels that survived (with add=True also added ones)
    score: np.ndarray  # N,A float32: distance from the SVM; of train images by models that have not seen them
    removed: np.ndarray  # N,A bool: labelled, but not present
    rho: np.ndarray  # A: estimated share of wrong ones among the labelled positives
    threshold: np.ndarray  # A: a labelled positive is kept from this score on
    rounds: np.ndarray  # A: re-estimations until the inliers were stable, or all that were allowed
    n_pos: np.ndarray  # A: labelled positives among the train images
    skipped: np.ndarray  # A bool: too few positives or negatives, or too many positives: labels left as they are
    weights: np.ndarray  # A,F: standardisation, PCA and the mean of the fold models as one linear map ...
    offset: np.ndarray  # A: ... and what it adds
    names: tuple[str, ...]  # A
    keys: tuple[str, ...]  # N
    params: dict[str, Any]
    feature_hash: str  # of the feature matrix in the order of ids: 8 hexadecimal digits

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Features M,F of any images -> M,A: the mean score of the five fold models (NaN for skipped attributes)."""
        return features @ self.weights.T + self.offset

    def write(self, path: str | Path) -> None:
        """One .npz without pickled objects, whole or not at all."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("params", "names", "keys"):
            arrays[name] = np.array(json.dumps(arrays[name]))
        with whole(path) as part, part.open("wb") as file:
            np.savez_compressed(file, **arrays)


def read_denoised(path: str | Path) -> Denoised:
    """What `write` wrote; UserError for anything else."""
    again = "make it anew with task=prepare prepare=attributes"
    if not Path(path).is_file():
        raise UserError(f"there are no denoised attributes at {path}: {again}, or correct the path.")
    try:
        with np.load(path, allow_pickle=False) as file:
            content: dict[str, Any] = {field.name: file[field.name] for field in fields(Denoised)}
        for name in ("params", "names", "keys"):
            content[name] = json.loads(str(content[name]))
    except Exception as error:  # a damaged zip fails in many ways
        raise UserError(f"{path} does not hold denoised attributes ({error}): {again}.") from None
    content |= {"names": tuple(content["names"]), "keys": tuple(content["keys"])}
    return Denoised(**content | {"feature_hash": str(content["feature_hash"])})


@dataclass(frozen=True)
class Settings:
    """How it is done, for each attribute; conf/prepare/attributes.yaml says where each comes from."""

    pca: int  # width of the features that the SVMs see
    add: bool  # also makes negatives positive that score above the median of the kept positives
    hypotheses: int  # SVMs of random subsets for each fold ...
    top: int  # ... and how many of them vote
    folds: int
    rounds: int  # re-estimations at most
    rule: str  # rank removes as many as are estimated to be wrong, strict all below the negatives' 0.9 quantile
    skip: bool  # see FEWEST, MOST_POSITIVE; without it attributes with less than two of a kind for each fold alone
    seed: int


@dataclass(frozen=True)
class Projection:
    """Standardisation, PCA and one scale: z = (x - mean) @ matrix, of average variance 1 over the train images."""

    mean: np.ndarray  # F
    matrix: np.ndarray  # F,D

    @classmethod
    def of(cls, train: np.ndarray, width: int) -> "Projection":
        """train: n,F. width: D, less where F or n - 1 is less."""
        mean, spread = train.mean(0), train.std(0)
        spread[spread == 0] = 1  # a feature that never fires
        scaled = (train - mean) / spread
        n, features = scaled.shape
        solver = "covariance_eigh" if n > features else "full"
        pca = PCA(min(width, features, n - 1), svd_solver=solver).fit(scaled)  # its mean is 0 already
        return cls(mean, pca.components_.T / spread[:, None] / pca.transform(scaled).std())

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """N,F -> N,D."""
        return np.ascontiguousarray((x - self.mean) @ self.matrix)


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    settings: Settings,
    *,
    train: np.ndarray | None = None,
    ids: np.ndarray | None = None,
    not_visible: np.ndarray | None = None,
    names: Sequence[str] = (),
    keys: Sequence[str] = (),
    jobs: int = -1,
    progress: Callable[[], object] | None = None,
) -> Denoised:
    """Denoises binary labels N,A by features N,F. Labels of other than train images never enter a fit.

    train: N bool, None = all. ids: N distinct numbers; the order of the rows plays no part, that of the ids does.
    not_visible: N,A bool, labels that are no negatives, since nobody could see. jobs: processes, -1 = one for each
    core; the result does not depend on it. progress: called after each attribute. Raises UserError for what does not
    go together.
    """
    features, labels = np.asarray(features, np.float64), np.asarray(labels)
    train = np.ones(len(labels), bool) if train is None else np.asarray(train, bool)
    ids = np.arange(len(labels)) if ids is None else np.asarray(ids)
    _check(features, labels, train, ids, settings)
    order = np.argsort(ids)
    x, present, seen = features[order], labels[order] != 0, train[order]
    y = present.astype(np.int8)
    if not_visible is not None:
        y[~present & not_visible[order]] = NEITHER
    project = Projection.of(x[seen], settings.pca)
    found = _denoise_each(project(x[seen]), y[seen], settings, jobs, progress)

    weights = np.array([one.weights for one in found]) @ project.matrix.T
    offset = np.array([one.offset for one in found]) - weights @ project.mean
    score = x @ weights.T + offset
    out_of_fold = np.array([one.score for one in found]).T
    score[seen] = np.where(np.isnan(out_of_fold), score[seen], out_of_fold)
    kept = _kept(score, present, found)
    if settings.add:
        kept |= (y == 0) & (score > _median_of(kept[seen], score[seen]))

    back = np.argsort(order)
    params = {"train": int(seen.sum())} | asdict(settings) | {"pca": project.matrix.shape[1]}
    return Denoised(
        present=kept[back].astype(np.uint8),
        score=score[back].astype(np.float32),
        removed=(present & ~kept)[back],
        **{name: np.array([getattr(one, name) for one in found]) for name in ("rho", "threshold", "rounds", "skipped")},
        n_pos=(y[seen] == 1).sum(0),
        weights=weights,
        offset=offset,
        names=tuple(names) or tuple(str(a) for a in range(1, y.shape[1] + 1)),
        keys=tuple(keys) or tuple(map(str, ids.tolist())),
        params=params | {"ignore_not_visible": not_visible is not None},
        feature_hash=sha256(np.ascontiguousarray(x, np.float32).tobytes())[:8],
    )


def _kept(score: np.ndarray, present: np.ndarray, found: Sequence["Found"]) -> np.ndarray:
    """N,A bool: the labels of attributes that were skipped, of others those from the threshold on."""
    skipped, threshold = (np.array([getattr(one, name) for one in found]) for name in ("skipped", "threshold"))
    return present & (skipped | (score >= threshold))


def _median_of(kept: np.ndarray, score: np.ndarray) -> np.ndarray:
    """A: the median score of the kept positives, NaN where there are none."""
    return np.array([np.median(s[k]) if k.any() else np.nan for s, k in zip(score.T, kept.T, strict=True)])


def plain(features: np.ndarray, labels: np.ndarray, settings: Settings) -> np.ndarray:
    """What the procedure is compared with: scores N,A of an SVM of all noisy labels of the other folds, for each fold.

    All rows are train images, in the order of their ids.
    """
    features = np.asarray(features, np.float64)
    z = Projection.of(features, settings.pca)(features)
    scores = []
    with limited():
        for a, y in enumerate(np.asarray(labels).T, 1):
            fold = deal(y, settings.folds, np.random.default_rng([settings.seed, a, 0]))
            scores.append(refit(z, y, fold, np.ones(len(y), bool))[0])
    return np.array(scores).T


def _check(features: np.ndarray, labels: np.ndarray, train: np.ndarray, ids: np.ndarray, asked: Settings) -> None:
    n = len(labels)
    if features.ndim != 2 or labels.ndim != 2 or {len(features), len(train), len(ids)} != {n}:
        raise UserError(
            f"features {features.shape}, labels {labels.shape}, train {train.shape} and ids {ids.shape} do not go "
            "together: give N,F features, N,A labels, and N of the others."
        )
    if not np.isfinite(features).all():
        row = int(np.argmin(np.isfinite(features).all(1)))
        raise UserError(f"the features of row {row} are not finite: compute them again.")
    if not np.isin(labels, (0, 1)).all():
        raise UserError("the labels hold something else than 0 and 1: give 1 for present and 0 for absent.")
    if len(np.unique(ids)) != n:
        raise UserError("two rows have the same id: ids fix the order of the rows, give each its own.")
    if train.sum() < 2 * asked.folds:
        raise UserError(f"{train.sum()} train images are too few for {asked.folds} folds: give more images.")
    choose("prepare.rule", asked.rule, RULES)
    for name, least in (("hypotheses", 1), ("top", 1), ("folds", 2), ("rounds", 1)):
        if getattr(asked, name) < least:
            raise UserError(f"{name}={getattr(asked, name)} is too small: set it to {least} or more.")


# ---- one attribute


@dataclass(frozen=True)
class Found:
    """What is known of one attribute. d = D + 1 numbers make a model."""

    score: np.ndarray  # n, out of fold; NaN where y is NEITHER
    weights: np.ndarray  # D, mean of the fold models, each divided by its norm
    offset: float
    rho: float
    threshold: float
    rounds: int
    skipped: bool = False


def _denoise_each(
    z: np.ndarray, y: np.ndarray, settings: Settings, jobs: int, progress: Callable[[], object] | None
) -> list[Found]:
    """One attribute after another, by `jobs` processes which share z."""
    columns = np.ascontiguousarray(y.T)
    work = (delayed(denoise_one)(z, column, a, settings) for a, column in enumerate(columns, 1))
    found = []
    with parallel_config("loky", inner_max_num_threads=1, initializer=end_with, initargs=(os.getpid(),)):
        for one in Parallel(n_jobs=min(jobs, len(columns)), return_as="generator")(work):
            found.append(one)
            if progress is not None:
                progress()
    return found


@contextmanager
def limited() -> Iterator[None]:
    """One thread for the small products in here, and a solver that checks nothing twice."""
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fit that is cut off at max_iter still ranks
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            yield


def denoise_one(z: np.ndarray, y: np.ndarray, attribute: int, asked: Settings) -> Found:
    """z: n,D, y: n in {1, 0, NEITHER}, both in the order of ids; attribute: its number, from 1, for the draws.

    Sec. 4.5 of the specification by its steps: 1 hypotheses, 2 noise estimate, 3 inliers, 4 re-estimation, 5 threshold.
    """
    positive, negative = y == 1, y == 0
    if _too_few(positive.sum(), negative.sum(), asked):
        nothing = np.full(z.shape[1], np.nan)
        return Found(np.full(len(y), np.nan), nothing, np.nan, np.nan, np.nan, 0, skipped=True)
    fold = deal(y, asked.folds, np.random.default_rng([asked.seed, attribute, 0]))
    with limited():
        score = vote(z, y, fold, attribute, asked)
        rho, inlier = judge(score, y)
        for done in range(1, asked.rounds + 1):  # noqa: B007
            before = inlier
            score, weights, offset = refit(z, y, fold, inlier)
            rho, inlier = judge(score, y)
            if (before != inlier)[positive].mean() < STABLE:
                break
    if asked.rule == "rank":
        threshold = np.quantile(score[positive], rho)
    else:
        threshold = np.nextafter(np.quantile(score[negative], CONSENSUS), np.inf)  # above it, not at it
    return Found(score, weights, offset, rho, threshold, done)


def _too_few(positives: int, negatives: int, asked: Settings) -> bool:
    fewest = FEWEST if asked.skip else 2 * asked.folds
    too_many = asked.skip and positives > MOST_POSITIVE * (positives + negatives)
    return min(positives, negatives) < fewest or bool(too_many)


def deal(y: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each image, from 1: positives and negatives permuted apart and dealt in turn; NEITHER has 0."""
    fold = np.zeros(len(y), np.int64)
    for kind in (1, 0):
        rows = rng.permutation(np.flatnonzero(y == kind))
        fold[rows] = np.arange(len(rows)) % folds + 1
    return fold


def svm() -> LinearSVC:
    """A linear SVM to which both answers weigh alike, however rare one is."""
    return LinearSVC(C=1e-2, class_weight="balanced", dual=True, tol=1e-3, max_iter=2000, random_state=0)


def vote(z: np.ndarray, y: np.ndarray, fold: np.ndarray, attribute: int, asked: Settings) -> np.ndarray:
    """Step 1: scores n, of each fold by the best hypotheses of the others (NaN where y is NEITHER)."""
    score = np.full(len(y), np.nan)
    for f in range(1, asked.folds + 1):
        rng = np.random.default_rng([asked.seed, attribute, f])
        positives, negatives = (np.flatnonzero((y == kind) & (fold != f)) for kind in (1, 0))
        m = min(int(np.clip(round(0.5 * len(positives)), 8, 256)), len(positives))
        few = min(len(negatives) // 2, 3 * m)
        models, left_out = [], []
        for _ in range(asked.hypotheses):
            sample = rng.choice(positives, m, replace=False), rng.choice(negatives, few, replace=False)
            model = svm().fit(z[np.concatenate(sample)], np.repeat([1, 0], [m, few]))
            models.append(np.append(model.coef_[0], model.intercept_[0]))
            left_out.append([np.setdiff1d(a, b) for a, b in zip((positives, negatives), sample, strict=True)])
        w = np.array(models)
        decision = z @ w[:, :-1].T + w[:, -1]  # n,T
        quantile = np.array([np.quantile(decision[out, t], CONSENSUS) for t, (_, out) in enumerate(left_out)])
        consensus = [(decision[out, t] > quantile[t]).sum() / max(1, len(out)) for t, (out, _) in enumerate(left_out)]
        best = np.argsort(-np.array(consensus), kind="stable")[: asked.top]  # of equal ones the earlier
        here = fold == f
        margins = (decision[here][:, best] - quantile[best]) / np.linalg.norm(w[best, :-1], axis=1)
        score[here] = margins.mean(1)
    return score


def judge(score: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Steps 2 and 3: the share of wrong positives, and which images the next models are fitted on (n bool).

    Wrong positives fall below the negatives' median half of the time, right ones hardly ever. Negatives on top are
    likely missed positives: left out, not relabelled.
    """
    positive, negative = y == 1, y == 0
    low = (score[positive] < np.median(score[negative])).mean()
    rho = float(min(0.9, low / 0.5))
    good = positive & (score >= np.quantile(score[positive], rho))
    return rho, good | (negative & (score <= np.quantile(score[negative], TRIMMED)))


def refit(z: np.ndarray, y: np.ndarray, fold: np.ndarray, inlier: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Step 4: scores n, of each fold by an SVM of the inliers of the others; the mean of these models: D, 1."""
    score, models = np.full(len(y), np.nan), []
    for f in range(1, fold.max() + 1):
        others = (fold != f) & (fold > 0)
        rows = others & inlier
        if not (y[rows] == 1).any():  # the few inliers all lie in this fold
            rows |= others & (y == 1)
        model = svm().fit(z[rows], y[rows])
        w = np.append(model.coef_[0], model.intercept_[0]) / np.linalg.norm(model.coef_)
        models.append(w)
        score[fold == f] = z[fold == f] @ w[:-1] + w[-1]
    mean = np.mean(models, 0)
    return score, mean[:-1], float(mean[-1])
