"""The job that denoises a data set's attributes: on drawn birds, whose truth is known, from pixels to report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from common.classifier import IMAGENET, build
from common.data.procedural.write_cub import write_birds
from common.tasks.job import Job, load_data
from finegan.checkpoints import load_features, told_of
from finegan.denoise import read_denoised
from finegan.encoders import Colours
from finegan.jobs import (
    by_certainty,
    compute,
    denoise_attributes,
    denoise_matrix,
    image_features,
    right,
    squashed,
)
from tests.worlds.layouts import refusal

CONF = Path(__file__).parents[2] / "conf"
SHOWN = ["has_wing_color::blue", "has_bill_shape::needle"]


def settings(root: Path, job: str = "attributes", **change: Any) -> dict[str, Any]:
    """The configuration of `prepare=<job> preset=toy` but for the data, as run.py hands it over."""
    shared = yaml.safe_load((CONF / "data/_images.yaml").read_text())
    own = yaml.safe_load((CONF / f"prepare/{job}.yaml").read_text())
    data = {"name": "cub", "reader": {"_target_": "common.data.readers.cub.CUB"}, **shared, **own["data"]}
    data |= {"image_size": 32, "workers": 1, "root": str(root), "store": str(root.parent / "stores")}
    toy = yaml.safe_load((CONF / "preset/toy/prepare/attributes.yaml").read_text())["prepare"]
    toy = toy if job == "attributes" else {}
    shown = {"shown": SHOWN} if job == "attributes" else {}
    prepare = own["prepare"] | toy | {"seed": 0, "hypotheses": 3, "top": 2, "pca": 32} | shown | change
    return {"data": data, "prepare": prepare, "seed": 0, "paths": {"artifacts": str(root.parent)}}


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("birds") / "drawn"
    write_birds(root, images=120, classes=12, side=40, seed=0, workers=0)
    return root


@pytest.fixture(scope="module")
def done(birds: Path) -> Path:
    """One denoising, its files side by side."""
    path = birds.parent / "out" / "denoised.npz"
    path.parent.mkdir()
    denoise_attributes(Job(settings(birds), path))
    return path


def test_wrong_labels_of_drawn_birds_are_removed(birds: Path, done: Path) -> None:
    denoised, data = read_denoised(done), load_data(settings(birds))
    with np.load(birds / "truth" / "attributes.npz") as file:
        true, labels = file["true"], file["labelled"]
    assert denoised.keys == data.records.keys
    assert denoised.names == data.records.attribute_names
    tried = ~denoised.skipped
    assert 20 < tried.sum() < 200
    assert np.array_equal(denoised.present[:, ~tried], labels[:, ~tried])
    train, kept = ~data.records.test[:, None] & tried, denoised.present > 0
    before, after = (true[chosen & train].mean() for chosen in (labels, kept))
    assert before < 0.82
    assert after > 0.87
    assert (kept & true & train).sum() > 0.6 * (labels & true & train).sum()
    assert denoised.params["train"] == (~data.records.test).sum()
    assert denoised.params["features"] == "colour histograms, no network"


def test_the_report_says_what_is_known(done: Path) -> None:
    denoised, text = read_denoised(done), done.with_suffix(".md").read_text()
    for words in (
        "PROCEDURAL data",
        "about 40 %",
        denoised.feature_hash,
        "no network",
        "is the threshold",
        "Known truth, before -> after; train: precision 0.8",
    ):
        assert words in text
    groups = [line for line in text.splitlines() if line.startswith("| ") and "precision" in line]
    assert len(groups) == 28
    assert f"Left as they are: {denoised.skipped.sum()} of 312" in text
    assert text.count("\n| definitely |") == 1


def test_sheets_show_the_same_images_with_a_cross_over_the_removed(birds: Path, done: Path) -> None:
    denoised, plain_sheet, crossed = (
        read_denoised(done),
        *(done.with_name(f"denoised_{n}.png") for n in ("fig4", "fig9")),
    )
    facts = json.loads(crossed.with_suffix(".json").read_text())
    assert facts["attributes"] == SHOWN
    assert facts["images"] == json.loads(plain_sheet.with_suffix(".json").read_text())["images"]
    with np.load(birds / "truth" / "attributes.npz") as file:
        labelled = file["labelled"]
    for name, keys, removed in zip(SHOWN, facts["images"], facts["removed"], strict=True):
        a, rows = denoised.names.index(name), [denoised.keys.index(key) for key in keys]
        assert 5 < len(set(keys)) == len(keys) <= 10
        assert labelled[rows, a].all()
        assert removed == denoised.removed[rows, a].tolist()
    reds = [(np.asarray(Image.open(path)) == (220, 0, 0)).all(2).sum() for path in (plain_sheet, crossed)]
    crosses = sum(map(sum, facts["removed"]))
    assert crosses > 0
    assert reds[0] == 0
    assert reds[1] > 500 * crosses


def test_features_are_computed_once(birds: Path, done: Path) -> None:
    (kept,) = done.parent.glob("features-cub-32-box-*-32-colours.npy")
    before, data = kept.stat().st_mtime_ns, load_data(settings(birds))
    assert np.array_equal(image_features(data, Colours(), done.parent), compute(data, Colours()))
    assert kept.stat().st_mtime_ns == before


def test_a_network_looks_at_the_squashed_crop(birds: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    export = {"format": 1, "kind": "classifier", "arch": "alexnet_tiny", "classes": ["a", "b"], "image_size": 64}
    export |= {**IMAGENET, "data": "cub", "accuracy": 0.5, "state_dict": build("alexnet_tiny", 2).state_dict()}
    torch.save(export, tmp_path / "net.pt")
    net, data = load_features(str(tmp_path / "net.pt")), load_data(settings(birds))
    features = image_features(data, net, tmp_path)
    assert features.shape == (120, 128)
    assert [path.name[-12:] for path in tmp_path.glob("features-*.npy")] == [f"{net.hash}.npy"]
    assert told_of(net) == f"alexnet_tiny trained on cub, weights {net.hash}"
    stored = Image.fromarray(data.store.image(7))
    assert stored.width != stored.height
    small = np.asarray(stored.resize((32, 32), Image.Resampling.BILINEAR)).astype(np.float32) / 127.5 - 1
    want = net.features(torch.from_numpy(small).permute(2, 0, 1)[None])[0]
    np.testing.assert_allclose(features[7], want[0].numpy(), rtol=1e-4, atol=1e-5)


def test_an_image_that_cannot_be_read_is_no_reason_to_stop(tmp_path: Path) -> None:
    root = tmp_path / "drawn"
    write_birds(root, images=60, classes=6, side=32, seed=1, workers=0)
    cfg = settings(root)
    records = load_data(cfg).records
    records.images[records.rows("train")[3]].write_bytes(b"")
    assert "cannot be read" in refusal(lambda: denoise_attributes(Job(cfg, tmp_path / "denoised.npz")))
    cfg["data"]["allow_missing"] = True
    denoise_attributes(Job(cfg, tmp_path / "denoised.npz"))
    denoised, data = read_denoised(tmp_path / "denoised.npz"), load_data(cfg)
    assert denoised.params["train"] == (~data.records.test & data.store.ok).sum() < (~data.records.test).sum()
    assert np.isfinite(denoised.score[:, ~denoised.skipped]).all()
    assert np.isnan(compute(data, Colours())[~data.store.ok]).all()


def test_what_cannot_be_shown_is_refused_before_the_work(birds: Path, tmp_path: Path) -> None:
    cfg = settings(birds, shown=["has_wing_colour::blue"])
    assert "did you mean has_wing_color::blue" in refusal(lambda: denoise_attributes(Job(cfg, tmp_path / "x.npz")))
    assert not list(tmp_path.iterdir())


def test_colours_by_hand() -> None:
    red = torch.tensor([1.0, -1, -1]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    features, _ = Colours().features(red)
    assert features.shape == (1, Colours.width)
    assert features.nonzero()[:, 1].tolist() == [5 * 36, 216 + 3 * 16, 216 + 64 + 3 * 16, 216 + 128 + 3 * 16]
    assert features.max() == 1
    split = red.clone()
    split[:, 0, 32:] = -1  # the lower half is black
    shares = Colours().features(split)[0].square()[0]
    assert shares[[0, 5 * 36]].tolist() == pytest.approx([0.5, 0.5])
    assert shares[216 + 48] == pytest.approx(1)  # the upper third is red
    assert torch.equal(Colours().features(split.flip(3))[0], Colours().features(split)[0])


def test_shares_by_hand() -> None:
    labels, truth = np.array([[1, 1, 1, 0]], bool), np.array([[1, 1, 0, 1]], bool)
    kept = np.array([[1, 0, 0, 0]], bool)
    assert right(labels, kept, truth) == "precision 0.667 -> 1.000, recall 0.667 -> 0.333"
    table = by_certainty(labels & ~kept, labels, np.array([[1, 2, 2, 2]]))
    assert table[2] == "| not visible | 1 | 100.0 % | 0.0 % |"
    assert table[3] == "| guessing | 3 | 66.7 % | 100.0 % |"
    assert table[4] == "| probably | 0 | none | none |"


def test_any_matrix_can_be_denoised(birds: Path, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (kept,) = done.parent.glob("features-*.npy")
    data, denoised = load_data(settings(birds)), read_denoised(done)
    assert data.records.attributes is not None
    np.save(tmp_path / "labels.npy", data.records.attributes[:, :12])
    np.save(tmp_path / "train.npy", ~data.records.test)
    files = {"features": str(kept), "labels": str(tmp_path / "labels.npy"), "train": str(tmp_path / "train.npy")}
    denoise_matrix(Job(settings(birds, "matrix", **files, rounds=2), tmp_path / "out.npz"))
    found = read_denoised(tmp_path / "out.npz")
    assert np.array_equal(found.present, denoised.present[:, :12])  # the same draws
    assert str(kept) in (tmp_path / "out.md").read_text()
    assert "Removed: " in capsys.readouterr().out
    for name in ("features", "labels"):
        cfg = settings(birds, "matrix", **files | {name: None})
        assert f"prepare.{name}=FILE.npy" in refusal(lambda cfg=cfg: denoise_matrix(Job(cfg, tmp_path / "x.npz")))
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    cfg = settings(birds, "matrix", **files | {"labels": str(tmp_path / "objects.npy")})
    assert "cannot be read as .npy" in refusal(lambda: denoise_matrix(Job(cfg, tmp_path / "x.npz")))


def test_a_squashed_image_keeps_nothing_of_its_aspect(birds: Path) -> None:
    data = load_data(settings(birds))
    assert squashed(data, 0).shape == (3, 32, 32)
    assert -1 <= squashed(data, 0).min() < squashed(data, 0).max() <= 1
