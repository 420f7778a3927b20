"""Every kind of file that leaves a run, with one fault after another: a sentence, and nothing is half loaded."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from common.classifier import IMAGENET, build, load_classifier
from common.exports import Exported
from common.text import SentenceEncoder
from finegan.checkpoints import load_encoders, load_trunk
from finegan.encoders import ImageEncoder
from finegan.is_network import load_is_network
from simgan.embedding import load_judge, load_text_encoder
from simgan.model import SIMGAN
from tests.finegan import test_finegan_exported as birds
from tests.simgan import test_simgan_figures as edits
from tests.worlds.layouts import refusal
from tests.worlds.settings import settings
from tests.worlds.tampering import surprises
from tests.worlds.tiny_pairs import make, make_pg2


class Given(NamedTuple):
    """A file and what reads it; with a model that it is read into."""

    path: Path
    load: Callable[[Path], object]
    model: nn.Module | None = None


def write(path: Path, kind: str, format: int = 1, **content: Any) -> Path:
    torch.save({"format": format, "kind": kind, "data": "cub", **content}, path)
    return path


def classifier(arch: str) -> dict[str, Any]:
    sizes = {"arch": arch, "classes": ["a", "b"], "image_size": 64, "accuracy": 0.5}
    return sizes | {name: list(value) for name, value in IMAGENET.items()} | {"state_dict": build(arch, 2).state_dict()}


def of_classifier(root: Path) -> Given:
    return Given(write(root / "classifier.pt", "classifier", **classifier("alexnet_tiny")), load_classifier)


def of_trunk(root: Path) -> Given:
    encoder = ImageEncoder(trunk="inception_v3", code_dim=8, image_size=299, bn_train=False)
    content = classifier("inception_v3")
    content["state_dict"] = {
        k: v.new_zeros(()).expand(v.shape) for k, v in content["state_dict"].items()
    }  # a small file
    path = write(root / "classifier.pt", "classifier", **content)
    return Given(path, lambda path: load_trunk(encoder, path), encoder)


def of_is_network(root: Path) -> Given:
    facts: dict[str, Any] = {"class_ids": [1, 2], "sha256": "f00", "start": "from scratch", "found": {"is_test": 2.0}}
    content = classifier("alexnet_tiny")
    kept = {name: content[name] for name in ("arch", "classes", "image_size", "state_dict")}
    return Given(write(root / "is.pt", "is_network", **kept, **facts), load_is_network)


def vse(root: Path) -> Path:
    text = SentenceEncoder(words=4, word_dim=10, dim=12)
    config = {"word_dim": 10, "dim": 12, "max_words": 50, "vectors": None}
    image = nn.Linear(4096, 12, bias=False).state_dict()
    sides = {"text": text.state_dict(), "image": image, "image_encoder": {"arch": "colours"}}
    return write(
        root / "vse.pt", "vse", config=config, vocabulary=["red", "bird"], image_encoder_hash="colours", **sides
    )


def of_damsm(root: Path) -> Given:
    return Given(birds.write_damsm(root / "damsm.pt"), load_encoders)


def simgan(root: Path) -> Exported:
    return SIMGAN(**settings("simgan", **edits.SETTINGS | {"text_encoder": str(vse(root))}))


def finegan(root: Path) -> Exported:
    return birds.make(birds.write_damsm(root / "damsm.pt"))


MODELS: dict[str, Callable[[Path], Exported]] = {
    "simgan": simgan,
    "finegan": finegan,
    "ggb": lambda root: make(decay=0.5),
    "pg2": lambda root: make_pg2(decay=0.5),
}
FILES: dict[str, Callable[[Path], Given]] = {
    "classifier": of_classifier,
    "trunk": of_trunk,
    "vse": lambda root: Given(vse(root), load_text_encoder),
    "judge": lambda root: Given(vse(root), load_judge),
    "damsm": of_damsm,
    "is_network": of_is_network,
}


def export(model: Exported, path: Path) -> Path:
    model.data_name = "cub"
    torch.save(model.export(), path)
    return path


def checkpoint(model: Exported, path: Path, settings: Mapping[str, Any] | None = None) -> Path:
    content: dict[str, Any] = {"state_dict": model.state_dict(), "hyper_parameters": settings or dict(model.hparams)}
    model.on_save_checkpoint(content)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", FILES)
def test_an_artifact_is_read_whole_or_refused(name: str, tmp_path: Path) -> None:
    file = FILES[name](tmp_path)
    file.load(file.path)  # it was whole
    assert surprises(file.load, file.path, tmp_path, file.model) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_an_export_alone_is_read_whole_or_refused(name: str, tmp_path: Path) -> None:
    model = MODELS[name](tmp_path)
    path = export(model, tmp_path / "export.pt")
    assert surprises(type(model).load, path, tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("write", [export, checkpoint])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_takes_a_file_whole_or_stays_as_it_is(name: str, write: Any, tmp_path: Path) -> None:
    model = MODELS[name](tmp_path)
    path = write(model, tmp_path / "file.pt")
    assert surprises(model.restore, path, tmp_path, model) == []


FLAT = {"simgan": {"ngf": 8, "ndf": 8}, "finegan": {"ngf": 2, "ndf": 1}, "ggb": {"ngf": 4}, "pg2": {"width": 4}}


@pytest.mark.parametrize("kind", ["export", "checkpoint"])
@pytest.mark.parametrize("name", MODELS)
def test_files_of_before_the_networks_had_settings_of_their_own(name: str, kind: str, tmp_path: Path) -> None:
    """They said ngf, ema_decay and lr on one level, under the numbers of format that GGB, PG2 and checkpoints kept."""
    model = MODELS[name](tmp_path)
    old = {key: value for key, value in model.hparams.items() if not isinstance(value, Mapping) or key == "loss"}
    old |= {"ema_decay": model.ema_decay, "lr": 2e-4, **FLAT[name]}
    path = tmp_path / "old.pt"
    if kind == "checkpoint":
        checkpoint(model, path, old)
    else:
        torch.save(torch.load(export(model, path), weights_only=True) | {"config": old}, path)
    nn.init.zeros_(next(model.generator.parameters()))  # so that a file which is taken is seen
    message = refusal(lambda: model.restore(path))
    assert "old.pt is of an earlier version" in message
    assert "train again" in message
    assert not next(model.generator.parameters()).any()
    assert type(model).words_of(path, model.hparams) == {}
    if kind == "export":
        assert message == refusal(lambda: type(model).load(path))


BEFORE: dict[str, tuple[str, Any]] = {
    "simgan": ("phi", {"phi_dim": 12, "phi_norm": "standard"}),
    "ggb": ("blocks", {"use_rapd": False, "use_nvtd": True}),
}


@pytest.mark.parametrize("write", [export, checkpoint])
@pytest.mark.parametrize("name", BEFORE)
def test_files_of_before_a_group_of_settings(name: str, write: Any, tmp_path: Path) -> None:
    """Else what they say by their old names would count as what the command says."""
    model, (group, old) = MODELS[name](tmp_path), BEFORE[name]
    path = write(model, tmp_path / "old.pt")
    content = torch.load(path, weights_only=True)
    settings = content["config" if write is export else "hyper_parameters"]
    del settings[group]
    torch.save(content | {"config" if write is export else "hyper_parameters": settings | old}, path)
    message = refusal(lambda: model.restore(path))
    assert "old.pt is of an earlier version" in message
    assert "train again" in message
    assert type(model).words_of(path, model.hparams) == {}
