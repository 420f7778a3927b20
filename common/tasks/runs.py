"""Run folders: where a run lives, what it was made from, how it stands, and the line it leaves in results.jsonl."""

import errno
import json
import logging
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict, Unpack

from filelock import FileLock, Timeout

from common.config import applies
from common.errors import UserError
from common.files import locked, write_whole

REMEDY = "free space or choose paths.runs=FOLDER"
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "torch-fidelity", "hydra-core", "numpy")


def identity(cfg: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides the weights: model, loss, data, seed, batches an epoch, precision.

    What leaves them as they are the files of model and data list as `incidental`; a needed network counts by its recipe
    or by the file that was given. The length of training is left out, so that a longer run goes on from a shorter one,
    unless the model's file has a `horizon`: where the learning rate depends on the length, a longer run is another run.
    Devices are left out too: a run may go on elsewhere.
    """
    needs = cfg.get("needs", {})
    model = without(cfg["model"], [*cfg.get("incidental", ()), *needs])
    data = without(cfg["data"], cfg["data"]["incidental"])
    if data["source"] != "procedural":
        data.pop("procedural", None)
    horizon = cfg.get("horizon")
    length = (
        {} if horizon is None or not applies(horizon, cfg["model"]) else {"max_epochs": cfg["trainer"]["max_epochs"]}
    )
    return {
        "model": model,
        "loss": cfg.get("loss"),
        "data": data,
        "seed": cfg["seed"],
        "precision": cfg["trainer"]["precision"],
        "limit_train_batches": cfg["trainer"]["limit_train_batches"],
        "needs": {key: cfg["model"].get(key) or need for key, need in needs.items()},
        **length,
    }


def without(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Settings but for some, nested ones with dots: those that the model's file calls `incidental`."""
    kept = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            inner = [name.removeprefix(f"{key}.") for name in names if name.startswith(f"{key}.")]
            value = without(value, inner)
        if key not in names:
            kept[key] = value
    return kept


def run_name(cfg: dict[str, Any]) -> str:
    """<name>-s<seed>-<hash8>; procedural data is in the name, so that nobody takes its numbers for real ones."""
    name = cfg["name"] or cfg["chosen"].get("table") or cfg["chosen"].get("preset") or "full"
    procedural = "-procedural" if cfg["data"]["source"] == "procedural" else ""
    return f"{name}{procedural}-s{cfg['seed']}-{cfg['hash']}"


class Facts(TypedDict, total=False):
    """What of a result not every maker knows, or what stands in the place of what the configuration says."""

    data: str
    data_source: str  # real | procedural | others, others' images
    images_found: str  # "8 of 11788"
    seed: int
    data_hash: str  # of the data's contents, `Records.fingerprint`
    weights: str  # the file that was scored
    epochs: int | None  # behind these weights, like the next
    images: int | None
    published: dict[str, Any] | None
    preset: str | None
    cost: dict[str, float]


class Line(Facts):
    """A line of results.jsonl."""

    row: str  # of a table, or the model
    run: str  # the folder, or the file that a job wrote
    config: str  # hash of what decides the weights
    numbers: dict[str, float | None]
    protocol: dict[str, Any]  # what the numbers depend on
    time: str
    commit: str
    versions: dict[str, str]
    gpu: str | None


def result_line(
    cfg: dict[str, Any],
    row: str,
    run: Path,
    numbers: Mapping[str, float | None],
    protocol: dict[str, Any],
    **facts: Unpack[Facts],
) -> Line:
    """The line of results.jsonl for these numbers; `facts` come before what the configuration says."""
    here = environment()
    line: Line = {
        "row": row,
        "run": str(run),
        "config": cfg["hash"],
        "data": cfg["data"]["name"],
        "data_source": cfg["data"]["source"],
        "seed": cfg["seed"],
        "numbers": {**numbers},
        "protocol": protocol,
        "published": cfg.get("published"),
        "preset": cfg["chosen"].get("preset"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "commit": here["commit"],
        "versions": here["versions"],
        "gpu": here["gpu"],
    }
    line.update(facts)  # type: ignore[typeddict-item]
    return line


class RunFolder:
    """runs/<model>-<data>/<name>-<hash8>/ with config.yaml, env.json, status.json, checkpoints/, samples/, eval/."""

    def __init__(self, path: Path, pair: tuple[str, str]) -> None:
        """pair: model and data."""
        self.path, self.pair = path, pair

    @classmethod
    def of(cls, cfg: dict[str, Any]) -> "RunFolder":
        """The folder that a configuration's run has or will have."""
        pair = cfg["chosen"]["model"], cfg["data"]["name"]
        return cls(Path(cfg["paths"]["runs"]) / "-".join(pair) / run_name(cfg), pair)

    @property
    def export(self) -> Path:
        """The one file of a finished run, enough to serve from."""
        return self.path / f"{'_'.join(self.pair)}.pt"

    @property
    def last(self) -> Path:
        """The checkpoint that a run goes on from."""
        return self.path / "checkpoints" / "last.ckpt"

    def lock(self) -> FileLock:
        """To be held while the run is trained; goes with the process. UserError where another one holds it."""
        lock = FileLock(self.path / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            told = self.status()
            raise UserError(
                f"{self.path} is being trained by another process ({told.get('pid', '?')} on "
                f"{told.get('host', 'this machine')}): wait for it, or choose name=NAME"
            ) from None
        except OSError as error:
            raise UserError(f"{self.path} cannot be made ({error.strerror}): choose paths.runs=FOLDER") from None
        return lock

    def start(self, config_yaml: str, data_hash: str) -> None:
        """Makes the folders and writes down the configuration, the machine and the hash of the data."""
        for name in ("checkpoints", "samples", "eval"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        write_whole(self.path / "config.yaml", config_yaml, REMEDY)
        write_whole(self.path / "env.json", json.dumps(environment(), indent=1), REMEDY)
        self.say("running", data_hash=data_hash)

    def status(self) -> dict[str, Any]:
        """What `say` said so far; {} before the first time."""
        try:
            return json.loads((self.path / "status.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return {}

    def say(self, state: str, **facts: Any) -> None:
        """state: running | trained | done | failed | interrupted. Facts of earlier calls stay. Written as one line."""
        told = {"run": f"{self.path.parent.name}/{self.path.name}", "state": state} | self.status() | facts
        told |= {"state": state, "updated": time.strftime("%Y-%m-%dT%H:%M:%S")}
        told |= {"pid": os.getpid(), "host": socket.gethostname()}
        if state != "failed":
            told.pop("error", None)
        write_whole(self.path / "status.json", f"{json.dumps(told)}\n", REMEDY)

    def check_data(self, data_hash: str) -> None:
        """UserError where the run was trained on other data than there are now."""
        if self.status().get("data_hash", data_hash) != data_hash:
            raise UserError(
                f"{self.path} was trained on other data than there are now (tables, captions, masks or photos have "
                f"changed): put them back to go on, choose name=NAME for a new run, or go on with the new data by "
                f"resume={self.last}."
            )

    def resume_from(self, resume: str) -> Path | None:
        """The checkpoint to go on from. resume: auto | never | a file."""
        if resume not in ("auto", "never"):
            path = Path(resume)
            if not path.is_file():
                raise UserError(f"resume={resume} is no file: give a .ckpt, or resume=auto to go on in {self.path}")
            return path
        if resume == "never" and self.last.exists():
            raise UserError(f"{self.path} holds a run already: choose name=..., or resume=auto to go on with it")
        return self.last if self.last.exists() else None


@cache
def commit() -> str:
    """The commit of the code, with + when it is changed; "unknown" outside a checkout."""
    here = Path(__file__).parents[2]
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=here, capture_output=True, text=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else "unknown"


def environment() -> dict[str, Any]:
    """Commit, command, versions and devices: what a number cannot be understood without."""
    import torch  # not needed to find a run

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "commit": commit(),
        "command": " ".join(sys.argv),
        "python": platform.python_version(),
        "versions": versions,
        "cpu_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def append_result(runs: Path, line: Line) -> None:
    """A line of results.jsonl, whole or not at all, one process at a time; a line that a kill cut short is ended first.

    UserError where it cannot be written.
    """
    path, text = runs / "results.jsonl", f"{json.dumps(line)}\n".encode()
    lost = f"the line of {line['row']} is not in it; {REMEDY}, and start the same command again"
    try:
        with locked(path, lost), path.open("a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            text = text if file.read(1) in (b"", b"\n") else b"\n" + text
            try:
                if (file.write(text) or 0) < len(text):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): {lost}.") from error


def keep_log(folder: RunFolder) -> logging.Handler:
    """Every log line also goes to log.txt of the run."""
    handler = logging.FileHandler(folder.path / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler
