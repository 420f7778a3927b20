"""Classifiers: architectures, what they serve, and a fit on coloured squares."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from pytorch_lightning import Trainer, seed_everything
from torch import nn

from common.classifier import (
    IMAGENET,
    SIDES,
    Classifier,
    ImageClassifier,
    body_and_head,
    build,
    held_out_rows,
    load_classifier,
    load_image_encoder,
    prepare,
)
from common.errors import UserError
from tests.agree import agree
from tests.worlds.settings import QUIET, settings
from tests.worlds.squares import squares

WIDTHS = {"inception_v3": 2048, "vgg16": 4096, "vgg16_bn": 4096, "vgg19": 4096, "alexnet": 4096, "resnet18": 512}
WIDTHS |= {
    "resnet50": 2048,
    "resnet101": 2048,
    "vgg16_tiny": 128,
    "vgg16_bn_tiny": 128,
    "alexnet_tiny": 128,
    "resnet18_tiny": 64,
}


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("arch", SIDES)
def test_penultimate_features_and_logits_of_each_architecture(arch: str) -> None:
    with torch.device("meta"):
        net = build(arch, 7)
        images = torch.zeros(2, 3, SIDES[arch], SIDES[arch])
    body, head = body_and_head(net.eval())
    assert body(images).shape == (2, WIDTHS[arch])
    assert (head.in_features, head.out_features) == (WIDTHS[arch], 7)
    assert net(images).shape == (2, 7)


@pytest.mark.parametrize("arch", ["vgg16_tiny", "vgg16_bn_tiny", "alexnet_tiny", "resnet18_tiny", "resnet18"])
@pytest.mark.usefixtures("float64")
def test_the_two_parts_are_the_network(arch: str) -> None:
    torch.manual_seed(0)
    net, x = build(arch, 5).eval(), torch.randn(2, 3, 64, 64)
    body, head = body_and_head(net)
    features = body(x)
    agree(head(features), net(x))
    assert features.min() >= 0  # after ReLU
    assert features.max() > 0


def test_published_and_tiny_sizes() -> None:
    with torch.device("meta"):
        assert parameters(build("vgg16", 365)) == 134_260_544 + 4097 * 365
        assert parameters(build("resnet18", 365)) == 11_176_512 + 513 * 365
    net, x = build("vgg16_tiny", 7), torch.zeros(1, 3, 64, 64)
    with torch.device("meta"):
        full = build("vgg16", 7)
    assert [type(m) for m in net.modules()] == [type(m) for m in full.modules()]
    convs = [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert convs == [8, 8, 16, 16, 32, 32, 32, 64, 64, 64, 64, 64, 64]
    features, _, classifier = net.children()
    assert features[:30](x).shape == (1, 64, 4, 4)  # type: ignore[index]
    assert [m.out_features for m in classifier.modules() if isinstance(m, nn.Linear)] == [128, 128, 7]
    alexnet = next(build("alexnet_tiny", 7).children())
    assert alexnet[:12](x).shape == (1, 32, 3, 3)  # type: ignore[index]


@pytest.mark.usefixtures("float64")
def test_images_are_normalised_as_imagenet_was() -> None:
    grey = prepare(torch.zeros(1, 3, 8, 8), 8, **IMAGENET)
    agree(grey[0, :, 0, 0], torch.tensor([0.015 / 0.229, 0.044 / 0.224, 0.094 / 0.225]))
    white = prepare(torch.ones(1, 3, 5, 9), 4, **IMAGENET)
    assert white.shape == (1, 3, 4, 4)
    agree(white[0, 0], torch.full((4, 4), (1 - 0.485) / 0.229))


def torchvision_file(path: Path, arch: str, classes: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    state = torchvision.models.get_model(arch, weights=None, num_classes=classes).state_dict()
    torch.save(state, path)
    return state


@pytest.mark.usefixtures("float64")
def test_a_torchvision_file_is_recognised(tmp_path: Path) -> None:
    state = torchvision_file(tmp_path / "resnet18-f37072fd.pth", "resnet18", 1000)
    encoder = load_image_encoder(tmp_path / "resnet18-f37072fd.pth")
    assert (encoder.name, encoder.width, encoder.info["arch"]) == ("classifier-imagenet", 512, "resnet18")
    x = torch.rand(2, 3, 40, 40) * 2 - 1
    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(state)
    agree(encoder.features(x)[1], theirs.eval()(prepare(x, 224, **IMAGENET)))
    old = {f"module.{k}": v for k, v in state.items() if "num_batches" not in k}  # PyTorch 0.3, DataParallel
    torch.save({"state_dict": old}, tmp_path / "old.pth")
    agree(load_image_encoder(tmp_path / "old.pth").features(x), encoder.features(x))


@pytest.mark.usefixtures("float64")
def test_torchvisions_inception_sees_what_tensorflow_showed_it(tmp_path: Path) -> None:
    net = torchvision.models.inception_v3(weights=None, num_classes=1000, aux_logits=False, init_weights=False)
    torch.save(net.state_dict(), tmp_path / "inception.pth")
    encoder = load_image_encoder(tmp_path / "inception.pth")
    images = torch.rand(1, 3, 299, 299) * 2 - 1
    with torch.no_grad():
        agree(encoder(images), net.eval()(images))


def test_vgg_layout_is_recognised_by_its_shapes(tmp_path: Path) -> None:
    """All zeros, expanded from one number, so that the file of 138 M parameters stays small."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in torchvision.models.vgg16().state_dict().items()}
    assert {"features.28.weight", "classifier.3.weight"} < set(shapes)
    torch.save({k: torch.zeros(1).expand(s) for k, s in shapes.items()}, tmp_path / "vgg16-397923af.pth")
    encoder = load_image_encoder(tmp_path / "vgg16-397923af.pth")
    assert (encoder.info["arch"], encoder.info["image_size"], encoder.width) == ("vgg16", 224, 4096)


