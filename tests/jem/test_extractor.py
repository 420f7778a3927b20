"""The extractor that guides: which tensors it gives (numbers 1, 3, 4), whose weights it takes, how one is trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from pytorch_lightning import Trainer, seed_everything

from common.classifier import IMAGENET, build, prepare
from common.errors import UserError
from jem.extractor import GuideClassifier, GuideExtractor, augmented, guide_extractor, read_views, rms
from tests.agree import agree
from tests.worlds.layouts import refusal
from tests.worlds.settings import QUIET, settings
from tests.worlds.squares import squares

COUNTS = {
    "alexnet": (61_100_840, 57_339_794),
    "vgg16": (138_357_544, 134_596_498),
    "vgg16_bn": (138_365_992, 134_604_946),
    "vgg19": (143_667_240, 139_906_194),
}
CONV5 = {"alexnet": (256, 13, 13), "vgg16": (512, 14, 14), "vgg16_bn": (512, 14, 14), "vgg19": (512, 14, 14)}


@pytest.mark.parametrize("arch", COUNTS)
def test_number_1_parameters_of_section_2_1(arch: str) -> None:
    with torch.device("meta"):
        found = tuple(sum(p.numel() for p in build(arch, k).parameters()) for k in (1000, 82))
    assert found == COUNTS[arch]


@pytest.mark.parametrize("arch", COUNTS)
def test_number_3_shapes_at_224(arch: str) -> None:
    with torch.device("meta"):
        net = build(arch, 82)
        info = {"arch": arch, "image_size": 224, **IMAGENET}
        for layer, shape in (("fc7", (4096,)), ("conv5", CONV5[arch])):
            extractor = GuideExtractor(net, layer, info, "")
            assert extractor.shape == shape
            assert extractor.net(torch.zeros(2, 3, 224, 224)).shape == (2, *shape)
            last = list(extractor.net.children())[-1] if layer == "conv5" else None
            assert last is None or isinstance(last, torch.nn.ReLU)


@pytest.mark.parametrize(("arch", "conv5"), [("alexnet_tiny", (32, 3, 3)), ("vgg16_tiny", (64, 4, 4))])
@pytest.mark.usefixtures("float64")
def test_number_3_codes_are_after_relu_and_without_dropout(arch: str, conv5: tuple[int, ...]) -> None:
    """Against torchvision's own way through the layers, written out; a second look gives the same."""
    views = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    fc7, deep = (guide_extractor(None, f"random_{arch}", layer, seed=3) for layer in ("fc7", "conv5"))
    assert (fc7.shape, deep.shape) == ((128,), conv5)
    torch.manual_seed(3)
    net = build(arch, 1000).eval()
    x = prepare(views.permute(0, 3, 1, 2).double() / 127.5 - 1, 64, **IMAGENET)
    taps = {"alexnet_tiny": (12, 6), "vgg16_tiny": (26, 5)}[arch]
    agree(deep(views), net.features[: taps[0]](x))  # type: ignore[index,operator]
    code = net.classifier[: taps[1]](torch.flatten(net.avgpool(net.features(x)), 1))  # type: ignore[index,operator]
    agree(fc7(views), code)
    for extractor in (fc7.train(), deep.train()):
        assert extractor(views).min() == 0
        assert torch.equal(extractor(views), extractor(views))
        assert not any(p.requires_grad for p in extractor.parameters())
    agree(fc7(views.permute(0, 3, 1, 2).double() / 127.5 - 1), code)


@pytest.mark.usefixtures("float64")
def test_number_4_unit_mean_square() -> None:
    agree(rms(torch.tensor([[3.0, 4.0, 0.0, 0.0]])), torch.tensor([[1.2, 1.6, 0.0, 0.0]]))
    code = torch.rand(3, 4, 2, 2)
    agree(rms(7 * code), rms(code))
    agree(rms(code).square().mean((1, 2, 3)), torch.ones(3))
    assert rms(code).shape == code.shape
    assert torch.equal(rms(torch.zeros(2, 5)), torch.zeros(2, 5))
    assert rms(code.half()).dtype == torch.float32


