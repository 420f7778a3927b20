"""Attribute denoising: synthetic noise is found, and nothing but ids, train labels and seed decides what comes out."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import finegan.denoise
from finegan.denoise import NEITHER, Denoised, Settings, deal, denoise_one, judge, plain, read_denoised, refit, vote
from tests.bench.synthetic_noise import denoising, mean_of, synthetic_noise
from tests.worlds.layouts import refusal

SMALL = {"hypotheses": 6, "top": 3, "rounds": 2, "pca": 16}
ASKED = denoising(**SMALL)
EXACT = ("present", "score", "removed", "rho", "threshold", "rounds", "n_pos", "skipped", "weights", "offset")


def fit(features: np.ndarray, labels: np.ndarray, **more: Any) -> Denoised:
    """more: settings, and arguments of `denoise.fit`."""
    asked = {field.name: more.pop(field.name) for field in fields(Settings) if field.name in more}
    return finegan.denoise.fit(features, labels, denoising(**asked), **more)


@pytest.fixture(scope="module")
def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features 240,40, labels 240,3 with 30 % planted, train 240 (180 of them)."""
    noisy = synthetic_noise(3, wrong=0.3, images=240, features=40, classes=20, latent=8, positive=0.4)
    flipped = np.random.default_rng(0).random((240, 2)) < 0.1
    labels = np.column_stack([noisy.labels, noisy.labels[:, None] ^ flipped])
    return noisy.features, labels.astype(np.uint8), np.arange(240) % 4 > 0


# ---- synthetic noise: what the procedure is for (means over seeds 0, 1, 2)


def test_without_noise_little_is_removed() -> None:
    assert mean_of(3, wrong=0.0).kept >= 0.94


def test_random_noise_is_found() -> None:
    found = mean_of(3, wrong=0.4)
    assert found.precision_before == pytest.approx(0.6, abs=0.002)
    assert found.precision >= 0.87
    assert found.kept >= 0.80
    assert found.auc >= 0.91
    assert found.auc > found.auc_plain
    assert abs(found.rho - 0.4) <= 0.09


def test_little_random_noise_is_found() -> None:
    found = mean_of(3, wrong=0.2)
    assert found.precision_before == pytest.approx(0.8, abs=0.002)
    assert found.precision >= 0.92
    assert found.kept >= 0.86
    assert abs(found.rho - 0.2) <= 0.09


def test_look_alikes_are_found_in_part() -> None:
    found = mean_of(3, wrong=0.4, confusable=True)
    assert found.precision >= 0.69
    assert found.kept >= 0.86
    assert found.rho < 0.4  # underestimated


# ---- what plays a part, and what does not


def same(a: object, b: object, rows: np.ndarray | slice = slice(None)) -> None:
    for name in EXACT:
        x, y = getattr(a, name), getattr(b, name)
        assert np.array_equal(x if name not in EXACT[:3] else x[rows], y, equal_nan=x.dtype.kind == "f"), name


def test_processes_play_no_part(problem: tuple) -> None:
    features, labels, train = problem
    told: list[int] = []
    one = fit(features, labels, train=train, jobs=1, **SMALL)
    two = fit(features, labels, train=train, jobs=2, progress=lambda: told.append(1), **SMALL)
    same(one, two)
    assert len(told) == 3


def test_the_order_of_the_rows_plays_no_part(problem: tuple) -> None:
    features, labels, train = problem
    order = np.random.default_rng(1).permutation(len(labels))
    first = fit(features, labels, train=train, jobs=1, **SMALL)
    mixed = fit(features[order], labels[order], train=train[order], ids=order, jobs=1, **SMALL)
    same(first, mixed, order)
    assert mixed.feature_hash == first.feature_hash
    assert mixed.keys == tuple(map(str, order))
    other = fit(features[order], labels[order], train=train[order], jobs=1, **SMALL)  # without ids: other draws
    assert not np.array_equal(other.score, mixed.score)


def test_labels_of_test_images_play_no_part(problem: tuple) -> None:
    features, labels, train = problem
    shuffled = labels.copy()
    shuffled[~train] = 1 - labels[~train]
    first, second = (fit(features, given, train=train, jobs=1, **SMALL) for given in (labels, shuffled))
    for name in ("score", "rho", "threshold", "n_pos", "weights"):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
    assert np.array_equal(first.present[train], second.present[train])
    kept = first.score[~train] >= first.threshold.astype(np.float32)
    assert np.array_equal(second.present[~train], kept & (shuffled[~train] > 0))
    unseen = features.copy()
    unseen[~train] *= 3
    assert np.array_equal(fit(unseen, labels, train=train, jobs=1, **SMALL).score[train], first.score[train])


