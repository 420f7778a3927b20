"""Two processes on the CPU (trainer=ddp): the same weights on both, the same images in all as with one."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.worlds.tiny import HOME, make_world, only_run, start, words

RANKS = HOME / "tests" / "worlds" / "ranks.py"


@pytest.mark.slow
def test_two_processes_are_one_run(tmp_path: Path) -> None:
    make_world(tmp_path)
    told: dict[str, list[dict[str, Any]]] = {}
    for name, more in (("alone", []), ("both", ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"])):
        out = tmp_path / name
        out.mkdir()
        command = words(
            tmp_path, "trainer.max_epochs=2", "model.average.decay=0.9", f"paths.runs={out / 'runs'}", *more
        )
        process = start(command, script=RANKS, env={"RANKS": str(out)})
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        told[name] = [json.loads(path.read_text()) for path in sorted(out.glob("rank*.json"))]
    (alone,), (first, second) = told["alone"], told["both"]
    assert [facts["world"] for facts in (alone, first, second)] == [1, 2, 2]
    assert len(alone["seen"]) == 8
    for whole, a, b in zip(alone["seen"], first["seen"], second["seen"], strict=True):
        assert all(len(a[key]) == len(b[key]) == 2 for key in a)
        assert {key: a[key] + b[key] for key in a} == whole
    assert first["hashes"] == second["hashes"]
    assert first["hashes"] != alone["hashes"]
    parts = {name.partition(".")[0] for name in first["hashes"]}
    assert parts == {"generator", "discriminator", "ema_generator", "text_encoder", "0", "1"}  # and both optimisers
    assert not first["joined"]  # what follows is one process's own: it must not be given a rank's share of the data


@pytest.mark.slow
def test_what_a_user_gets_wrong_ends_both_processes(tmp_path: Path) -> None:
    make_world(tmp_path)
    more = ["trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=5"]
    process = start(words(tmp_path, *more))
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "data.batch_size=5 is of all processes together and cannot be divided among 2" in said
    assert "Traceback" not in said
    assert not (only_run(tmp_path) / "checkpoints" / "last.ckpt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("everyone", [False, True], ids=["first", "group"])
def test_sigterm_ends_both_processes_quietly_and_keeps_the_checkpoint(tmp_path: Path, everyone: bool) -> None:
    """As `kill` sends it, to the process that was started; as a cluster sends it, to all of them."""
    make_world(tmp_path)
    more = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=500", "evaluate=false"]
    process = start(words(tmp_path, *more, "trainer.grid_every=1000"), start_new_session=True)
    try:
        until = time.monotonic() + 300
        while time.monotonic() < until and process.poll() is None:
            told = list(tmp_path.glob("runs/simgan-cub/*/status.json"))
            if told and json.loads(told[0].read_text()).get("epochs", 0) >= 2:
                break
            time.sleep(0.01)
        others = psutil.Process(process.pid).children(recursive=True)
        assert others
        os.killpg(process.pid, signal.SIGTERM) if everyone else process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "Traceback" not in said
    assert psutil.wait_procs(others, timeout=60)[1] == []
    status = json.loads((only_run(tmp_path) / "status.json").read_text())
    assert status["state"] == "interrupted"
    last = torch.load(only_run(tmp_path) / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] + 1 == status["epochs"] < 500