def test_other_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    garbage, unknown, wrong = (tmp_path / name for name in ("garbage.pth", "unknown.pth", "vse.pt"))
    garbage.write_bytes(b"not a checkpoint")
    torch.save({"conv.weight": torch.zeros(3)}, unknown)
    torch.save({"format": 1, "kind": "vse"}, wrong)
    with pytest.raises(UserError, match="no weights file at"):
        load_classifier(tmp_path / "absent.pt")
    with pytest.raises(UserError, match="cannot be read as weights"):
        load_image_encoder(garbage)
    with pytest.raises(UserError, match="holds no classifier known here"):
        load_image_encoder(unknown)
    with pytest.raises(UserError, match="holds a vse, not a classifier"):
        load_classifier(wrong)
    with pytest.raises(UserError, match=r"model\.arch=vgg17 is not known"):
        build("vgg17", 3)


def test_held_out_rows_are_a_tenth_of_each_class_and_never_all() -> None:
    labels = np.repeat([0, 1, 2, 3], [30, 5, 1, 10])
    rows = np.flatnonzero(labels != 3)
    held = held_out_rows(labels, rows, 0.1, seed=0)
    assert np.bincount(labels[held], minlength=4).tolist() == [3, 1, 0, 0]
    assert (held_out_rows(labels, rows, 0.1, seed=0) == held).all()
    assert (held_out_rows(labels, rows, 0.1, seed=1) != held).any()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Classifier, Path]:
    """A classifier trained on the eight training classes of the squares, and the folder of its artifact."""
    root = tmp_path_factory.mktemp("squares")
    seed_everything(0)
    data = squares(root)
    model = Classifier(
        **settings("classifier", arch="alexnet_tiny", image_size=64, name="adam", lr=1e-3, warmup_epochs=1)
    )
    trainer = Trainer(max_epochs=40, default_root_dir=root, **QUIET)
    trainer.fit(model, datamodule=data)
    assert trainer.callback_metrics["train/loss"] < 1.2  # ln 8 = 2.08
    torch.save(model.export(), root / "classifier.pt")
    trainer.save_checkpoint(root / "classifier.ckpt")
    return model, root


