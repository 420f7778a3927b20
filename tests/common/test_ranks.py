"""Two processes on the CPU (trainer=ddp): the same weights on both, the same images in all as with one."""

import json
from pathlib import Path
from typing import Any

import pytest

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
