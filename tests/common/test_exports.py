"""What leaves a run and comes back: whole, or refused in a sentence with nothing changed."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from common.exports import Exported
from common.gan import Artifact
from common.weights import are_words, check_parts, is_state, read_artifact
from tests.worlds.layouts import refusal

Content = dict[str, Any]
PLAIN: Content = {"optimizer": {"lr": 0.1, "betas": [0.5, 0.9]}, "accumulate": 1, "clip": {}, "grad_norm_every": 0}


class Painter(Exported):
    """A generator of some width, fed through a list of words."""

    KIND = "painter"
    SERVED = ("width", "paint")
    PLACES = ("place",)
    COMPANIONS: ClassVar[Mapping[str, Any]] = {"words": are_words}

    def __init__(
        self,
        *,
        average: dict[str, float | None],
        width: int = 3,
        paint: dict[str, int] | None = None,
        place: str | None = None,
    ) -> None:
        super().__init__(average=average, **PLAIN)
        self.save_hyperparameters()
        self.generator, self.discriminator = nn.Linear(width, 2), nn.Linear(2, 1)
        self.average_generator()
        self.words = ["red"]

    def companions(self) -> Content:
        return {"words": self.words}

    def take_companions(self, content: Mapping[str, Any], path: str | Path) -> None:
        self.words = content["words"]


def make(**more: Any) -> Painter:
    return Painter(**{"average": {"decay": 0.9}, "paint": {"ngf": 8}, "place": "/here"} | more)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = make()
    model.data_name, model.words = "cub", ["blue", "green"]
    torch.save(model.export(), tmp_path / "painter_cub.pt")
    checkpoint = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "last.ckpt")
    return tmp_path / "painter_cub.pt"


def test_a_file_alone_makes_the_model_again(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    assert set(content) == {"format", "kind", "data", "config", "G", "ema", "words"}
    assert content["config"]["place"] is None  # of this machine
    model = Painter.load(file)
    assert (model.data_name, model.words, model.training) == ("cub", ["blue", "green"], False)
    assert all(torch.equal(value, content["ema"][name]) for name, value in model.serving.state_dict().items())
    again = model.export()
    assert {k: again[k] for k in ("data", "config", "words")} == {k: content[k] for k in ("data", "config", "words")}


def spoil(content: Content, where: str, value: object = ...) -> Content:
    """A copy of a file's content with one part replaced, or taken away."""
    found = copy.deepcopy(content)
    *outer, name = where.split("/")
    part = found
    for key in outer:
        part = part[key]
    if value is ...:
        del part[name]
    else:
        part[name] = value
    return found


TAMPERED: list[tuple[str, str, object, str]] = [
    ("painter_cub.pt", where, value, said)
    for where, said in {"config": "config", "G": "G", "ema": "ema", "words": "words", "data": "data"}.items()
    for value in (..., 3, [1])
]
TAMPERED += [
    ("painter_cub.pt", "format", 9, "is of format 9, not 1"),
    ("painter_cub.pt", "format", ..., "is of format None, not 1"),
    ("painter_cub.pt", "kind", "vse", "holds a vse, not a painter"),
    ("painter_cub.pt", "G/weight", ..., "missing weight"),
    ("painter_cub.pt", "G/more", torch.zeros(1), "unexpected more"),
    ("painter_cub.pt", "ema/weight", torch.zeros(3, 3), r"weight (3, 3) for (2, 3)"),
    ("painter_cub.pt", "ema/weight", torch.zeros(2, 3, dtype=torch.int64), "weight torch.int64 for torch.float32"),
    ("painter_cub.pt", "ema/weight", "a word", "part ema is a dict"),
    ("painter_cub.pt", "config/width", 4, "add model.width=4 to the command"),
    ("painter_cub.pt", "config/paint", {"ngf": 16}, "add model.paint.ngf=16 to the command"),
    ("painter_cub.pt", "config/average", {"decay": None}, "add model.average.decay=null to the command"),
    ("last.ckpt", "suite", ..., "is of another program, not of Painter"),
    ("last.ckpt", "suite/model", "VSE", "last.ckpt is of VSE, not of Painter"),
    ("last.ckpt", "suite/format", 7, "is of format 7, not 1"),
    ("last.ckpt", "suite/images_seen", ..., "part suite.images_seen is missing"),
    ("last.ckpt", "hyper_parameters", ..., "part hyper_parameters is missing"),
    ("last.ckpt", "hyper_parameters/width", 5, "add model.width=5 to the command"),
    ("last.ckpt", "state_dict", [1], "part state_dict is a list"),
    ("last.ckpt", "state_dict/discriminator.bias", ..., "missing discriminator.bias"),
    ("last.ckpt", "state_dict/discriminator.bias", torch.zeros(2), "discriminator.bias (2,) for (1,)"),
]