def test_the_seed_and_the_number_of_the_attribute_decide_the_draws(problem: tuple) -> None:
    features, labels, _ = problem
    twins = fit(features, labels[:, [0, 0]], jobs=1, **SMALL)
    assert not np.array_equal(twins.score[:, 0], twins.score[:, 1])
    again = fit(features, labels[:, [0, 1]], jobs=1, **SMALL)
    assert np.array_equal(twins.score[:, 0], again.score[:, 0])
    assert not np.array_equal(again.score, fit(features, labels[:, [0, 1]], jobs=1, seed=1, **SMALL).score)


def test_no_image_is_judged_by_a_model_that_saw_its_label(problem: tuple) -> None:
    features, labels, _ = problem
    z, y = features - features.mean(0), labels[:, 0].astype(np.int8)
    fold = deal(y, 5, np.random.default_rng(0))
    here = fold == 2
    other = np.where(here, 1 - y, y)
    assert np.array_equal(vote(z, y, fold, 1, ASKED)[here], vote(z, other, fold, 1, ASKED)[here])
    everyone = np.ones(len(y), bool)
    assert np.array_equal(refit(z, y, fold, everyone)[0][here], refit(z, other, fold, everyone)[0][here])
    assert not np.array_equal(refit(z, y, fold, everyone)[0][~here], refit(z, other, fold, everyone)[0][~here])


def test_labels_that_nobody_could_see_are_no_negatives(problem: tuple) -> None:
    """They leave the others' scores as if their images were not there, and get one themselves."""
    features, labels, _ = problem
    z, y = features - features.mean(0), labels[:, 0].astype(np.int8)
    hidden = (y == 0) & (np.random.default_rng(0).random(len(y)) < 0.3)
    with_them = denoise_one(z, np.where(hidden, NEITHER, y), 1, ASKED)
    without = denoise_one(z[~hidden], y[~hidden], 1, ASKED)
    assert np.array_equal(with_them.score[~hidden], without.score)
    assert with_them.rho == without.rho
    denoised = fit(features, labels[:, :1], not_visible=hidden[:, None], add=True, jobs=1, **SMALL)
    assert np.isfinite(denoised.score).all()
    assert not denoised.present[hidden].any()
    assert denoised.params["ignore_not_visible"]


# ---- the steps


def test_noise_estimate_and_inliers_by_hand() -> None:
    negatives, positives = np.arange(100.0), np.array([10.0, 20, 30, 60, 70, 80, 90, 100, 110, 120])
    score, y = np.concatenate([negatives, positives]), np.repeat([0, 1], [100, 10])
    rho, inlier = judge(score, y)
    assert rho == pytest.approx(0.6)  # 3 of 10 lie below 49.5, which half of the wrong ones do
    assert inlier[100:].tolist() == [False] * 6 + [True] * 4  # the 0.6 quantile is 84
    assert inlier[:100].sum() == 97
    assert judge(np.concatenate([negatives, positives - 200]), y)[0] == 0.9  # the most


def test_folds_hold_both_kinds_evenly() -> None:
    y = np.array([1] * 13 + [0] * 27 + [NEITHER] * 4)
    fold = deal(y, 5, np.random.default_rng(0))
    assert np.bincount(fold[:13], minlength=6).tolist() == [0, 3, 3, 3, 2, 2]
    assert np.bincount(fold[13:40], minlength=6).tolist() == [0, 6, 6, 5, 5, 5]
    assert (fold[40:] == 0).all()


def test_the_rank_rule_removes_the_estimated_share_and_strict_what_negatives_beat(problem: tuple) -> None:
    features, labels, _ = problem
    rank, strict = (fit(features, labels, rule=rule, jobs=1, **SMALL) for rule in ("rank", "strict"))
    for a in range(3):
        positive = labels[:, a] > 0
        assert rank.removed[:, a].sum() == pytest.approx(rank.rho[a] * positive.sum(), abs=1)
        level = np.quantile(strict.score[~positive, a], 0.9)
        above = strict.score[:, a] > level
        assert np.array_equal(strict.present[:, a] > 0, above & positive)


