"""A run that goes on is the run that was never stopped, bit for bit on the CPU: also after kill -9 or Ctrl-C."""

import csv
import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from common.tasks.callbacks import SeedEachBatch
from tests.worlds.tiny import call, make_world, start, words

LONG = ("trainer.max_epochs=12", "trainer.grid_every=1000", "evaluate=false")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As the processes that `start` begins: sums over another number of threads differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    return root


@pytest.fixture(scope="module")
def long(world: Path) -> Path:
    """The folder of 12 epochs without a stop."""
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, words(world, *LONG, "name=straight")) == 0
    return named(world, "straight")


def named(root: Path, name: str, model: str = "simgan") -> Path:
    (folder,) = (root / "runs" / f"{model}-cub").glob(f"{name}-s0-*")
    return folder


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a checkpoint: weights, averages, both optimisers' moments and steps."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors(child, f"{name}/{key}")


def same(a: Path, b: Path) -> None:
    """The last checkpoints and metrics.csv of two run folders are equal."""
    contents = [torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (a, b)]
    one, other = (dict(tensors(content)) for content in contents)
    assert one.keys() == other.keys()
    assert len([name for name in one if name.startswith("/optimizer_states/1")]) > 10
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert contents[0]["lr_schedulers"] == contents[1]["lr_schedulers"]
    assert contents[0]["suite"] == contents[1]["suite"]
    assert (a / "metrics.csv").read_text() == (b / "metrics.csv").read_text()


