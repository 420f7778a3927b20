"""Files and places that commands are given: a file brings its settings; what cannot be used is a sentence."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from common import tasks
from common.command import composed, plain
from common.errors import UserError
from tests.worlds.layouts import refusal
from tests.worlds.tiny import LENGTHS, WIDTHS, call, make_world, only_run, words


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data set, and a run of which G is averaged."""
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, words(root, "evaluate=false", "model.average.decay=0.9")) == 0
    return root


def bare(root: Path, *more: str) -> list[str]:
    """A command on the world that says nothing about the model's sizes."""
    sizes = {*WIDTHS.split(), *LENGTHS.split()}
    return [word for word in words(root, *more) if word not in sizes]


@pytest.mark.parametrize("name", ["simgan_cub.pt", "checkpoints/last.ckpt"])
def test_a_file_brings_its_settings(
    name: str,
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    """The picture is that of the command with all sizes retyped, to the byte."""
    caplog.set_level("INFO")
    photo = next((world / "data").rglob("*.jpg"))
    asked = ["task=sample", f"image={photo}", "text=a red bird", "n=2", f"checkpoint={only_run(world) / name}"]
    pictures = [tmp_path / "full.png", tmp_path / "bare.png"]
    assert call(monkeypatch, words(world, *asked, "model.average.decay=0.9", f"output={pictures[0]}")) == 0
    assert "brings its settings" not in caplog.text
    assert call(monkeypatch, bare(world, *asked, f"output={pictures[1]}")) == 0
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    assert only_run(world)  # a picture that goes elsewhere leaves no folder of a run behind
    (told,) = [line for line in caplog.messages if "brings its settings" in line]
    assert {"data.image_size=32", "model.phi.dim=12", "model.average.decay=0.9"} <= set(told.split())


def test_what_the_command_says_against_its_file_is_refused(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["task=evaluate", f"checkpoint={only_run(world) / 'simgan_cub.pt'}", "model.generator.ngf=8"]
    assert call(monkeypatch, bare(world, *asked)) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert "simgan_cub.pt" in said
    assert "add model.generator.ngf=4 to the command" in said


def test_settings_that_build_nothing_are_a_sentence(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    content = torch.load(only_run(world) / "simgan_cub.pt", weights_only=True)
    for name, value in {"ngf": "wide", "n_res": -1.5, "ca_dim": [1]}.items():
        path = tmp_path / f"{name}.pt"
        torch.save(content | {"config": content["config"] | {"generator": {name: value}}}, path)
        assert call(monkeypatch, bare(world, "task=evaluate", f"checkpoint={path}")) == 2
        said = capsys.readouterr().err
        assert str(path) in said
        assert "Traceback" not in said


def test_a_figure_of_discriminators_takes_the_runs_own_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ["task=figure", "model=ggb", "preset=toy", f"paths.runs={tmp_path}"]
    asked: list[str | None] = []

    def restored(cfg: dict[str, Any]) -> None:
        asked.append(cfg["checkpoint"])
        raise UserError("enough.")

    monkeypatch.setattr("common.tasks.fit.trained", restored)

    def told(*more: str) -> str:
        return refusal(lambda: tasks.run(plain(composed(*line, *more), [*line, *more])))

    for more in (["figure=critics"], ["figure=grid"], ["figure=critics", f"checkpoint={tmp_path}/e0001.ckpt"]):
        assert told(*more) == "enough."
    last, none, named = asked
    assert Path(str(last)).match(f"{tmp_path}/ggb-deepfashion/toy-procedural-s0-*/checkpoints/last.ckpt")
    assert (none, named) == (None, f"{tmp_path}/e0001.ckpt")
    said = told("figure=critics", "checkpoint=ggb_deepfashion.pt")
    assert "figure=critics" in said
    assert "checkpoint=FILE.ckpt" in said


# ---- places that cannot be used; for root no folder is read-only, so a file stands in place of one, or the reverse


def instead_of(path: Path) -> None:
    """A file in place of a folder, a folder in place of a file."""
    if path.is_dir():
        shutil.rmtree(path)
        path.touch()
    else:
        path.unlink(missing_ok=True)
        path.mkdir()


FURTHER = ["trainer.max_epochs=2", "evaluate=false"]
SCORE = ["task=evaluate"]
OBSTACLES = {
    "runs": ("runs", ["name=new"]),
    "artifacts": ("artifacts", ["name=new"]),
    "results": ("runs/results.jsonl", SCORE),
    "lock of results": ("runs/results.jsonl.lock", SCORE),
    "status": ("RUN/status.json", FURTHER),
    "metrics": ("RUN/metrics.csv", FURTHER),
    "log": ("RUN/log.txt", FURTHER),
    "settings": ("RUN/config.yaml", FURTHER),
    "samples": ("RUN/samples", FURTHER),
    "last": ("RUN/checkpoints/last.ckpt", FURTHER),
    "numbers": ("RUN/eval", SCORE),
    "output": ("out", ["task=sample", "image=PHOTO", "text=a red bird", "output=out/a.png"]),
    "exported": ("out", ["task=export", "output=out/a.pt"]),
    "report": ("out", ["task=report", "output=out/deeper"]),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_a_place_that_cannot_be_used_is_a_sentence(
    name: str,
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    place, more = OBSTACLES[name]
    for folder in ("runs", "artifacts"):
        shutil.copytree(world / folder, tmp_path / folder)
    (tmp_path / "out").mkdir()
    if more == ["task=report", "output=out/deeper"]:
        told = {"row": "a", "data": "cub", "data_source": "real", "images_found": "1 of 1", "seed": 0}
        (tmp_path / "runs/results.jsonl").write_text(json.dumps(told | {"numbers": {"diff": 1.0}, "protocol": {}}))
    path = tmp_path / place.replace("RUN", str(only_run(tmp_path).relative_to(tmp_path)))
    instead_of(path)
    photo = str(next((world / "data").rglob("*.jpg")))
    asked = [word.replace("PHOTO", photo).replace("output=", f"output={tmp_path}/") for word in more]
    moved = [f"paths.{folder}={tmp_path / folder}" for folder in ("runs", "artifacts")]
    assert call(monkeypatch, words(world, "model.average.decay=0.9", *moved, *asked)) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert str(path).removesuffix(".lock") in said[0]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO])
def test_what_the_system_refuses_is_a_sentence(
    number: int, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(cfg: dict[str, Any]) -> None:
        raise OSError(number, os.strerror(number), "/share/data/images.txt")

    monkeypatch.setattr("common.tasks.fit.load_data", refused)
    assert call(monkeypatch, words(world, "name=new")) == 2
    (said,) = capsys.readouterr().err.splitlines()
    for part in ("/share/data/images.txt", os.strerror(number), "paths.data=FOLDER"):
        assert part in said


def test_a_bug_keeps_its_traceback(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(cfg: dict[str, Any]) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "a file of ours")

    monkeypatch.setattr("common.tasks.fit.load_data", absent)
    with pytest.raises(FileNotFoundError, match="a file of ours"):
        call(monkeypatch, words(world, "name=new"))
