"""The door: what it says, what it refuses, and one complete tiny run."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image

from common import command, loggers
from tests.worlds.tiny import call, make_world, only_run, start, words

HEAVY = {"torch", "torchvision", "pytorch_lightning", "wandb"}  # each a second or more to import
TERMS = ["d/real", "d/mismatch", "d/fake", "g/adversarial", "g/cycle", "g/conditioning"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data set with one run on it, one epoch long."""
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, words(root)) == 0
    return root


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, no login and no wish about W&B, whatever this machine has."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "DATA_ROOT"):
        monkeypatch.delenv(name, raising=False)


def state(root: Path) -> dict[str, tuple[int, int]]:
    """Every file under root with its size and time of change; not Hydra's note of the last sweep."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "multirun.yaml")
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def imports_of(command: list[str], cwd: Path) -> tuple[int, str, list[str], set[str]]:
    """Exit code, standard output, lines of standard error and imported modules of a command in its own process."""
    process = start(command, interpreter=["-X", "importtime"], cwd=cwd)
    out, said = process.communicate(timeout=120)
    imports = [line for line in said.splitlines() if line.startswith("import time:")]
    rest = [line for line in said.splitlines() if line not in imports]
    return process.returncode, out, rest, {line.rpartition("|")[2].strip() for line in imports}


# ---- help and describe


def test_models_of_people_come_with_deepfashion() -> None:
    plain = {model: command.composed(f"model={model}").chosen["data"] for model in ("simgan", "ggb", "unet", "pg2")}
    assert plain == {"simgan": "cub", "ggb": "deepfashion", "unet": "deepfashion", "pg2": "deepfashion"}
    asked = command.composed("data=folder", "data.root=x", "model=ggb", "preset=toy")
    assert asked.chosen["data"] == "folder"
    assert (
        command.composed("model=ggb", "preset=toy").cfg
        == command.composed("model=ggb", "data=deepfashion", "preset=toy").cfg
    )


def test_a_needed_network_sees_the_data_of_its_asker() -> None:
    """The same files, split and photos, but its own size and recipe."""
    asked = ["model=ggb", "data=deepfashion", "data.split=inshop", "data.highres=squeeze", "data.image_size=128"]
    cfg = command.composed_need({"model": "classifier"}, asked)
    own = command.composed("model=classifier", "data=deepfashion").cfg.data.image_size
    data = cfg["data"]
    assert (data["split"], data["highres"], data["image_size"]) == ("inshop", "squeeze", own)
    assert (cfg["chosen"]["model"], cfg["chosen"]["data"]) == ("classifier", "deepfashion")


def test_help_needs_no_torch_and_names_papers_and_groups(tmp_path: Path) -> None:
    code, said, _, modules = imports_of(["--help"], tmp_path)
    assert code == 0
    assert "hydra" in modules
    assert not HEAVY & modules
    assert "Yu et al., ICIP 2019" in said
    for group, choice in (("model", "simgan"), ("data", "oxford102"), ("preset", "toy"), ("trainer", "ddp")):
        (line,) = (line for line in said.splitlines() if line.removeprefix("Groups: ").split()[:1] == [group])
        assert choice in line


def test_describe_counts_the_papers_networks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    nowhere = [f"paths.{name}={tmp_path / name}" for name in ("data", "runs", "artifacts")]
    assert call(monkeypatch, ["task=describe", "model=simgan", "format=json", *nowhere]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["networks"]["generator"]["parameters"] == 21_168_195
    assert facts["networks"]["discriminator"]["parameters"] == 11_523_521
    assert facts["training"]["steps_per_epoch"] == 8855 // 16
    assert {term["term"].replace(".", "/") for term in facts["losses"] if term["weight"]} == set(TERMS)
    assert facts["needs"] == {"text_encoder": "vse"}
    assert list(tmp_path.iterdir()) == []


# ---- a complete run


def test_a_run_leaves_everything_behind(world: Path) -> None:
    folder = only_run(world)
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["batch_size"] == 4
    assert json.loads((folder / "env.json").read_text())["versions"]["torch"] == torch.__version__.partition("+")[0]
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["epochs"], status["max_epochs"]) == ("done", 1, 1)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert [float(row["progress/images"]) for row in rows] == [4, 8, 12, 16]
    assert all(float(row[f"train/{term}"]) > 0 for row in rows for term in [*TERMS[2:], "loss_g", "loss_d"])
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["suite"]["images_seen"] == 16
    assert not [key for key in content["state_dict"] if key.startswith("text_encoder")]
    for epoch in (0, 1):
        picture = Image.open(folder / "samples" / f"e{epoch:04d}.png")
        facts = json.loads((folder / "samples" / f"e{epoch:04d}.json").read_text())
        assert facts["epoch"] == epoch
        assert len(facts["images"]) == 8
        assert picture.width > 128 * len(facts["columns"])
    assert (folder / "log.txt").is_file()


def test_a_run_leaves_a_line_with_protocol_and_commit(world: Path) -> None:
    (line,) = (world / "runs" / "results.jsonl").read_text().splitlines()
    result = json.loads(line)
    (file,) = (only_run(world) / "eval").iterdir()
    assert json.loads(file.read_text()) == result
    assert result["commit"].rstrip("+") == json.loads((only_run(world) / "env.json").read_text())["commit"].rstrip("+")
    assert result["images_found"] == "32 of 11788"
    assert result["data_source"] == "real"
    assert result["protocol"]["n_pairs"] == 16
    assert result["protocol"]["image_size"] == 32
    assert 0 < result["numbers"]["diff"] < 1
    assert result["numbers"]["r_precision"] is None  # metrics=none: no judge
    assert result["cost"]["seconds"] > 0


def test_the_end_of_a_run_says_what_there_is(
    world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The paper's own numbers first, which way they are better, why others are absent, and no folder that is empty."""
    own = words(world, f"paths.runs={tmp_path}", "name=end")
    assert call(monkeypatch, [*own, "evaluate=false"]) == 0
    folder = next(tmp_path.glob("simgan-cub/end-*"))
    places = {"pictures": folder / "samples", "numbers": folder / "eval", "run": folder}
    told = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert told == {what: str(place) for what, place in places.items() if what != "numbers"}
    assert call(monkeypatch, own) == 0
    lines = capsys.readouterr().out.splitlines()
    assert dict(line.split() for line in lines[-3:]) == {what: str(place) for what, place in places.items()}
    assert lines[0].split()[0] == "sharp_gap"
    assert lines[0].split()[2] in ("\u2193", "lower")
    (absent,) = [line for line in lines if "r_precision" in line]
    assert "not measured" in absent
    assert "no judge" in absent
    assert "None" not in "".join(lines)