def test_one_epoch_and_another_are_two(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the generator's average, an update over two batches of which the last is alone, and halved rates."""
    extra = [
        "model.average.decay=0.9",
        "model.accumulate=2",
        "trainer.limit_train_batches=3",
        "model.optimizer.halve_every=1",
    ]
    extra.append("evaluate=false")
    assert call(monkeypatch, words(world, *extra, "trainer.max_epochs=2", "name=two")) == 0
    for epochs in (1, 2):
        assert call(monkeypatch, words(world, *extra, f"trainer.max_epochs={epochs}", "name=one")) == 0
    same(named(world, "two"), named(world, "one"))
    with (named(world, "one") / "metrics.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == list("012345")


def test_a_run_without_a_checkpoint_starts_over(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in its first epoch: rows are there, weights are not; the last row was cut in the middle."""
    command = words(world, "evaluate=false", "name=first")
    assert call(monkeypatch, command) == 0
    folder = named(world, "first")
    kept = shutil.copytree(folder, folder.with_name("kept"))
    shutil.rmtree(folder / "checkpoints")
    with (folder / "metrics.csv").open("a") as file:
        file.write("1,16")
    assert call(monkeypatch, command) == 0
    same(folder, kept)


def test_a_longer_run_goes_on_from_a_named_checkpoint(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, words(world, "evaluate=false", "name=source", "trainer.max_epochs=2")) == 0
    assert call(monkeypatch, words(world, "evaluate=false", "name=short")) == 0
    last = named(world, "short") / "checkpoints" / "last.ckpt"
    more = ("evaluate=false", "name=branch", "trainer.max_epochs=2", f"resume={last}")
    assert call(monkeypatch, words(world, *more)) == 0
    a, b = (named(world, name) / "checkpoints" / "last.ckpt" for name in ("source", "branch"))
    one, other = (torch.load(path, weights_only=True)["state_dict"] for path in (a, b))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_networks_needed_first_go_on_too(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a checkpoint of a run of the same length, which the classifier's learning rate follows."""
    small = ["data.image_size=64", "data.batch_size=8", "trainer.max_epochs=2", "trainer.keep_every=1"]
    recipes = {"classifier": [*small, "model.arch=alexnet_tiny", "model.image_size=64"]}
    recipes["vse"] = [*small, "model.text.word_dim=8", "model.dim=8", "model.views=2"]
    own = [word for word in words(world) if not word.startswith("model")]
    for model, recipe in recipes.items():
        command = [*own, f"model={model}", *recipe]
        if model == "vse":
            command.append(f"model.image_encoder={named(world, 'two', 'classifier') / 'classifier_cub.pt'}")
        assert call(monkeypatch, [*command, "name=two"]) == 0
        places = named(world, "two", model) / "checkpoints"
        first = next(path for path in places.iterdir() if path.name != "last.ckpt" and epoch(path) == 0)
        assert call(monkeypatch, [*command, "name=one", f"resume={first}"]) == 0
        paths = [named(world, name, model) / "checkpoints" / "last.ckpt" for name in ("two", "one")]
        one, other = (dict(tensors(torch.load(path, weights_only=True))) for path in paths)
        assert one.keys() == other.keys()
        assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_the_newest_weights_of_a_run_that_was_stopped_are_scored(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch with its export, then stopped in the third of three: those of the second are newer than the export."""
    short = [*words(world, "name=newest", "trainer.checkpoint_every=1"), "trainer.grid_every=1000"]
    assert call(monkeypatch, [*short, "evaluate=false"]) == 0
    begin = SeedEachBatch.on_train_batch_start

    def stop(self: SeedEachBatch, trainer: pl.Trainer, *rest: Any) -> None:
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt
        begin(self, trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(SeedEachBatch, "on_train_batch_start", stop)
        assert call(patch, [*short, "evaluate=false", "trainer.max_epochs=3"]) == 130
    folder = named(world, "newest")
    export, last = folder / "simgan_cub.pt", folder / "checkpoints" / "last.ckpt"
    assert export.is_file()
    assert json.loads((folder / "status.json").read_text())["state"] == "interrupted"
    for given in ([], [f"checkpoint={last}"], [f"checkpoint={export}"]):
        assert call(monkeypatch, [*short, "task=evaluate", *given]) == 0
    lines = [json.loads(line) for line in (world / "runs" / "results.jsonl").read_text().splitlines()]
    scored, newest, oldest = [line for line in lines if line["run"] == str(folder)]
    assert (scored["weights"], scored["epochs"], scored["images"]) == (str(last), 2, 32)
    assert (oldest["weights"], oldest["epochs"], oldest["images"]) == (str(export), 1, 16)
    assert scored["numbers"] == newest["numbers"] != oldest["numbers"]


COUNTED = {  # settings of a network that others need: small, and without files of others
    "classifier": "model.arch=alexnet_tiny model.image_size=64",
    "vse": "model.image_encoder=colours model.text.word_dim=8 model.dim=8 model.views=2",
    "damsm": "model.inputs=text model.trunk=conv model.image_size=64 model.text.word_dim=8 model.code_dim=16",
    "is_network": "model.arch=alexnet_tiny model.image_size=64",
}


@pytest.mark.parametrize("model", COUNTED)
def test_every_model_counts_the_images_that_it_was_shown(
    world: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    own = [word for word in words(world) if not word.startswith("model")]
    small = ["data.image_size=64", "data.batch_size=4", "trainer.max_epochs=2", "name=counted", f"model={model}"]
    assert call(monkeypatch, [*own, *small, *COUNTED[model].split()]) == 0
    with (named(world, "counted", model) / "metrics.csv").open(newline="") as file:
        images = [float(row["progress/images"]) for row in csv.DictReader(file) if row["progress/images"]]
    content = torch.load(named(world, "counted", model) / "checkpoints" / "last.ckpt", weights_only=True)
    assert images == [content["suite"]["images_seen"] / 2, content["suite"]["images_seen"]]
    assert images[0] > 0


def epoch(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["epoch"])


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ["evaluate=false", "name=nan", "model.optimizer.lr=0.3"]
    assert call(monkeypatch, words(world, *extra)) == 0
    folder = named(world, "nan")
    last = folder / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    content["state_dict"][first_weight(content)].fill_(torch.inf)
    torch.save(content, last)
    spoilt = last.read_bytes()
    assert call(monkeypatch, words(world, *extra, "trainer.max_epochs=3")) == 2
    assert "NaN or infinite" in capsys.readouterr().err
    assert last.read_bytes() == spoilt
    assert json.loads((folder / "status.json").read_text())["state"] == "failed"


def first_weight(content: dict[str, Any]) -> str:
    return next(name for name in content["state_dict"] if name.startswith("generator") and name.endswith("weight"))


def stopped(root: Path, name: str, sign: int) -> tuple[int, str]:
    """Starts 12 epochs, sends a signal once three are done. -> exit code, what it said"""
    process = start(
        words(root, *LONG, f"name={name}"), preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    )
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        told = list((root / "runs" / "simgan-cub").glob(f"{name}-s0-*/status.json"))
        if told and json.loads(told[0].read_text()).get("epochs", 0) >= 3:
            break
        time.sleep(0.01)
    process.send_signal(sign)
    _, said = process.communicate(timeout=60)
    status = json.loads((named(root, name) / "status.json").read_text())
    assert 3 <= status["epochs"] < 12
    return process.returncode, said


def test_kill_9_loses_nothing(world: Path, long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _ = stopped(world, "killed", signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert json.loads((named(world, "killed") / "status.json").read_text())["state"] == "running"
    assert call(monkeypatch, words(world, *LONG, "name=killed")) == 0
    same(long, named(world, "killed"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sign", "code"), [("interrupted", signal.SIGINT, 130), ("ended", signal.SIGTERM, 143)]
)
def test_a_stop_that_is_asked_for(
    name: str, sign: int, code: int, world: Path, long: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, said = stopped(world, name, sign)
    assert found == code
    assert "Traceback" not in said
    assert json.loads((named(world, name) / "status.json").read_text())["state"] == "interrupted"
    if sign == signal.SIGINT:
        assert "the same command goes on from the last checkpoint" in said
    assert call(monkeypatch, words(world, *LONG, f"name={name}")) == 0
    same(long, named(world, name))
