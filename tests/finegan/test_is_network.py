"""The IS network: what it sees, when it is accepted, what its file holds, and foreign files."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer, seed_everything

from common.classifier import load_classifier, random_crops
from common.data.module import ImageData
from common.errors import UserError
from common.metrics.extractors import resize_as_pillow
from common.metrics.functions import inception_score, metric_key, to_uint8
from finegan.is_network import (
    TORCHVISION_FILE,
    ISNetwork,
    centre,
    filenames_hash,
    load_is_network,
    seen,
    shortfalls,
)
from tests.worlds.settings import QUIET, settings
from tests.worlds.squares import Squares

TINY: dict[str, Any] = {
    "arch": "alexnet_tiny",
    "image_size": 64,
    "lr": 1e-3,
    "average": {"decay": 0.9},
    "eval_crop": 0.875,
}
TEST = [0, 2, 3, 6]  # classes of the squares


# ---- what the network sees


@pytest.mark.parametrize(("height", "width", "side"), [(256, 256, 299), (64, 64, 299), (76, 91, 64), (48, 32, 32)])
def test_resizing_is_pillows_to_the_bit(height: int, width: int, side: int) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    images = [*noise, np.where(noise[0] < 128, 0, 255).astype(np.uint8)]
    theirs = [np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BILINEAR)) for x in images]
    ours = resize_as_pillow(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), side)
    assert ours.dtype == torch.uint8
    assert np.array_equal(ours.permute(0, 2, 3, 1).numpy(), np.stack(theirs))


@pytest.mark.gpu
def test_resizing_on_the_gpu_is_the_same() -> None:
    images = torch.randint(0, 256, (4, 3, 256, 256), dtype=torch.uint8)
    assert torch.equal(resize_as_pillow(images.cuda(), 299).cpu(), resize_as_pillow(images, 299))


def test_the_door_from_floats_to_the_network() -> None:
    """Trap T16: the reference cuts off; 0 and 255 become -1 and 1."""
    x = torch.tensor([-1.0, 1.0, 0.999]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    y = seen(to_uint8(x, rounding="floor"), 16)
    assert y[0, :, 0, 0].tolist() == pytest.approx([-1, 1, 254 / 127.5 - 1], abs=1e-6)


def test_training_crops_stay_inside_and_keep_their_share() -> None:
    side, n = 40, 400
    ramp = (torch.arange(side) + 0.5) / side
    places = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side), torch.ones(side, side)])
    torch.manual_seed(0)
    cut = random_crops(places.expand(n, 3, side, side), 64, 0.7)
    width, height = (cut[:, i].flatten(1).amax(1) - cut[:, i].flatten(1).amin(1) for i in (0, 1))
    area = (width + 1 / 64) * (height + 1 / 64)  # from pixel centres to edges, nearly
    assert cut.shape == (n, 3, 64, 64)
    assert cut[:, 2].min() == pytest.approx(1)
    assert area.min() > 0.67
    assert area.max() > 0.97
    assert (width / height).max() > 1.15
    assert (width / height).min() < 0.87
    left = cut[:, 0].flatten(1).amin(1)
    assert left.std() > 0.02  # each image has its own draw
    whole = random_crops(places[None], side, 1.0)
    assert whole.shape == (1, 3, side, side)


def test_the_centre_is_the_data_modules() -> None:
    x = torch.arange(76 * 76).view(1, 1, 76, 76)
    assert torch.equal(centre(x, 64), x[..., 6:70, 6:70])
    assert torch.equal(centre(x, 65), x[..., 6:71, 6:71])


# ---- acceptance

BAR = {"accuracy": 0.97, "is_test": 20.0, "is_train": (3.5, 8.0)}


def test_bars_are_those_stated_at_fifty_classes_and_follow_their_number() -> None:
    good = {"accuracy": 0.97, "is_test": 20.0, "is_train": 5.13}
    assert shortfalls(good, 50, BAR) == []
    assert shortfalls({"accuracy": 0.99, "is_test": 20.1}, 50, BAR) == []  # no other birds
    for name, value, word in [
        ("accuracy", 0.96, "accuracy"),
        ("is_test", 19.9, "their IS"),
        ("is_train", 3.4, "other"),
    ]:
        (fault,) = shortfalls(good | {name: value}, 50, BAR)
        assert word in fault
    assert len(shortfalls(good | {"is_train": 8.1, "is_test": 19.0}, 50, BAR)) == 2
    bar = 4 ** (math.log(20) / math.log(50))  # 2.89 of 4 classes, as 20 of 50
    assert shortfalls({"accuracy": 1.0, "is_test": bar + 0.01}, 4, BAR) == []
    assert "2.89 is wanted" in shortfalls({"accuracy": 1.0, "is_test": bar - 0.01}, 4, BAR)[0]


# ---- a fit


def birds(root: Path, **changes: Any) -> ImageData:
    """The squares with four test classes, as the IS network is fed: whole squares of the test split."""
    dataset = Squares(root, per_class=8, side=40, test=np.repeat(np.isin(np.arange(10), TEST), 8), **changes)
    return ImageData(
        dataset=dataset,
        image_size=40,
        batch_size=16,
        load_ratio=1.0,
        reads=("image", "label"),
        train_split="test",
        store=root / "store",
    )


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[ISNetwork, Path]:
    root = tmp_path_factory.mktemp("is")
    seed_everything(0)
    model = ISNetwork(**settings("is_network", **TINY))
    trainer = Trainer(max_epochs=60, default_root_dir=root, **QUIET)
    trainer.fit(model, datamodule=birds(root))
    torch.save(model.export(), root / "is.pt")
    trainer.save_checkpoint(root / "is.ckpt")
    return model, root


def test_it_learns_every_photo_of_the_test_classes_and_no_other(fitted: tuple[ISNetwork, Path]) -> None:
    model, root = fitted
    assert model.class_ids == [1, 3, 4, 7]
    assert model.class_names == ["small_red", "small_blue", "small_yellow", "large_green"]
    assert not model.held.any()
    assert model.found["accuracy"] == model.accuracy >= 0.97
    assert 3 < model.found["is_test"] <= 4
    assert 1 <= model.found["is_train"] < model.found["is_test"]
    content = torch.load(root / "is.pt", weights_only=True)
    records = model.data.records
    assert content["sha256"] == filenames_hash([records.keys[row] for row in records.rows("test")])
    assert content["sha256"] != filenames_hash([records.keys[row] for row in records.rows("train")])
    assert (content["start"], content["class_ids"]) == ("from scratch", [1, 3, 4, 7])


def test_the_file_holds_the_average_and_serves_it(fitted: tuple[ISNetwork, Path]) -> None:
    model, root = fitted
    live, kept = model.net.state_dict(), torch.load(root / "is.pt", weights_only=True)["state_dict"]
    assert live.keys() == kept.keys()
    assert any(not torch.equal(live[k], kept[k]) for k in live)
    net = load_is_network(root / "is.pt")
    assert (net.name, net.input) == ("alexnet_tiny-squares-test4", "64 x 64, bilinear as Pillow")
    assert metric_key("is", net.name) == "is@alexnet_tiny-squares-test4"  # trap T2: never a plain IS
    assert len(net.hash) == 8
    logits, labels = model.look(model.data.rows("test"))
    again = []
    for batch in model.data.eval_loader(rows=model.data.rows("test")):
        image = model.data.move(batch, "cpu")["image"]
        again.append(net(to_uint8(centre(image, 35)))["logits"])
    torch.testing.assert_close(torch.cat(again), logits)
    assert (logits.argmax(1) == labels).float().mean() == pytest.approx(model.accuracy)
    assert inception_score(logits, splits=1)[0] == pytest.approx(model.found["is_test"])
    with pytest.raises(ValueError, match="takes uint8"):
        net(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UserError, match="holds a is_network, not a classifier"):
        load_classifier(root / "is.pt")


def test_checkpoints_keep_what_was_found_and_refuse_others(fitted: tuple[ISNetwork, Path]) -> None:
    model, root = fitted
    again = ISNetwork.load_from_checkpoint(root / "is.ckpt", weights_only=True)
    assert (again.found, again.class_ids, again.filenames) == (model.found, model.class_ids, model.filenames)
    mine, theirs = model.export()["state_dict"], again.export()["state_dict"]
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    content = torch.load(root / "is.ckpt", weights_only=True)
    with pytest.raises(UserError, match="of Classifier, not of ISNetwork"):
        again.on_load_checkpoint(content | {"suite": {"model": "Classifier"}})
    with pytest.raises(UserError, match="filenames differ: give the same data"):
        again.on_load_checkpoint(content | {"suite": content["suite"] | {"filenames": "0"}})


@pytest.mark.parametrize(("expected", "refused"), [(80, True), (81, False), (0, False)])
def test_a_poor_judge_is_refused_on_the_complete_photos_only(
    fitted: tuple[ISNetwork, Path], expected: int, refused: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = ISNetwork(**settings("is_network", **TINY))
    trainer = Trainer(max_epochs=1, default_root_dir=tmp_path, **QUIET)
    data = birds(tmp_path, expected=expected)
    with caplog.at_level(logging.WARNING):
        if refused:
            with pytest.raises(UserError, match=r"not good enough: its accuracy .* 0\.97 is wanted"):
                trainer.fit(model, datamodule=data)
        else:
            trainer.fit(model, datamodule=data)
            assert "going on, since the data are partial, few or drawn" in caplog.text


def test_a_stopped_fit_is_measured_too(tmp_path: Path) -> None:
    model = ISNetwork(**settings("is_network", **TINY))
    trainer = Trainer(max_epochs=9, max_steps=1, default_root_dir=tmp_path, **QUIET)
    trainer.fit(model, datamodule=birds(tmp_path))
    assert 0 <= model.found["accuracy"] < 0.97


# ---- Inception's own files, all of one number so that they stay small


@pytest.fixture(scope="module")
def inception() -> dict[str, torch.Size]:
    import torchvision

    with torch.device("meta"):
        return {k: v.shape for k, v in torchvision.models.inception_v3(init_weights=False).state_dict().items()}


def test_a_foreign_head_of_51_loses_its_background(inception: dict[str, torch.Size], tmp_path: Path) -> None:
    """Trap T2: TensorFlow's background class is logit 0."""
    state = {f"module.{k}": torch.zeros(1).expand(s) for k, s in inception.items() if "num_batches" not in k}
    state["module.fc.weight"], state["module.fc.bias"] = torch.zeros(1).expand(51, 2048), torch.arange(51.0)
    ids = list(range(3, 53))
    torch.save({"state_dict": state, "class_ids": ids, "sha256": "f00"}, tmp_path / "inception_cub_test50.pth")
    net = load_is_network(tmp_path / "inception_cub_test50.pth")
    assert (net.name, net.info["class_ids"], net.info["sha256"]) == ("inception_v3-cub-test50", ids, "f00")
    seen_by_it = net(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert seen_by_it["features"].shape == (1, 2048)
    assert seen_by_it["logits"][0].tolist() == list(range(1, 51))


def test_imagenet_weights_are_found_and_the_heads_are_new(
    inception: dict[str, torch.Size], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    path = tmp_path / "hub" / "checkpoints" / TORCHVISION_FILE
    torch.save({k: torch.tensor(0.5).expand(s) for k, s in inception.items()}, path)
    model = ISNetwork(**settings("is_network", classes=7))
    assert model.start.startswith(f"{TORCHVISION_FILE} (")
    state = model.net.state_dict()
    assert state["fc.weight"].shape == (7, 2048)
    assert state["AuxLogits.fc.weight"].shape == (7, 768)
    assert not (state["fc.weight"] == 0.5).any()
    assert (state["Mixed_7c.branch1x1.conv.weight"] == 0.5).all()
    assert (state["AuxLogits.conv0.conv.weight"] == 0.5).all()
    assert model.net.dropout.p == 0.2
    assert not model.net.transform_input
    torch.save({k: v for k, v in state.items() if not k.startswith("Mixed_5b")}, path)
    with pytest.raises(UserError, match="does not fit inception_v3, Mixed_5b"):
        model.build(7)


def test_inception_learns_through_both_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    model = ISNetwork(**settings("is_network", classes=3, dropout=0.0))
    assert model.start == f"from scratch: {TORCHVISION_FILE} is not on disk"
    monkeypatch.setattr(model, "log", lambda *_, **__: None)  # Lightning logs only within a loop
    model.target = torch.tensor([-1, 2, 0, 1])
    batch: Any = {"image": torch.rand(2, 3, 304, 304) * 2 - 1, "label": torch.tensor([1, 3])}
    losses = []
    for weight in (0.0, 0.4, 1.0):
        model.aux_weight = weight
        torch.manual_seed(1)
        with torch.no_grad():
            losses.append(model.training_step(batch, 0).item())
    assert losses[1] - losses[0] == pytest.approx(0.4 * (losses[2] - losses[0]), rel=1e-3)
    assert losses[2] > losses[0] + 0.1


def test_other_files_are_refused_in_a_sentence(fitted: tuple[ISNetwork, Path], tmp_path: Path) -> None:
    _, root = fitted
    torch.save({"format": 1, "kind": "vse"}, tmp_path / "vse.pt")
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pt")
    torch.save({"fc.weight": torch.zeros(50, 2048), "fc.bias": torch.zeros(50)}, tmp_path / "head.pt")
    for name, said in {
        "vse": "holds a vse",
        "other": "holds no Inception-v3",
        "head": "does not fit Inception3",
    }.items():
        with pytest.raises(UserError, match=said):
            load_is_network(tmp_path / f"{name}.pt")
    with pytest.raises(UserError, match="no weights file at"):
        ISNetwork(**settings("is_network", weights=str(tmp_path / "absent.pth"), classes=3))
    with pytest.raises(UserError, match="is for arch=inception_v3"):
        ISNetwork(**settings("is_network", **TINY | {"weights": str(tmp_path / "head.pt")}, classes=3))
    content = torch.load(root / "is.pt", weights_only=True)
    torch.save(content | {"class_ids": [1, 2]}, tmp_path / "short.pt")
    with pytest.raises(UserError, match="does not fit AlexNet"):
        load_is_network(tmp_path / "short.pt")