@pytest.mark.parametrize(("name", "where", "value", "said"), TAMPERED)
def test_what_was_tampered_with_is_refused_and_changes_nothing(
    file: Path, name: str, where: str, value: object, said: str
) -> None:
    path = file.with_name(name)
    torch.save(spoil(torch.load(path, weights_only=True), where, value), path)
    model = make()
    before = copy.deepcopy(model.state_dict())
    message = refusal(lambda: model.restore(path))
    assert said in message
    assert name in message or "this checkpoint" in message
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert (model.words, model.images_seen, model.data_name) == (["red"], 0, "")


def test_settings_that_build_nothing_are_refused(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    for where, value in {"config/width": "wide", "config/colour": 3}.items():
        torch.save(spoil(content, where, value), file)
        assert "holds settings that build no network" in refusal(lambda: Painter.load(file))


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "folder.pt").mkdir()
    for name in ("pipe.pt", "folder.pt", "/dev/zero"):
        message = refusal(lambda name=name: make().restore(tmp_path / name))  # type: ignore[misc]
        assert "is no regular file" in message
        assert name in message


class Network(Artifact):
    """A network of as many rows as there are names."""

    KIND = "network"
    FACTS: ClassVar[Mapping[str, Any]] = {"names": are_words, "scores": dict}
    TAUGHT = ("names",)

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.scores: dict[str, float] = {}

    def take_facts(self, facts: Mapping[str, Any]) -> None:
        super().take_facts(facts)
        self.net = nn.Linear(2, len(self.names))

    def content(self) -> Content:
        return self.facts() | {"state_dict": self.net.state_dict()}


def trained() -> tuple[Network, Content]:
    """A network, and its checkpoint."""
    model = Network()
    model.take_facts({"names": ["a", "b"], "scores": {"top1": 0.5}})
    model.images_seen = 7
    checkpoint: Content = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    return model, checkpoint


def test_an_artifact_is_built_of_its_facts() -> None:
    model, checkpoint = trained()
    again = Network()
    again.on_load_checkpoint(copy.deepcopy(checkpoint))
    again.load_state_dict(checkpoint["state_dict"])
    assert (again.facts(), again.images_seen) == (model.facts(), 7)
    assert torch.equal(again.net.weight, model.net.weight)
    other = Network()
    other.names = ["a", "c"]
    assert "whose names differ" in refusal(lambda: other.on_load_checkpoint(checkpoint))


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (lambda c: spoil(c, "suite/names", [1, 2]), "part suite.names is a list"),
        (lambda c: spoil(c, "suite/names", ["a"]), "net.weight (2, 2) for (1, 2)"),
        (lambda c: spoil(c, "suite/format", 1), "is of format 1, not 2"),
        (lambda c: spoil(c, "state_dict/net.bias"), "missing net.bias"),
    ],
)
def test_an_artifacts_checkpoint_is_whole_or_refused(spoilt: Callable[[Content], Content], said: str) -> None:
    assert said in refusal(lambda: Network().on_load_checkpoint(spoilt(trained()[1])))


def test_an_artifact_is_read_as_far_as_it_is_needed(tmp_path: Path) -> None:
    model, _ = trained()
    torch.save(model.export(), tmp_path / "network.pt")
    parts = {"names": are_words, "state_dict": is_state}
    assert read_artifact(tmp_path / "network.pt", "network", parts)["names"] == ["a", "b"]
    message = refusal(lambda: read_artifact(tmp_path / "network.pt", "vse", parts))
    assert message.endswith("holds a network, not a vse: give the file that model=vse made.")
    message = refusal(lambda: read_artifact(tmp_path / "network.pt", "network", {"scores": {"top5": float}}))
    assert "its part scores.top5 is missing" in message


def test_parts_are_types_tests_or_parts_again() -> None:
    content = {"a": 1, "b": {"c": None, "d": ["x"]}}
    check_parts(content, {"a": int, "b": {"c": str | None, "d": are_words}}, "f.pt")
    assert "its part b.c is missing" in refusal(lambda: check_parts({"b": {"d": []}}, {"b": {"c": str | None}}, "f.pt"))
    assert "its part b.d is a list" in refusal(lambda: check_parts(content, {"b": {"d": is_state}}, "f.pt"))
    assert "its part a is a int" in refusal(lambda: check_parts(content, {"a": {"b": int}}, "f.pt"))
