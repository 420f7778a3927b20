"""Which run a command is: what changes results makes another, what does not finds it, what changed since is said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.command import composed, plain
from common.config import applies
from common.errors import UserError
from common.files import short_hash
from common.tasks.fit import behind, fill_prerequisites, newest
from common.tasks.runs import RunFolder, identity
from tests.worlds.layouts import refusal
from tests.worlds.tiny import call, make_world, only_run, words


def name_of(*line: str) -> str:
    return short_hash(identity(plain(composed(*line), list(line))))


SAME = {
    "simgan": [
        "model.generator.recompute=true",
        "data.workers=2",
        "trainer.max_epochs=7",
        "trainer.devices=2",
        "data.store=x",
    ],
    "vse": ["model.bar.times_chance=1"],
    "is_network": ["model.bar.accuracy=0.5"],
}
OTHER = [
    "trainer.precision=bf16-mixed",
    "model.generator.ngf=8",
    "data.flip=false",
    "seed=1",
    "model.text_encoder=x.pt",
]


@pytest.mark.parametrize(("model", "word"), [(model, word) for model, some in SAME.items() for word in some])
def test_what_leaves_the_weights_as_they_are_finds_the_same_run(model: str, word: str) -> None:
    assert name_of(f"model={model}", word) == name_of(f"model={model}")


def test_what_changes_results_is_another_run() -> None:
    assert len({name_of("model=simgan", *([word] if word else [])) for word in ["", *OTHER]}) == len(OTHER) + 1


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    return root


def test_data_that_changed_since_are_said_and_another_name_or_file_goes_on(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(world, "evaluate=false", "trainer.limit_train_batches=1")
    assert call(monkeypatch, command) == 0
    run = only_run(world)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    caption = min((world / "data").rglob("text*/*/*.txt"))
    text = caption.read_text()
    caption.write_text(text.replace("red", "blue") + "a green bird\n")
    capsys.readouterr()
    assert call(monkeypatch, [*command, "trainer.max_epochs=2"]) == 2
    told = capsys.readouterr().err
    assert str(run) in told
    assert "name=NAME" in told
    assert "resume=" in told
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    last = run / "checkpoints" / "last.ckpt"
    assert call(monkeypatch, [*command, "trainer.max_epochs=2", f"resume={last}"]) == 0
    caption.write_text(text)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["epochs"]) == ("done", 2)
    assert status["run"] == f"simgan-cub/{run.name}"
    assert (run / "status.json").read_text().count("\n") == 1


def test_the_weights_that_saw_the_most_images_are_scored(tmp_path: Path) -> None:
    """A fit of one epoch, one that goes on towards five and is stopped in its third."""
    folder = RunFolder(tmp_path, ("simgan", "cub"))
    folder.last.parent.mkdir()
    folder.export.write_bytes(b"")
    folder.say("done", epochs=1, exported={"epochs": 1, "images": 16})
    torch.save({"epoch": 0, "suite": {"images_seen": 16}}, folder.last)
    assert newest(folder) == folder.export
    torch.save({"epoch": 1, "suite": {"images_seen": 32}}, folder.last)
    folder.say("interrupted", epochs=2)
    assert newest(folder) == folder.last
    assert behind(folder.last, folder) == (2, 32)
    assert behind(folder.export, folder) == (1, 16)
    assert behind(tmp_path / "other.pt", folder) == (None, None)


@pytest.mark.parametrize("model", ["simgan", "finegan"])
def test_the_keys_of_data_that_needed_networks_take_over_are_those_of_the_data(model: str) -> None:
    cfg = composed(f"model={model}", "data=cub").cfg
    assert set(cfg.data.inherited) <= set(cfg.data)


def test_what_a_needed_network_says_names_its_command_and_the_key_for_a_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(need: dict[str, Any], asked: list[str]) -> Path:
        raise UserError("it is below its bar.")

    monkeypatch.setattr("common.tasks.fit.artifact", never)
    line = ["model=simgan", "data=cub", "preset=toy"]
    told = refusal(lambda: fill_prerequisites(plain(composed(*line), line)))
    assert "model.text_encoder" in told
    assert "run.py model=vse data=cub preset=toy" in told


def test_a_rule_may_hold_only_when_or_unless_a_setting_has_a_value() -> None:
    settings = {"inputs": "clean", "monitor": {"every": None}}
    rules = {
        "always": {},
        "then": {"when": ["inputs", "clean"]},
        "not then": {"when": ["inputs", "raw"]},
        "otherwise": {"unless": ["inputs", "raw"]},
        "not otherwise": {"unless": ["monitor.every", None]},
        "both": {"when": ["inputs", "clean"], "unless": ["monitor.every", None]},
    }
    assert {name for name, rule in rules.items() if applies(rule, settings)} == {"always", "then", "otherwise"}