def test_fit_learns_the_training_classes_only(fitted: tuple[Classifier, Path]) -> None:
    model, _ = fitted
    assert model.accuracy >= 0.5  # chance 1/8, one held-out image a class
    assert len(model.class_names) == 8
    assert not {"small_red", "large_green"} & set(model.class_names)
    assert model.target.tolist() == [-1, 0, 1, 2, 3, 4, -1, 5, 6, 7]
    assert model.held.sum() == 8
    assert not model.held[model.trainer.datamodule.records.test].any()  # type: ignore[attr-defined]


def test_held_out_images_teach_nothing(fitted: tuple[Classifier, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = fitted
    monkeypatch.setattr(model, "log", lambda *_, **__: None)  # Lightning logs only within a loop
    rows = model.held.nonzero().flatten()
    data = model.trainer.datamodule  # type: ignore[attr-defined]
    batch = data.move(next(iter(data.eval_loader(rows=rows.numpy()))), "cpu")
    assert len(batch["row"]) == 8
    assert model.training_step(batch, 0) == 0
    monkeypatch.setattr(model, "held", torch.zeros_like(model.held))
    assert model.training_step(batch, 0) > 0


def test_export_round_trip(fitted: tuple[Classifier, Path]) -> None:
    model, root = fitted
    served = load_classifier(root / "classifier.pt").double()
    assert (served.name, served.width, served.classes) == ("classifier-squares", 128, model.class_names)
    assert len(served.hash) == 8
    assert served.info["accuracy"] == model.accuracy
    x = torch.rand(3, 3, 32, 32, dtype=torch.float64) * 2 - 1
    features, logits = served.train().features(x)
    assert (features.shape, logits.shape, served.training) == ((3, 128), (3, 8), False)
    trained = Classifier.load_from_checkpoint(root / "classifier.ckpt", weights_only=True).double()
    agree(logits, trained.eval()(x))
    agree(load_image_encoder(root / "classifier.pt").double().features(x), (features, logits))
    again = ImageClassifier(served.export(), served.hash)
    agree(again.double()(x), logits)
    with torch.autocast("cpu", torch.bfloat16):
        assert served.float().features(x.bfloat16())[0].dtype == torch.float32
    x = x.float().requires_grad_()
    served(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in served.parameters())


def test_checkpoint_restores_the_classes_and_refuses_other_models(fitted: tuple[Classifier, Path]) -> None:
    model, root = fitted
    again = Classifier.load_from_checkpoint(root / "classifier.ckpt", weights_only=True)
    assert again.class_names == model.class_names
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    content = torch.load(root / "classifier.ckpt", weights_only=True)
    torch.save(content | {"suite": {"model": "SIMGAN"}}, root / "other.ckpt")
    with pytest.raises(UserError, match="of SIMGAN, not of Classifier"):
        Classifier.load_from_checkpoint(root / "other.ckpt", weights_only=True)
    model.on_load_checkpoint(content)  # the same classes
    content["suite"] |= {"class_names": model.class_names[::-1]}
    with pytest.raises(UserError, match="class_names differ: give the same data"):
        model.on_load_checkpoint(content)


def test_fine_tuning_starts_from_the_given_weights(fitted: tuple[Classifier, Path]) -> None:
    _, root = fitted
    path, source = str(root / "classifier.pt"), load_classifier(root / "classifier.pt").net.state_dict()
    tuned = Classifier(
        **settings("classifier", arch="alexnet_tiny", image_size=64, classes=3, weights=path)
    ).net.state_dict()
    assert tuned["classifier.6.weight"].shape == (3, 128)
    assert all(torch.equal(tuned[k], source[k]) for k in source if not k.startswith("classifier.6"))
    with pytest.raises(UserError, match="holds alexnet_tiny, not vgg16_tiny"):
        Classifier(**settings("classifier", arch="vgg16_tiny", image_size=64, classes=3, weights=path))