def test_what_is_random_is_drawn_by_its_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (guide_extractor(None, "random_alexnet_tiny", "fc7", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    views = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    assert torch.equal(first(views), again(views))
    assert not torch.equal(first(views), other(views))
    assert len({first.hash, other.hash}) == 2
    assert "untrained" in first.info["provenance"]


# ---- files


def tiny_file(path: Path, net: str = "alexnet_tiny", width: int = 1000, **parts: Any) -> Path:
    torch.manual_seed(0)
    state = build(net, width).state_dict()
    torch.save(state if not parts else parts | {"state_dict": state}, path)
    return path


def test_files_of_torchvision_and_of_here(tmp_path: Path) -> None:
    foreign = guide_extractor(tiny_file(tmp_path / "alexnet.pth"), "alexnet_tiny", "fc7")
    known = {"format": 1, "data": "oxford102", "classes": [str(i) for i in range(7)], "accuracy": 0.5, **IMAGENET}
    known |= {"arch": "vgg16_bn_tiny", "image_size": 64}
    for kind in ("guide_cls", "classifier"):
        file = tiny_file(tmp_path / f"{kind}.pt", "vgg16_bn_tiny", 7, kind=kind, **known)
        own = guide_extractor(file, "vgg16_bn_tiny", "conv5")
        assert guide_extractor(file, "vgg16_tiny", "conv5").hash == own.hash  # what trains from scratch in its place
        assert own.info["accuracy"] == 0.5
        assert kind in own.info["provenance"]
    assert foreign.info["accuracy"] is None
    assert foreign.hash != own.hash
    assert len(own.hash) == 8
    message = refusal(lambda: guide_extractor(tmp_path / "alexnet.pth", "vgg16_bn_tiny", "fc7"))
    assert "prepare.extractor=alexnet_tiny" in message
    assert str(tmp_path / "alexnet.pth") in message


def test_vgg16_takes_what_trains_from_scratch(tmp_path: Path) -> None:
    """All zeros, expanded from one number, so that the file of 138 M parameters stays small."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in torchvision.models.vgg16_bn(num_classes=82).state_dict().items()}
    state = {
        k: torch.zeros((), dtype=torch.int64 if "num" in k else torch.float32).expand(s) for k, s in shapes.items()
    }
    torch.save(state, tmp_path / "vgg.pth")
    assert guide_extractor(tmp_path / "vgg.pth", "vgg16", "conv5").info["arch"] == "vgg16_bn"
    assert "vgg19" in refusal(lambda: guide_extractor(tmp_path / "vgg.pth", "vgg19", "fc7"))


def test_bad_weights_are_refused(tmp_path: Path) -> None:
    state = build("alexnet_tiny", 1000).state_dict()
    torch.save(state | {"classifier.4.weight": torch.full((128, 128), torch.nan)}, tmp_path / "features.pth")
    message = refusal(lambda: guide_extractor(tmp_path / "features.pth", "alexnet_tiny", "fc7"))
    assert "features.pth" in message
    assert "IMAGENET1K_V1" in message
    assert "prepare.weights=FILE" in refusal(lambda: guide_extractor(None, "alexnet", "fc7"))
    assert "prepare.extractor=resnet18" in refusal(lambda: guide_extractor(None, "resnet18", "fc7"))
    assert "prepare.layer=fc6" in refusal(lambda: guide_extractor(None, "random_alexnet_tiny", "fc6"))
    torch.save({"kind": "vse", "format": 1}, tmp_path / "vse.pt")
    with pytest.raises(UserError, match="vse"):
        guide_extractor(tmp_path / "vse.pt", "alexnet_tiny", "fc7")


# ---- model=guide_cls


def classifier(views: Path, **changes: Any) -> GuideClassifier:
    small = {"arch": "alexnet_tiny", "image_size": 64, "weights": None, "views": str(views), "dropout": 0.0}
    small |= {"optimizer.name": "adam", "optimizer.lr": 2e-3, "optimizer.warmup_epochs": 1, "augment.jitter": 0.1}
    return GuideClassifier(**settings("guide_cls", **small | changes))


def test_it_learns_the_views_of_the_training_classes_alone(tmp_path: Path) -> None:
    """Photos are black: whatever it knows is from the views, a colour for each class."""
    data = squares(tmp_path, reads=("image", "label"), batch_size=32)
    labels = data.records.labels
    colours = np.random.default_rng(0).integers(0, 256, (10, 1, 1, 3), np.uint8)
    np.save(tmp_path / "views.npy", np.broadcast_to(colours[labels], (len(labels), 64, 64, 3)))
    seed_everything(0, verbose=False)
    model = classifier(tmp_path / "views.npy", **{"augment.crop": 0.9, "optimizer.lr": 4e-3})
    seen: list[int] = []
    model.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    trainer = Trainer(max_epochs=25, **QUIET)
    trainer.fit(model, data)
    assert model.accuracy > 0.5  # of 8 classes
    content = model.export()
    assert (content["kind"], content["view"], content["source"]) == ("guide_cls", "overlay", "official")
    assert content["classes"] == [name for k, name in enumerate(data.records.classes) if k not in (0, 6)]
    torch.save(content, tmp_path / "guide_cls.pt")
    extractor = guide_extractor(tmp_path / "guide_cls.pt", "alexnet_tiny", "fc7")
    assert extractor.info["accuracy"] == model.accuracy
    codes = extractor(torch.from_numpy(read_views(tmp_path / "views.npy", len(labels)).copy()))
    model.net.eval()
    agree(model.net.classifier[6](codes)[::8], model(model.images({"row": torch.arange(0, 80, 8)}, False)))  # type: ignore[index,operator,typeddict-item]


def test_data_that_it_must_not_learn_from(tmp_path: Path) -> None:
    np.save(tmp_path / "views.npy", np.zeros((80, 64, 64, 3), np.uint8))
    leak = squares(tmp_path, reads=("label",))
    leak.train_split = "all"
    with pytest.raises(UserError, match=r"data\.train_split=all"):
        Trainer(max_epochs=1, **QUIET).fit(classifier(tmp_path / "views.npy"), leak)
    single = squares(tmp_path, reads=("label",), labels=np.zeros(80, np.int64), test=np.zeros(80, bool))
    with pytest.raises(UserError, match="single class") as error:
        Trainer(max_epochs=1, **QUIET).fit(classifier(tmp_path / "views.npy"), single)
    assert str(tmp_path) in str(error.value)


def test_other_files_than_views_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "views.npy"
    assert str(path) in refusal(lambda: read_views(path, 2))
    path.write_bytes(b"\x93NUMPY\x01")
    assert "prepare" not in refusal(lambda: read_views(path, 2))
    np.save(path, np.zeros((2, 8, 8, 3), np.float32))
    assert "float32" in refusal(lambda: read_views(path, 2))
    np.save(path, np.zeros((2, 8, 8, 3), np.uint8))
    assert read_views(path, 2).shape == (2, 8, 8, 3)
    assert "2 views" in refusal(lambda: read_views(path, 3))


@pytest.mark.usefixtures("float64")
def test_augmentation_mirrors_where_it_is_told_and_draws_for_each_image() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 32).expand(4, 3, 32, 32)
    flip = torch.tensor([True, False, True, False])
    plain = augmented(ramp, flip, crop=1.0, jitter=0.0)
    agree(plain[1], ramp[1])
    agree(plain[0], ramp[0].flip(2))
    drawn = augmented(ramp, flip, crop=0.35, jitter=0.2)
    assert drawn.abs().max() <= 1
    assert len({one.mean().item() for one in drawn}) == 4
    grey = augmented(torch.zeros(64, 3, 8, 8), torch.zeros(64, dtype=torch.bool), crop=1.0, jitter=0.2)
    assert grey.amin() >= -0.2
    assert grey.amax() <= 0.2
    assert grey.amax() > 0.1
