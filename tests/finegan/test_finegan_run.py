"""FineGAN by its command: it resumes bit for bit, is scored, drawn and exported; what cannot be is refused."""

import json
from pathlib import Path

import pytest
import torch

from tests.worlds.layouts import make_cub
from tests.worlds.tiny import HOME, call, start

SIZES = (
    "model.generator.ngf=4 model.discriminator.ndf=4 model.code_dim=16 model.generator.z_dim=8 "
    "model.generator.c_dim=8 model.grad_norm_every=0 model.optimizer.fused=false"
)
LENGTHS = "data.image_size=32 data.batch_size=4 trainer.max_epochs=1 trainer.log_every_n_steps=1 trainer.grid_every=1"
REST = (
    "data=cub data.allow_missing=true trainer=cpu trainer.precision=32-true logger=csv metrics=none "
    "model.damsm={root}/damsm.pt"
)
ENCODERS = (
    "model=damsm model.trunk=conv model.image_size=32 model.text.word_dim=8 model.code_dim=16 model.text.tokens=null "
    "data.image_size=32 data.batch_size=4 data.load_ratio=1.1875 trainer.max_epochs=1 data=cub data.allow_missing=true "
    "trainer=cpu trainer.precision=32-true logger=csv"
)


def places(root: Path) -> list[str]:
    return [f"paths.{name}={root / name}" for name in ("data", "runs", "artifacts")]


def words(root: Path, *more: str, model: str = "finegan", inputs: str = "raw") -> list[str]:
    """The command line of a tiny run on the world in root, which writes only under root."""
    fixed = f"{SIZES} {LENGTHS} {REST.format(root=root)} model={model} model.inputs={inputs}".split()
    return [*fixed, *places(root), *more]


def only_run(root: Path, pair: str) -> Path:
    (folder,) = (root / "runs" / pair).iterdir()
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of eight of the 200 classes with masks, 312 attributes and captions, and encoders of raw attributes."""
    root = tmp_path_factory.mktemp("world")
    make_cub(root / "data", classes=200, images=4, photos=8, masks=True, attributes=312, procedural=False)
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, [*ENCODERS.split(), "model.inputs=raw", *places(root)]) == 0
    next((root / "runs" / "damsm-cub").iterdir()).joinpath("damsm_cub.pt").rename(root / "damsm.pt")
    return root


@pytest.fixture
def root(world: Path, tmp_path: Path) -> Path:
    """The world, with runs and artifacts of its own."""
    for name in ("data", "damsm.pt"):
        (tmp_path / name).symlink_to(world / name)
    return tmp_path


def test_a_run_is_trained_drawn_exported_and_goes_on(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, words(root, "evaluate=false")) == 0
    folder = only_run(root, "finegan-cub")
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    assert {path.name for path in (folder / "samples").glob("*.png")} == {"e0000.png", "e0001.png"}
    picture, named = root / "one.png", ["has_part_1::red", "part 3: red"]
    drawn = ["task=sample", f"text={named}", "n=2", f"output={picture}"]
    assert call(monkeypatch, words(root, *drawn)) == 0
    assert picture.is_file()
    assert call(monkeypatch, words(root, "task=sample", "text=part 999: red")) == 2
    assert "has_part_99::red" in capsys.readouterr().err  # the nearest
    assert call(monkeypatch, words(root, "task=figure", "figure=stages", "n=1", f"output={root / 'two.png'}")) == 0
    assert call(monkeypatch, words(root, "task=export", f"output={root / 'whole.pt'}")) == 0
    assert torch.load(root / "whole.pt", weights_only=True)["kind"] == "finegan"

    assert call(monkeypatch, words(root, "evaluate=false", "trainer.max_epochs=2")) == 0  # the same folder, one more
    straight = [*words(root, "evaluate=false", "trainer.max_epochs=2"), f"paths.runs={root / 'straight'}"]
    assert call(monkeypatch, straight) == 0
    resumed, at_once = (
        torch.load(next((root / runs / "finegan-cub").iterdir()) / "checkpoints" / "last.ckpt", weights_only=True)
        for runs in ("runs", "straight")
    )
    assert resumed["state_dict"].keys() == at_once["state_dict"].keys()
    assert not any(key.startswith(("text_encoder", "image_encoder")) for key in resumed["state_dict"])
    for name, value in resumed["state_dict"].items():
        assert torch.equal(value, at_once["state_dict"][name]), name
    moments = [state["optimizer_states"][1]["state"][0]["exp_avg"] for state in (resumed, at_once)]
    assert torch.equal(*moments)


def test_a_run_is_scored_with_masks_of_its_own_and_of_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, words(root, "metrics.shuffled_masks=4")) == 0
    line = json.loads((root / "runs" / "results.jsonl").read_text().splitlines()[-1])
    assert line["row"] == "finegan"
    assert line["numbers"]["r_precision"] is not None
    assert 0 <= line["numbers"]["mask_leakage_inside"] <= 1
    assert line["protocol"]["plan"] == "passes"
    assert (
        line["protocol"]["n_pairs"] == int(line["images_found"].split()[0]) - 4 * 4
    )  # classes 1, 4, 6, 8 are for testing


REFUSED = {
    "no attributes": (["data=oxford102"], "model=finegan needs attributes"),
    "encoders of other input": (["model.inputs=class"], "were trained with model.inputs=raw, not class"),
    "another width": (["model.code_dim=8"], "set model.code_dim"),
    "a layout nobody has": (["task=export", "layout=biggan"], "There are suite, attngan"),
    "no such level": (["model.generator.mask_levels=[5]"], "model.generator.mask_levels"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str) -> None:
    more, sentence = REFUSED[case]
    capsys.readouterr()
    assert call(monkeypatch, words(root, *more)) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: ")
    assert sentence in told


def test_masks_that_are_absent_are_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "some").mkdir()
    for name in ("CUB_200_2011", "attributes.txt"):
        (root / "some" / name).symlink_to(root / "data" / name)
    assert call(monkeypatch, words(root, "evaluate=false", f"paths.data={root / 'some'}")) == 2
    assert "segmentations" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_keep_equal_weights_though_each_stage_is_differentiated_alone(root: Path) -> None:
    """On the CPU, trainer=ddp: several backward passes in a step must not leave a gradient of one process's own."""
    told: dict[str, list[dict]] = {}
    for name, more in (("alone", []), ("both", ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"])):
        out = root / name
        out.mkdir()
        command = words(root, "evaluate=false", "trainer.max_epochs=2", f"paths.runs={out / 'runs'}", *more)
        process = start(command, script=HOME / "tests" / "worlds" / "ranks.py", env={"RANKS": str(out)})
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
        told[name] = [json.loads(path.read_text()) for path in sorted(out.glob("rank*.json"))]
    (alone,), (first, second) = told["alone"], told["both"]
    for whole, a, b in zip(alone["seen"], first["seen"], second["seen"], strict=True):
        assert a["row"] + b["row"] == whole["row"]
    assert first["hashes"] == second["hashes"]
    assert {name.partition(".")[0] for name in first["hashes"]} >= {"generator", "discriminator", "discriminator_fg"}
    assert first["hashes"] != alone["hashes"]
