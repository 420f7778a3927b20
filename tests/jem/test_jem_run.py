"""JEM from flowers without weights or network to its numbers, and on after a stop: papers/jem.md, 24 and 25."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jem.model import JEM
from tests.worlds.layouts import make_oxford102
from tests.worlds.tiny import call

PLAIN = (
    "data=oxford102 trainer=cpu trainer.precision=32-true logger=csv metrics=none seed=0 trainer.log_every_n_steps=1"
)
SMALL = (
    "data.image_size=32 data.batch_size=4 model.sentence.dims=uni model.sentence.dim=16 model.generator.ngf=4 "
    "model.generator.z_dim=4 model.generator.text_width=8 model.discriminator.ndf=4 model.discriminator.text_width=8"
)
GUIDE = (
    "model.generator.guide_width=8 model.generator.grid=2 model.guide.extractor=random_alexnet "
    "model.guide.variant=_tiny"
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root/data: flowers of six classes, four for training, in the real layout with masks; root/text.pt: an encoder."""
    root = tmp_path_factory.mktemp("jem")
    make_oxford102(root / "data", labels=(1, 2, 3, 4, 5, 6) * 3, masks=True)
    with pytest.MonkeyPatch.context() as patch:
        recipe = "model.dims=uni model.word_dim=8 model.dim=16 model.updates=2 data.batch_size=4 trainer.max_epochs=1"
        assert call(patch, words(root, "model=skipthought", recipe, name="text")) == 0
    (made,) = (root / "runs" / "skipthought-oxford102").glob("text*/*.pt")
    made.rename(root / "text.pt")
    return root


def words(root: Path, *more: str, name: str = "") -> list[str]:
    places = [f"paths.{place}={root / place}" for place in ("data", "runs", "artifacts")]
    given = [word for line in (PLAIN, *more) for word in line.split()]
    return [*given, *places, *([f"name={name}"] if name else [])]


def jem(root: Path, *more: str, model: str = "jem", name: str = "run") -> list[str]:
    guide = GUIDE if model.startswith("jem") else ""
    sizes = f"model={model} model.text={root / 'text.pt'} {SMALL} {guide} data.allow_missing=true"
    return words(root, sizes, "trainer.max_epochs=1 trainer.grid_every=1", *more, name=name)


def folder(root: Path, name: str, model: str = "jem") -> Path:
    (found,) = (root / "runs" / f"{model}-oxford102").glob(f"{name}-*")
    return found


def test_from_a_bare_tree_to_numbers_and_pictures(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Number 25: no weights, no network; the guides are made on the way, the numbers of guides are there."""
    assert call(monkeypatch, jem(world, name="bare")) == 0
    (line,) = [json.loads(one) for one in (folder(world, "bare") / "eval").glob("*.json") for one in [one.read_text()]]
    assert {"flip_gain", "text_change", "guide_change"} <= line["numbers"].keys()
    assert list((world / "artifacts").glob("guidance-oxford102-*.pt"))
    assert (folder(world, "bare") / "samples" / "e0001.png").is_file()


def test_two_epochs_are_one_and_one_more(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Number 24: bit-equal, noise and v-bar too."""
    more = ("evaluate=false", "trainer.keep_every=1")
    assert call(monkeypatch, jem(world, *more, "trainer.max_epochs=2", model="jem_plus", name="two")) == 0
    assert call(monkeypatch, jem(world, *more, model="jem_plus", name="short")) == 0
    last = folder(world, "short", "jem_plus") / "checkpoints" / "last.ckpt"
    longer = (*more, "trainer.max_epochs=2", f"resume={last}")
    assert call(monkeypatch, jem(world, *longer, model="jem_plus", name="on")) == 0
    paths = [folder(world, name, "jem_plus") / "checkpoints" / "last.ckpt" for name in ("two", "on")]
    one, other = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("model", ["jem", "gan_cls"])
def test_a_sentence_is_drawn_from_the_exported_file(
    world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str
) -> None:
    """A user's sentence and, of JEM, a user's photo with a mask and a test image, without the run."""
    assert call(monkeypatch, jem(world, "evaluate=false", model=model, name="serve")) == 0
    export = folder(world, "serve", model) / f"{model}_oxford102.pt"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)).save(tmp_path / "p.png")
    Image.fromarray(np.pad(np.ones((20, 30), np.uint8), 15)).save(tmp_path / "m.png")
    guides = f"image=[{tmp_path / 'p.png'}::{tmp_path / 'm.png'},image_00002]" if model == "jem" else ""
    asked = [*jem(world, f"task=sample checkpoint={export} n=2", guides, model=model), "text=a red crown"]
    assert call(monkeypatch, [*asked, f"output={tmp_path / 'out.png'}"]) == 0
    told: dict[str, Any] = json.loads((tmp_path / "out.json").read_text())
    assert len(told["rows"]) == (2 if model == "jem" else 1)
    assert (tmp_path / "out-1-2.png").is_file()


@pytest.mark.parametrize("figure", ["segmentation", "compare", "follow", "guided", "diversity", "flips", "interp"])
def test_each_figure_is_drawn(world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, figure: str) -> None:
    if not (world / "runs" / "jem-oxford102").exists():
        assert call(monkeypatch, jem(world, "evaluate=false", name="drawn")) == 0
    export = next((world / "runs" / "jem-oxford102").glob("*/jem_oxford102.pt"))
    other = f"pictures.other={export}" if figure == "compare" else ""  # whose guides are found where it found them
    asked = jem(
        world, f"task=figure figure={figure} checkpoint={export} n=2 steps=3 {other} output={tmp_path / 'f.png'}"
    )
    assert call(monkeypatch, asked) == 0
    assert Image.open(tmp_path / "f.png").size[0] > 32


def test_other_models_are_compared_by_the_same_masks(
    world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not (world / "runs" / "jem-oxford102").exists():
        assert call(monkeypatch, jem(world, "evaluate=false", name="drawn")) == 0
    export = next((world / "runs" / "jem-oxford102").glob("*/jem_oxford102.pt"))
    Image.fromarray(np.zeros((50, 70, 3), np.uint8)).save(tmp_path / "p.png")
    Image.fromarray(np.pad(np.ones((20, 40), np.uint8), 15)).save(tmp_path / "m.png")
    named = f"{tmp_path / 'p.png'}::{tmp_path / 'm.png'}"
    read, asked = JEM.read_photos, []
    monkeypatch.setattr(
        JEM, "read_photos", lambda self, words, data: asked.append(list(words)) or read(self, words, data)
    )
    line = jem(world, f"task=figure figure=compare checkpoint={export} pictures.other={export}", f"images=[{named}]")
    assert call(monkeypatch, [*line, "texts=[a red crown]", f"output={tmp_path / 'f.png'}"]) == 0
    assert asked == [[named]] * 2  # by this model and by the other


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("model.sentence.dim=12", ["model.sentence.dim=16"]),
        ("model.text=/nowhere.pt", ["/nowhere.pt"]),
        ("model.generator.grid=3", ["model.generator.grid=3"]),
        ("model.guide.view=sketch", ["view", "overlay"]),
        ("data.captions=none", ["captions"]),
    ],
)
def test_what_a_user_can_get_wrong_is_one_sentence(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: str, said: list[str]
) -> None:
    """Exit code 2, and no run is begun."""
    assert call(monkeypatch, jem(world, "evaluate=false", more, name="wrong")) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in error for word in said), error
    assert not list((world / "runs" / "jem-oxford102").glob("wrong*"))


@pytest.mark.parametrize(
    ("labels", "more", "said"),
    [
        ((1, 2, 3, 4, 5, 6) * 3, "data.batch_size=3 model.step.interpolation=mean", ["data.batch_size even"]),
        ((1,) * 6 + (2, 5), "data.batch_size=2", ["one class", "second class"]),
    ],
)
def test_data_that_cannot_be_trained_on_is_one_sentence(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    labels: tuple[int, ...],
    more: str,
    said: list[str],
) -> None:
    """An odd batch with INT, and a data set of one training class."""
    make_oxford102(tmp_path / "data", labels=labels, masks=True)
    asked = jem(world, "evaluate=false", more, model="gan_cls", name="wrong")
    assert call(monkeypatch, [*asked, f"paths.data={tmp_path / 'data'}", f"paths.runs={tmp_path / 'runs'}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert all(word in error for word in said), error
    assert not (tmp_path / "runs").exists()


def test_the_curve_is_kept_and_drawn(world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The monitor looks at epoch 0 and at each epoch; its curve is in checkpoint, export, numbers and picture."""
    judge = world / "judge.pt"
    if not judge.exists():
        recipe = (
            "model.arch=resnet18_tiny model.image_size=32 data.image_size=32 data.batch_size=4 trainer.max_epochs=1"
        )
        assert call(monkeypatch, words(world, "model=classifier data.allow_missing=true", recipe, name="judge")) == 0
        next((world / "runs" / "classifier-oxford102").glob("judge*/*.pt")).rename(judge)
    watched = f"model.judge={judge} model.monitor.every=1 model.monitor.images=6 trainer.max_epochs=2"
    assert call(monkeypatch, jem(world, watched, name="curve")) == 0
    run = folder(world, "curve")
    curve = torch.load(run / "jem_oxford102.pt", weights_only=True)["curve"]
    assert [point["epoch"] for point in curve] == [0, 1, 2]
    assert all(point["fid_train"] > 0 and point["fid_test"] > 0 for point in curve)
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["suite"]["curve"] == curve
    (line,) = [json.loads(path.read_text()) for path in (run / "eval").glob("*.json")]
    assert line["numbers"]["final_level_train"] > 0
    assert line["numbers"]["convergence_epoch_train"] is None  # two looks are no curve
    asked = jem(world, f"task=figure figure=curve checkpoint={run / 'jem_oxford102.pt'} output={tmp_path / 'c.png'}")
    assert call(monkeypatch, asked) == 0
    assert Image.open(tmp_path / "c.png").size[0] > 300
    level = json.loads((tmp_path / "c.json").read_text())["common_level"]["train"]
    assert level["fid"] > 0
    assert level["JEM, train"] == 1  # the first look: with two looks the median is their mean