def test_a_switch_of_before_is_refused_with_its_place(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, words(world, "metrics.judge=null")) == 2
    assert "needs_to_score.judge" in capsys.readouterr().err


def test_metrics_none_trains_no_network_to_score_with(world: Path) -> None:
    assert {path.name for path in (world / "runs").iterdir() if path.is_dir()} == {"simgan-cub"}
    assert not list((world / "artifacts").glob("*classifier*"))


def test_the_log_of_a_run(
    world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert (
        call(monkeypatch, words(world, "evaluate=false", "resume=auto", f"paths.runs={tmp_path}", "name=logged")) == 0
    )
    (log,) = tmp_path.rglob("log.txt")
    assert "32 of 11,788 images found" in caplog.text
    assert not list(tmp_path.rglob("eval/*"))
    assert (
        call(monkeypatch, words(world, "evaluate=false", "resume=auto", f"paths.runs={tmp_path}", "name=logged")) == 0
    )
    assert "going on from" in log.read_text()


def test_evaluate_and_sample_find_the_run_of_the_same_words(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, before = only_run(world), state(world / "runs")
    photo = next((world / "data").rglob("*.jpg"))
    text = "this bird has a red crown, it's no. 1: from (brown) wings"  # as a shell hands it over, unquoted for Hydra
    assert call(monkeypatch, words(world, "task=sample", f"image={photo}", f"text={text}", "n=2")) == 0
    picture = Path(capsys.readouterr().out.split()[-1])
    assert picture.parent == folder / "samples"
    assert text in picture.with_suffix(".json").read_text()
    assert call(monkeypatch, words(world, "task=evaluate", "trainer.max_epochs=7", "data.workers=1")) == 0
    assert only_run(world) == folder
    first, second = map(json.loads, (world / "runs" / "results.jsonl").read_text().splitlines())
    a, b = ({k: v for k, v in line["numbers"].items() if v is not None} for line in (first, second))
    assert a == pytest.approx(b, rel=1e-6)  # memory is laid out otherwise while training
    changed = {path for path, facts in state(world / "runs").items() if before.get(path) != facts}
    drawn = {path for path in changed if Path(path).name.startswith(picture.stem)}  # the sheet, its facts, each edit
    assert len(drawn) == 4
    (scored,) = (folder / "eval").iterdir()
    assert changed - drawn == {str(scored), str(world / "runs" / "results.jsonl")}
    (world / "runs" / "results.jsonl").write_text(json.dumps(first) + "\n")


def test_the_pairs_of_evaluate_are_read_from_a_file(
    world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (made,) = (world / "artifacts").glob("pairs_*.csv")
    few = tmp_path / "few.csv"
    few.write_text("".join(made.read_text().splitlines(keepends=True)[:4]))
    results = world / "runs" / "results.jsonl"
    kept = results.read_text()
    assert call(monkeypatch, words(world, "task=evaluate", f"pairs={few}")) == 0
    protocol = json.loads(results.read_text().splitlines()[-1])["protocol"]
    assert (protocol["pairs"], protocol["n_pairs"]) == ("few.csv", 3)
    results.write_text(kept)
    for file in (only_run(world) / "eval").iterdir():
        if json.loads(file.read_text())["protocol"]["n_pairs"] == 3:
            file.unlink()


# ---- loggers


def test_tensorboard_writes_its_file(world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    more = ("logger=tensorboard", "trainer.limit_train_batches=1", "evaluate=false", f"paths.runs={tmp_path}")
    assert call(monkeypatch, words(world, *more)) == 0
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    content = events.read_bytes()
    assert b"train/g/cycle" in content
    assert b"samples" in content
    assert list(tmp_path.rglob("metrics.csv"))


def test_wandb_without_a_key_stays_offline_and_goes_on_in_its_run(
    world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    more = ("logger=wandb", "trainer.limit_train_batches=1", "evaluate=false", f"paths.runs={tmp_path / 'runs'}")
    for epochs in (1, 2):
        assert call(monkeypatch, words(world, *more, f"trainer.max_epochs={epochs}")) == 0
    (kept,) = tmp_path.rglob("wandb_id.txt")
    runs = list(tmp_path.rglob("*.wandb"))
    assert [path.name for path in runs] == [f"run-{kept.read_text()}.wandb"] * len(runs)
    assert runs
    assert b"train/g/cycle" in b"".join(path.read_bytes() for path in runs)
    assert not list(tmp_path.glob("wandb"))  # only in the run folder


@pytest.mark.parametrize("key", [None, "", " "])
def test_wandb_is_left_alone_without_a_key(key: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
    cfg = {"logger": {"wandb": "auto", "tensorboard": False, "project": "p"}}
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would raise
    assert loggers.loggers_for(cfg, tmp_path) == []


def test_a_fault_of_wandb_is_one_warning_and_the_run_goes_on(
    world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A malformed key, as W&B refuses it, and a server that does not answer."""
    import wandb

    init = wandb.init
    asked: list[dict[str, Any]] = []

    def unreachable(**options: Any) -> Any:
        asked.append(options)
        if options.get("mode") != "offline":
            raise wandb.errors.CommError("Run initialization has timed out after 20.0 sec.\nSee the log.")
        return init(**options)

    monkeypatch.setattr(wandb, "init", unreachable)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    more = ("logger=auto", "trainer.limit_train_batches=1", "evaluate=false", f"paths.runs={tmp_path / 'runs'}")
    assert call(monkeypatch, words(world, *more)) == 0
    assert [options.get("mode") for options in asked] == [None, "offline"]
    assert not [options for options in asked if "anonymous" in options]  # W&B warns of it
    (told,) = [line for line in caplog.messages if "timed out" in line]
    assert "See the log" not in told
    assert list(tmp_path.rglob("*.wandb"))
    assert list(tmp_path.rglob("last.ckpt"))


# ---- refusals: exit code 2, one sentence, nothing touched

BAD = {
    "choice": (["data=cubb"], "data=cubb is not known: did you mean cub?"),
    "no choice": (["task=null"], "task=None is not known"),
    "key": (["trainer.max_epoch=3"], "did you mean trainer.max_epochs?"),
    "key, short": (["epochs=3"], "epochs is no setting of this command: did you mean trainer.max_epochs?"),
    "key, batch": (["batch_size=3"], "did you mean data.batch_size?"),
    "key, rate": (["lr=3"], "did you mean model.optimizer.lr?"),
    "key, size": (["size=3"], "did you mean data.image_size or data.batch_size"),
    "key of another task": (["figure=grid"], "figure is no setting of this command: choose task=figure for it"),
    "new key": (["+trainer.max_epoch=3"], "did you mean trainer.max_epochs?"),
    "new argument": (["+model.nfg=3"], "SIMGAN has no setting nfg"),
    "taken away": (["~model.generator.ngf"], "~model.generator.ngf takes away"),
    "syntax": (["name=[a"], "name=[a is not of the form KEY=VALUE"),
    "no value": (["resume"], "resume is not of the form KEY=VALUE"),
    "several": (["seed=0,1"], "add -m for a run of each"),
    "pair": (["data.provides=[images]"], "model=simgan needs captions and classes"),
    "pair, other models": (
        ["data=deepfashion"],
        "choose data=cub or folder or oxford102, or model=classifier or ggb or",
    ),
    "pair, a job": (
        ["task=prepare", "prepare=poses"],
        "prepare=poses needs poses, which data=cub does not have: choose",
    ),
    "mandatory": (["data=folder"], "data.root has no value: add data.root=..."),
    "word for number": (["data.batch_size=many"], "data.batch_size=many cannot be: it is a whole number"),
    "fraction": (["trainer.max_epochs=1.5"], "trainer.max_epochs=1.5 cannot be: it is a whole number"),
    "negative": (["data.workers=-1"], "data.workers=-1 cannot be: it is a whole number from 0 on"),
    "list for word": (["trainer.strategy=[a]"], "trainer.strategy=['a'] cannot be: it is a word"),
    "word for section": (["paths=here"], "paths=here cannot be: it is a section: give paths.data=VALUE"),
    "seed too large": (["seed=4294967296"], "seed=4294967296 cannot be: it is a whole number in [0, 4294967295]"),
    "no seed": (["seed=null"], "seed=null cannot be: it is a whole number"),
    "unknown interpolation": (["seed=${nope}"], "Interpolation key 'nope' not found"),
    "unknown interpolation, a folder": (["paths.runs=${nope}"], "Interpolation key 'nope' not found"),
    "unknown interpolation, a sweep": (["-m", "paths.runs=${nope}", "seed=0,1"], "Interpolation key 'nope' not found"),
    "no epochs": (["trainer.max_epochs=null"], "trainer.max_epochs=null cannot be: it is a whole number from 1 on"),
    "0 epochs": (["trainer.max_epochs=0"], "trainer.max_epochs=0 cannot be: it is a whole number from 1 on"),
    "limit": (["trainer.limit_train_batches=abc"], "it is null or a whole number from 1 on or a number in (0, 1]"),
    "devices": (["trainer=ddp", "trainer.devices=4096"], "trainer.devices=4096 and there are"),
    "target": (["model._target_=nope"], "_target_=nope is no class or function here"),
    "target, a part": (["model._target_=simgan.model.Nope"], "_target_=simgan.model.Nope is no class"),
    "ratio": (["data.load_ratio=0"], "data.load_ratio=0 cannot be: it is a number from 1 on"),
    "split": (["data.train_split=nope"], "data.train_split=nope is not known"),
    "name, up": (["name=../../x"], "name=../../x cannot be: it is one part of a path"),
    "name, absolute": (["name=/abs"], "name=/abs cannot be: it is one part of a path"),
    "name, from outside": (["name=${oc.env:HOME}"], "cannot be: it is one part of a path"),
    "name, long": ([f"name={'a' * 300}"], "cannot be: it is one part of a path, of 150 bytes at most"),
    "name, long in bytes": ([f"name={'é' * 100}"], "of 150 bytes at most"),
    "name, a list": (["name=[a]"], "cannot be: it is one part of a path"),
    "name, dots": (["name=.."], "name=.. cannot be"),
    "name, lines": (["name=a\nb"], "cannot be: it is one part of a path"),
    "no folder": (["paths.runs="], "paths.runs= is no folder: give one, such as paths.runs=runs"),
    "null folder": (["paths.artifacts=null"], "paths.artifacts=null is no folder"),
    "a number for a path": (["resume=3"], "resume=3 is no path"),
    "captions": (["data.captions=none"], "model=simgan needs captions: take data.captions=none away"),
    "no stand-in": (["data=folder", "data.root=x", "preset=toy"], "add data.source=real to read your own files"),
    "glob": (["-m", "table=glob(nothing_*)"], "table=glob(nothing_*) chooses nothing: there are finegan_t1_split"),
    "word for switch": (["data.flip=maybe"], "data.flip=maybe cannot be: it is true or false"),
    "source": (["data.source=nonsense"], "There are real, procedural"),
    "no data": (["paths.data=/nonexistent"], "no /nonexistent/CUB_200_2011"),
    "never": (["resume=never"], "holds a run already"),
    "resume": (["resume=/absent.ckpt"], "resume=/absent.ckpt is no file"),
    "score": (["task=evaluate", "checkpoint=/absent.ckpt"], "there is no checkpoint at /absent.ckpt"),
    "draw": (["task=sample", "image=a.jpg", "text=a bird", "checkpoint=/absent.ckpt"], "no checkpoint at /absent.ckpt"),
    "no run": (["task=evaluate", "seed=9"], "there is no run at"),
    "accelerator": (["trainer.accelerator=tpuu"], "There are auto, cpu, gpu, cuda"),
    "compile": (["trainer.compile=fast"], "There are auto, false, null, default"),
    "precision": (["trainer.precision=7"], "Precision 7 is invalid"),
    "size": (["data.image_size=33"], "33 is not"),
    "sweep on devices": (["-m", "trainer=ddp", "seed=0"], "a sweep on several devices"),
}


@pytest.mark.parametrize("name", BAD)
def test_refusals(name: str, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    more, sentence = BAD[name]
    before = state(world)
    assert call(monkeypatch, words(world, *more)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("error: ")
    assert sentence in said[0]
    assert state(world) == before


def test_a_run_is_trained_once_at_a_time(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = only_run(world) / ".lock"
    assert not lock.exists()  # gone with the run that held it
    with FileLock(lock):
        before = state(world)
        assert call(monkeypatch, words(world, "trainer.max_epochs=2")) == 2
        assert state(world) == before
    lock.unlink()
    assert "is being trained by another process" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(world)
    assert call(monkeypatch, words(world, "trainer=gpu")) == 2
    assert "no GPU is to be seen here: choose trainer=cpu" in capsys.readouterr().err
    assert state(world) == before


@pytest.fixture(scope="module")
def spoilt(world: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Checkpoints that are not of this run, and the words of their refusal."""
    folder = tmp_path_factory.mktemp("spoilt")
    content = torch.load(only_run(world) / "checkpoints" / "last.ckpt", weights_only=True)
    files = {name: folder / f"{name}.ckpt" for name in ("other", "wider", "cut", "text")}
    torch.save(content | {"suite": content["suite"] | {"model": "GGB"}}, files["other"])
    wide = {key: torch.cat([value, value]) if value.ndim else value for key, value in content["state_dict"].items()}
    settings = {"hyper_parameters": content["hyper_parameters"] | {"ngf": 8}}
    torch.save(content | {"state_dict": wide} | settings, files["wider"])
    files["cut"].write_bytes((only_run(world) / "checkpoints" / "last.ckpt").read_bytes()[:5000])
    files["text"].write_text("no checkpoint")
    said = ("is of GGB, not of SIMGAN", "other", "", "")
    return {name: (path, sentence) for (name, path), sentence in zip(files.items(), said, strict=True)}


@pytest.mark.parametrize("name", ["other", "wider", "cut", "text"])
@pytest.mark.parametrize("task", ["resume={}", "task=evaluate checkpoint={}"])
def test_checkpoints_of_another_kind(
    name: str,
    task: str,
    spoilt: dict[str, tuple[Path, str]],
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, sentence = spoilt[name]
    before = state(world)
    assert call(monkeypatch, words(world, *task.format(path).split())) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert sentence in said[0]
    assert state(world) == before


def test_a_checkpoint_of_a_longer_run(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    content = torch.load(only_run(world) / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save(content | {"epoch": 5}, tmp_path / "longer.ckpt")
    assert call(monkeypatch, words(world, f"resume={tmp_path / 'longer.ckpt'}")) == 2
    assert "has 6 epochs behind it, more than trainer.max_epochs=1" in capsys.readouterr().err


def test_a_sentence_without_a_known_word(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = next((world / "data").rglob("*.jpg"))
    before = state(world)
    assert call(monkeypatch, words(world, "task=sample", f"image={photo}", "text=xyzzy quux")) == 2
    (said,) = capsys.readouterr().err.strip().splitlines()
    assert "xyzzy" in said
    assert state(world) == before


def test_missing_data_is_said_before_lightning_is_there_with_both_ways_on(tmp_path: Path) -> None:
    command = ["model=simgan", "data=cub", f"paths.data={tmp_path / 'nowhere'}"]
    code, out, (said,), modules = imports_of(command, tmp_path)
    assert code == 2
    assert not (HEAVY - {"torch"}) & modules
    for part in (str(tmp_path / "nowhere" / "CUB_200_2011"), "data.caltech.edu", "task=prepare", "preset=toy"):
        assert part in said
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_half_built_store_is_built_again(world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A store whose build was killed lies in <name>.partial; one that was cut afterwards is not read either."""
    store, more = tmp_path / "stores", ["evaluate=false", f"paths.runs={tmp_path / 'runs'}"]
    assert call(monkeypatch, words(world, *more, f"data.store={store}")) == 0
    (whole,) = (path.parent for path in store.rglob("images.u8"))
    size = (whole / "images.u8").stat().st_size
    whole.rename(whole.with_name(f"{whole.name}.partial"))
    with (whole.with_name(f"{whole.name}.partial") / "images.u8").open("r+b") as file:
        file.truncate(size // 2)
    assert call(monkeypatch, words(world, *more, f"data.store={store}", "resume=auto", "trainer.max_epochs=2")) == 0
    assert (whole / "images.u8").stat().st_size == size


# ---- sweeps


def test_a_sweep_skips_what_is_done_and_survives_a_bad_job(
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    more = ["-m", "evaluate=false", f"paths.runs={tmp_path}", "trainer.limit_train_batches=1"]
    assert call(monkeypatch, words(world, *more, "data.batch_size=99,4", "seed=0,1")) == 2
    out, err = capsys.readouterr()
    said = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(said) == 2
    assert "#0" not in out + err + caplog.text  # Hydra's names of jobs
    assert caplog.text.count("32 of 11,788 images found") == 1  # told once, of the same data
    assert all("data.batch_size=99" in line and "There are 16 images" in line for line in said)
    states = [json.loads(path.read_text())["state"] for path in tmp_path.rglob("status.json")]
    assert sorted(states) == ["done", "done", "failed", "failed"]
    done = {folder: state(folder) for folder in done_runs(tmp_path)}
    assert len(done) == 2
    assert call(monkeypatch, words(world, *more, "seed=0,1,2")) == 0
    assert all(state(folder) == before for folder, before in done.items())
    assert len(done_runs(tmp_path)) == 3


def done_runs(runs: Path) -> list[Path]:
    told = ((path.parent, json.loads(path.read_text())["state"]) for path in runs.rglob("status.json"))
    return [folder for folder, state in told if state == "done"]
