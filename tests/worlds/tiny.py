"""The smallest complete run: sixteen training birds at 32 px, an untrained text encoder, two minutes' work in a second.

Shared by the tests of the door, of resuming and of several processes; a file of its own so that they can run apart.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import run
from common.text import SentenceEncoder, Vocabulary
from tests.worlds.layouts import make_cub, sentences

HOME = Path(run.__file__).parent
WIDTHS = (
    "model.phi.dim=12 model.generator.ngf=4 model.generator.n_res=1 model.discriminator.ndf=4 model.generator.ca_dim=8 "
    "model.discriminator.text_dim=8 model.grad_norm_every=2"
)
LENGTHS = "data.image_size=32 data.batch_size=4 trainer.max_epochs=1 trainer.log_every_n_steps=1 trainer.grid_every=1"
REST = "model=simgan data=cub data.allow_missing=true trainer=cpu trainer.precision=32-true metrics=none logger=csv"


def make_world(root: Path) -> None:
    """root/data: CUB, 16 training and 16 test birds of its 200 classes; root/vse.pt: the file that model=vse makes."""
    keys = make_cub(root / "data", classes=200, images=4, photos=8, procedural=False)[:32]
    lines = [sentence for key in keys for sentence in sentences(key.rpartition("/")[2])]
    torch.manual_seed(0)
    vocabulary = Vocabulary.build(lines, max_words=50)
    net = SentenceEncoder(words=len(vocabulary), word_dim=10, dim=12)
    vse = {
        "config": {"word_dim": 10, "dim": 12, "max_words": 50, "vectors": None},
        "vocabulary": list(vocabulary.words),
    }
    torch.save({"format": 1, "kind": "vse", "text": net.state_dict(), **vse}, root / "vse.pt")


def words(root: Path, *more: str) -> list[str]:
    """The command line of a tiny run on the world in root, which writes only under root."""
    places = [f"paths.{name}={root / name}" for name in ("data", "runs", "artifacts")]
    return [*f"{REST} {WIDTHS} {LENGTHS}".split(), f"model.text_encoder={root / 'vse.pt'}", *places, *more]


def call(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> int:
    """`python run.py ...` inside this process. -> exit code"""
    monkeypatch.setattr(sys, "argv", [str(HOME / "run.py"), *command])
    return run.main()


def start(command: list[str], *, script: Path = HOME / "run.py", **options: Any) -> subprocess.Popen[str]:
    """`python run.py ...` as a process of its own, on one thread."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | options.pop("env", {})
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    interpreter = [sys.executable, *options.pop("interpreter", ())]
    return subprocess.Popen([*interpreter, str(script), *command], env=env, **pipes | options)


def only_run(root: Path) -> Path:
    """The one run folder under root."""
    (folder,) = (root / "runs" / "simgan-cub").iterdir()
    return folder
