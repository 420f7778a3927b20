"""The DAMSM encoders: Inception under AttnGAN's names, a fit on coloured squares, resume, and what a GAN is given."""

import copy
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from common.classifier import IMAGENET, ImageClassifier
from common.data.module import ImageData
from common.tasks.callbacks import SeedEachBatch
from common.tasks.describe import networks
from finegan.checkpoints import load_encoders, load_trunk
from finegan.conditions import Conditions, denoised_hash
from finegan.damsm import DAMSM
from finegan.denoise import Denoised
from finegan.encoders import ImageEncoder
from tests.worlds.layouts import refusal
from tests.worlds.settings import QUIET, settings
from tests.worlds.squares import COLOURS, GROUNDS, SIZES, squares

SMALL: dict[str, Any] = {"trunk": "conv", "word_dim": 16, "code_dim": 32}
NAMES = tuple(
    f"has_{group}::{value}"
    for group, values in (("size", SIZES), ("color", COLOURS), ("ground", GROUNDS))
    for value in values
)


def data(root: Path, per_class: int = 8, **changes: Any) -> ImageData:
    """Squares with the attributes that they have: two sizes, five colours, two grounds; 64 to train on."""
    labels, grounds = np.repeat(np.arange(10), per_class), np.arange(10 * per_class) % 2
    attributes = np.concatenate([np.eye(2)[labels // 5], np.eye(5)[labels % 5], np.eye(2)[grounds]], 1)
    fields: dict[str, Any] = {"attributes": attributes.astype(np.uint8), "attribute_names": NAMES}
    return squares(root, per_class=per_class, **fields | changes)


def fit(root: Path, epochs: int = 1, *, options: dict[str, Any] | None = None, **more: Any) -> tuple[DAMSM, Trainer]:
    """more: of the trainer (callbacks, ckpt_path) and of the data."""
    seed_everything(0)
    checkpoint, callbacks = more.pop("ckpt_path", None), [SeedEachBatch(0), *more.pop("callbacks", ())]
    model = DAMSM(**settings("damsm", **{"inputs": "raw", "tokens": None} | SMALL | (options or {})))
    trainer = Trainer(max_epochs=epochs, default_root_dir=root, callbacks=callbacks, **QUIET)
    trainer.fit(model, datamodule=data(root, **more), ckpt_path=checkpoint, weights_only=True)
    return model, trainer


# ---- the image encoder


def test_published_sizes_and_names() -> None:
    """Check 2: counts of parameters and tensors; regions of 17 x 17."""
    with torch.device("meta"):
        net = ImageEncoder(trunk="inception_v3", code_dim=256, image_size=299, bn_train=True)
        regions, code = net(torch.empty(2, 3, 256, 256))
    assert (regions.shape, code.shape) == ((2, 256, 17, 17), (2, 256))
    assert sum(p.numel() for p in net.parameters()) == 22_506_720
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 721_152
    keys = list(net.state_dict())
    assert (len(keys), len([key for key in keys if "num_batches" not in key])) == (567, 473)
    assert {"Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch_pool.bn.running_var", "emb_features.weight"} < set(keys)
    assert [key for key in keys if key.startswith("emb_")] == [
        "emb_features.weight",
        "emb_cnn_code.weight",
        "emb_cnn_code.bias",
    ]
    assert not [key for key in keys if key.startswith(("fc", "AuxLogits"))]


def test_the_small_trunk_learns_and_keeps_the_size() -> None:
    net = ImageEncoder(trunk="conv", code_dim=24, image_size=299, bn_train=True)
    regions, code = net(torch.zeros(2, 3, 64, 64))
    assert (regions.shape, code.shape) == ((2, 24, 8, 8), (2, 24))
    assert all(p.requires_grad for p in net.parameters())
    assert "There are inception_v3, conv" in refusal(
        lambda: ImageEncoder(trunk="vgg", code_dim=8, image_size=64, bn_train=True)
    )


def body(net: nn.Module) -> nn.Sequential:
    return nn.Sequential(*(layer for name, layer in net.named_children() if name not in ("AuxLogits", "fc")))


@pytest.fixture(scope="module")
def inception() -> nn.Module:
    """A random Inception whose batch statistics are of noise: with those it is born with, all images look alike."""
    torch.manual_seed(0)
    net = torchvision.models.inception_v3(weights=None, init_weights=False)
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        body(net)(torch.rand(8, 3, 75, 75) * 2 - 1)
    for norm in norms:
        norm.momentum = 0.1
    return net.eval()


@pytest.fixture(scope="module")
def weights(inception: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as torchvision's."""
    path = tmp_path_factory.mktemp("weights") / "inception_v3.pth"
    torch.save(inception.state_dict(), path)
    return path


def pooled(encoder: ImageEncoder, images: Tensor) -> Tensor:
    """The 2048 features before the head of an encoder with code_dim=2048."""
    with torch.no_grad():
        encoder.emb_cnn_code.weight.copy_(torch.eye(2048))
        encoder.emb_cnn_code.bias.zero_()
        return encoder.eval()(images)[1]


def classifier(state: dict[str, Tensor]) -> dict[str, Any]:
    facts = {"format": 1, "kind": "classifier", "arch": "inception_v3", "classes": [str(i) for i in range(1000)]}
    return facts | {"image_size": 75, **IMAGENET, "accuracy": None, "data": "x", "state_dict": state}


@pytest.mark.usefixtures("float64")
def test_inception_sees_minus_one_to_one_whatever_its_weights_saw(
    inception: nn.Module, weights: Path, tmp_path: Path
) -> None:
    images = torch.rand(2, 3, 75, 75) * 2 - 1
    net = copy.deepcopy(inception).double()
    state = {k: v for k, v in net.state_dict().items() if not k.startswith("AuxLogits")}
    encoder = ImageEncoder(trunk="inception_v3", code_dim=2048, image_size=75, bn_train=True)
    load_trunk(encoder, weights)
    with torch.no_grad():
        expected = body(net)(images).flatten(1)
    assert (expected[0] - expected[1]).abs().max() > 0.1
    torch.testing.assert_close(pooled(encoder, images), expected, atol=1e-10, rtol=1e-10)
    torch.save(classifier(state), tmp_path / "classifier.pt")
    load_trunk(encoder, tmp_path / "classifier.pt")
    with torch.no_grad():
        served, _ = ImageClassifier(classifier(state), "0").double().features(images)
    assert (served - expected).abs().max() > 0.1
    torch.testing.assert_close(pooled(encoder, images), served, atol=1e-10, rtol=1e-10)
    torch.save(classifier(state) | {"arch": "vgg16"}, tmp_path / "vgg.pt")
    assert "holds vgg16, not the inception_v3" in refusal(lambda: load_trunk(encoder, tmp_path / "vgg.pt"))


@pytest.mark.usefixtures("float64")
def test_images_are_resized_for_inception(weights: Path) -> None:
    images = torch.rand(1, 3, 50, 60) * 2 - 1
    net = ImageEncoder(trunk="inception_v3", code_dim=2048, image_size=75, bn_train=True)
    load_trunk(net, weights)
    found = []
    for net.legacy in (False, True):
        resized = F.interpolate(images, (75, 75), mode="bilinear", align_corners=net.legacy)
        found.append(pooled(net, images))
        torch.testing.assert_close(found[-1], pooled(net, resized), atol=1e-10, rtol=1e-10)
    assert (found[0] - found[1]).abs().max() > 0.1


@pytest.mark.parametrize("bn_train", [True, False])
def test_a_step_moves_heads_and_statistics_and_no_other_part_of_inception(
    bn_train: bool, weights: Path, tmp_path: Path
) -> None:
    options = {"trunk": "inception_v3", "trunk_weights": str(weights), "image_size": 75, "bn_train": bn_train}
    state = torch.load(weights, weights_only=True)
    model, _ = fit(tmp_path, options=options, batch_size=8, per_class=1)
    now = model.image.state_dict()
    assert all(torch.equal(now[name], state[name]) for name, _ in model.image.named_parameters() if "emb_" not in name)
    moved = {name for name in now if "running" in name and not torch.equal(now[name], state[name])}
    assert len(moved) == (188 if bn_train else 0)  # mean and variance of 94 layers
    seed_everything(0)
    fresh = DAMSM(**settings("damsm", **{"inputs": "raw", "tokens": None} | SMALL | options))
    fresh.build(len(NAMES) + 1)
    for name in ("emb_features.weight", "emb_cnn_code.weight"):
        assert not torch.equal(now[name], fresh.image.state_dict()[name])


# ---- the optimiser


def test_the_rate_falls_by_the_epoch_to_its_floor() -> None:
    model = DAMSM(**settings("damsm", tokens=None))
    assert [model.rate(epoch) for epoch in (0, 1, 2)] == pytest.approx([2e-3, 1.96e-3, 1.9208e-3])
    assert model.rate(113) > 2e-4 > model.rate(114)
    assert model.rate(114) == model.rate(600)


class Watch(Callback):
    """Rate and age of Adam's state after each batch; a checkpoint after batch 0 of epoch 1."""

    def __init__(self, save: Path | None = None) -> None:
        self.seen: list[tuple[float, int]] = []
        self.save = save

    def on_train_batch_end(
        self, trainer: Trainer, model: LightningModule, out: Any, batch: Any, batch_idx: int
    ) -> None:
        (group,) = trainer.optimizers[0].param_groups
        ages = {int(state["step"]) for state in trainer.optimizers[0].state.values()}
        self.seen.append((group["lr"], *ages))
        if self.save and (trainer.current_epoch, batch_idx) == (1, 0):
            trainer.save_checkpoint(self.save)


def test_each_epoch_has_a_new_adam(tmp_path: Path) -> None:
    watch = Watch()
    fit(tmp_path, 3, callbacks=[watch])
    rates = [2e-3, 2e-3, 1.96e-3, 1.96e-3, 1.9208e-3, 1.9208e-3]
    assert watch.seen == [(pytest.approx(rate), age) for rate, age in zip(rates, [1, 2] * 3, strict=True)]


def test_only_the_text_encoder_is_clipped(tmp_path: Path) -> None:
    """Gradients of norm 1e-13 are nothing to Adam, whose epsilon is 1e-8."""
    model, _ = fit(tmp_path, 0)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    model, _ = fit(tmp_path, 1, options={"clip_rnn": 1e-13})
    moved = {name: (p - start[name]).abs().max().item() for name, p in model.named_parameters()}
    assert max(value for name, value in moved.items() if name.startswith("text.")) < 1e-6
    assert min(value for name, value in moved.items() if name.startswith("image.")) > 1e-4
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    model.clip_rnn = 0.25
    model.configure_gradient_clipping()
    norm = torch.stack([p.grad.square().sum() for p in model.text.parameters() if p.grad is not None]).sum().sqrt()
    assert norm.item() == pytest.approx(0.25, rel=1e-4)
    assert all((p.grad == 1).all() for p in model.image.parameters() if p.grad is not None)


# ---- a fit


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[DAMSM, Trainer, Path]:
    root = tmp_path_factory.mktemp("damsm")
    model, trainer = fit(root, 25, options={"every": 100})
    torch.save(model.export(), root / "damsm.pt")
    trainer.save_checkpoint(root / "damsm.ckpt")
    return model, trainer, root


def test_images_and_attributes_find_each_other(fitted: tuple[DAMSM, Trainer, Path]) -> None:
    """Also of two held-out classes, whose attributes are known from others; four images share a condition."""
    model, trainer, _ = fitted
    assert trainer.callback_metrics["train/loss"] < 0.6 * 4 * math.log(32)  # chance
    assert set(model.scores) == {"loss", "top1", "chance"}
    assert model.scores["chance"] == pytest.approx(1 / 9)
    assert model.scores["top1"] > 3 / 9
    assert trainer.callback_metrics["val/top1"] == pytest.approx(model.scores["top1"])


def test_the_export_serves(fitted: tuple[DAMSM, Trainer, Path]) -> None:
    model, _, root = fitted
    encoders = load_encoders(root / "damsm.pt")
    assert (encoders.inputs, encoders.names, encoders.denoised_hash) == ("raw", NAMES, None)
    assert len(encoders.hash) == 8
    assert not [p for net in (encoders.text, encoders.image) for p in net.parameters() if p.requires_grad]
    images = torch.rand(3, 3, 32, 32, requires_grad=True)
    regions, code = encoders.image(images)
    model.eval()
    assert model.sequences is not None
    found = Conditions(encoder=encoders.text, sequences=model.sequences, max_len_train=9, max_len_eval=9)
    codes = found.codes(torch.tensor([0, 70]), train=False)
    with torch.no_grad():
        torch.testing.assert_close((regions, code), model.image(images))
        own = model.text(model.sequences.ids[[0, 70]], model.sequences.lengths[[0, 70]])
    torch.testing.assert_close((codes.words, codes.sent), own)
    assert found.condition_text(torch.tensor([70])) == ["size: large, color: yellow, ground: dark"]
    code.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0
    assert encoders.to("cpu") is encoders


def test_encoders_of_another_kind_are_refused(fitted: tuple[DAMSM, Trainer, Path], tmp_path: Path) -> None:
    """Trap T19: they would run, and lower the results."""
    encoders = load_encoders(fitted[2] / "damsm.pt")
    encoders.check(inputs="raw", code_dim=32)
    assert "trained with model.inputs=raw, not clean" in refusal(lambda: encoders.check(inputs="clean"))
    assert "have width 32" in refusal(lambda: encoders.check(inputs="raw", code_dim=256))
    message = refusal(lambda: load_encoders(fitted[2] / "damsm.ckpt"))
    assert "give the file that model=damsm made" in message


def test_denoised_attributes_have_encoders_of_their_own(tmp_path: Path) -> None:
    records = data(tmp_path).records
    paths = []
    for number in (1, 2):
        assert records.attributes is not None
        present = records.attributes.copy()
        present[::number, 0] = 0
        zeros = {name: np.zeros(9) for name in ("rho", "threshold", "rounds", "n_pos", "offset")}
        denoised = Denoised(
            present=present,
            score=np.zeros_like(present, np.float32),
            removed=present != records.attributes,
            skipped=np.zeros(9, bool),
            weights=np.zeros((9, 1)),
            names=NAMES,
            keys=records.keys,
            params={},
            feature_hash="0",
            **zeros,
        )
        paths.append(tmp_path / f"{number}.npz")
        denoised.write(paths[-1])
    model, _ = fit(tmp_path, options={"inputs": "clean", "denoised": str(paths[0])})
    torch.save(model.export(), tmp_path / "damsm.pt")
    encoders = load_encoders(tmp_path / "damsm.pt")
    assert encoders.denoised_hash == denoised_hash(paths[0])
    encoders.check(inputs="clean", denoised=paths[0])
    encoders.check(inputs="clean")  # free conditions need no file
    message = refusal(lambda: encoders.check(inputs="clean", denoised=paths[1]))
    assert f"trained on other denoised attributes ({encoders.denoised_hash}) than {paths[1]}" in message


def test_a_fit_on_captions(tmp_path: Path) -> None:
    options = {"inputs": "text", "max_len": 18, "max_len_eval": 25, "subset_prob": 0.0, "every": 100}
    model, trainer = fit(tmp_path, 15, options=options, reads=("image", "caption"))
    assert {"a", "violet", "square", "small"} - set(model.names) == {"violet"}
    assert trainer.callback_metrics["train/loss"] < 0.9 * 4 * math.log(32)


@pytest.mark.parametrize("where", ["end", "middle"])
def test_resume_is_exact(where: str, tmp_path: Path) -> None:
    """After an epoch, and after one of two batches of the second."""
    middle, (options) = tmp_path / "middle.ckpt", {"subset_prob": 0.5, "every": 1}
    whole, trainer = fit(tmp_path, 2, options=options, callbacks=[Watch(middle)])
    if where == "end":
        _, first = fit(tmp_path, 1, options=options)
        first.save_checkpoint(tmp_path / "end.ckpt")
    resumed, again = fit(tmp_path, 2, options=options, ckpt_path=tmp_path / f"{where}.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    mine, theirs = (t.optimizers[0].state_dict()["state"] for t in (trainer, again))
    assert all(torch.equal(mine[i]["exp_avg"], theirs[i]["exp_avg"]) for i in mine)
    assert whole.scores == resumed.scores


# ---- what cannot be


def test_what_is_missing_is_named(fitted: tuple[DAMSM, Trainer, Path], tmp_path: Path) -> None:
    assert "There are text, raw" in refusal(lambda: DAMSM(**settings("damsm", inputs="words")))
    message = refusal(lambda: fit(tmp_path, options={"trunk": "inception_v3"}))
    assert "set model.trunk_weights" in message
    assert "has no attributes, which model.inputs=raw reads" in refusal(lambda: fit(tmp_path, attributes=None))
    message = refusal(lambda: fit(tmp_path, options={"tokens": 313}))
    assert "model.text.tokens=313, but squares has 10" in message
    assert "model.denoised" in refusal(lambda: fit(tmp_path, options={"inputs": "clean"}))


def test_a_checkpoint_of_something_else_is_refused(fitted: tuple[DAMSM, Trainer, Path], tmp_path: Path) -> None:
    names = (*NAMES[:-1], "has_ground::grey")
    place = fitted[2] / "damsm.ckpt"
    message = refusal(lambda: fit(tmp_path, 26, ckpt_path=place, attribute_names=names))
    assert "names differ: give the same data" in message
    assert "is of VSE, not of DAMSM" in refusal(
        lambda: DAMSM(**settings("damsm", tokens=None)).on_load_checkpoint({"suite": {"model": "VSE"}})
    )


def test_without_held_out_classes_nothing_is_measured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "finegan.damsm"):
        model, _ = fit(tmp_path, test=np.zeros(80, bool))
    assert model.scores == {}
    assert "no two held-out classes" in caplog.text


def test_describe_counts_both_networks() -> None:
    with torch.device("meta"):
        found = networks(DAMSM(**settings("damsm")))
    assert found["text"] == {"parameters": 534_220}
    assert found["image"]["parameters"] == 22_506_720
    assert found["image"]["output"] == [[2, 256, 17, 17], [2, 256]]