def test_nothing_is_added_unless_asked(problem: tuple) -> None:
    features, labels, _ = problem
    kept, added = (fit(features, labels, add=add, jobs=1, **SMALL) for add in (False, True))
    assert not (kept.present > labels).any()
    more = added.present > labels
    assert more.any()
    for a in range(3):
        median = np.median(kept.score[kept.present[:, a] > 0, a])
        assert np.array_equal(more[:, a], (labels[:, a] == 0) & (kept.score[:, a] > median))
    assert np.array_equal(added.removed, kept.removed)


def test_attributes_that_cannot_be_judged_keep_their_labels(problem: tuple) -> None:
    features, _, _ = problem
    common = (np.arange(240) % 10 > 0).astype(np.uint8)  # 90 % positive
    rare, never = (np.arange(240) % 14 == 0).astype(np.uint8), np.zeros(240, np.uint8)
    labels = np.column_stack([common, rare, never, 1 - never])
    denoised = fit(features, labels, jobs=1, **SMALL)
    assert denoised.skipped.all()
    assert np.array_equal(denoised.present, labels)
    assert np.isnan(denoised.rho).all()
    tried = fit(features, labels, skip=False, jobs=1, **SMALL)
    assert tried.skipped.tolist() == [False, False, True, True]  # these two have but one kind
    assert np.isfinite(tried.score[:, :2]).all()
    assert np.array_equal(tried.present[:, 2:], labels[:, 2:])


def test_more_features_than_images_and_dead_ones(problem: tuple) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(60, 100)), np.zeros((60, 3))], 1)
    labels = (x[:, :1] + x[:, 1:2] > 0).astype(np.uint8)
    denoised = fit(x, labels, jobs=1, hypotheses=4, top=2, rounds=1)
    assert denoised.params["pca"] == 59
    assert np.isfinite(denoised.score).all()


def test_the_baseline_is_out_of_fold_too() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 100)), (rng.random((300, 1)) < 0.4).astype(np.uint8)
    score = plain(x, y, denoising(pca=100))[:, 0]
    gap = score[y[:, 0] > 0].mean() - score[y[:, 0] == 0].mean()
    assert abs(gap) < 0.35 * score.std()  # labels without any meaning: a fit of its own labels would find them all


# ---- files


def test_the_file_serves_new_images(problem: tuple, tmp_path: Path) -> None:
    features, labels, train = problem
    rare = np.zeros((240, 1), np.uint8)
    options = {"names": ("has_wing::a", "has_wing::b", "c", "rare"), "keys": [f"k/{i}" for i in range(240)]}
    denoised = fit(features, np.column_stack([labels, rare]), train=train, jobs=1, **options, **SMALL)
    denoised.write(tmp_path / "denoised.npz")
    found = read_denoised(tmp_path / "denoised.npz")
    same(denoised, found)
    assert (found.names, found.keys, found.params) == (denoised.names, denoised.keys, denoised.params)
    assert found.feature_hash == denoised.feature_hash
    assert [path.name for path in tmp_path.iterdir()] == ["denoised.npz"]
    np.testing.assert_allclose(found.scores(features[~train])[:, :3], denoised.score[~train][:, :3], rtol=1e-4)
    assert np.isnan(found.scores(features[:2])[:, 3]).all()
    apart = found.scores(features[train])[:, :3] - denoised.score[train][:, :3]  # the mean of five saw their labels
    assert np.abs(apart).max() > 1e-3


def test_other_files_are_refused(tmp_path: Path) -> None:
    assert "prepare=attributes" in refusal(lambda: read_denoised(tmp_path / "none.npz"))
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", present=np.zeros(3))
    np.savez(tmp_path / "pickled.npz", present=np.array([{}], object))
    for name in ("text", "other", "pickled"):
        assert "does not hold denoised attributes" in refusal(lambda name=name: read_denoised(tmp_path / f"{name}.npz"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"features": np.full((240, 4), np.nan)}, "row 0 are not finite"),
        ({"features": np.zeros((100, 4))}, "do not go together"),
        ({"labels": np.full((240, 1), 2)}, "else than 0 and 1"),
        ({"ids": np.zeros(240)}, "same id"),
        ({"train": np.arange(240) < 6}, "6 train images are too few"),
        ({"rule": "ranks"}, "There are rank, strict"),
        ({"rounds": 0}, "rounds=0"),
    ],
)
def test_what_does_not_go_together_is_refused(problem: tuple, change: dict, said: str) -> None:
    features, labels, _ = problem
    assert said in refusal(lambda: fit(**{"features": features, "labels": labels, "jobs": 1} | change))
