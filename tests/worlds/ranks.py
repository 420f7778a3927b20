"""`RANKS=FOLDER python tests/worlds/ranks.py WORD...` is `python run.py WORD...` that also writes FOLDER/rank<n>.json.

Each rank tells what it trained on (rows of each batch) and what came out (a hash of each tensor).
"""

import hashlib
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

import run
from common.gan import GANModule
from common.tasks.trainer import fit

OUT = Path(os.environ["RANKS"])
SEEN: list[dict[str, list[int]]] = []


def digest(value: Tensor) -> str:
    return hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


DRAWS = ("row", "caption", "other_row", "other_caption")


def watched(trainer: Any, model: GANModule, *rest: Any) -> None:
    step = model.training_step

    def noted(batch: Any, batch_idx: int) -> None:
        SEEN.append({name: batch[name].tolist() for name in DRAWS if name in batch})
        step(batch, batch_idx)

    model.training_step = noted  # type: ignore[method-assign]
    fit(trainer, model, *rest)
    hashes = {name: digest(p) for name, p in model.named_parameters()}
    for number, optimizer in enumerate(trainer.optimizers):
        for place, state in optimizer.state_dict()["state"].items():
            hashes |= {f"{number}.{place}.{k}": digest(v) for k, v in state.items() if isinstance(v, torch.Tensor)}
    told = {"world": trainer.world_size, "joined": torch.distributed.is_initialized(), "seen": SEEN, "hashes": hashes}
    (OUT / f"rank{trainer.global_rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    # by its name: an attribute of the package is the task fit
    import_module("common.tasks.fit").train = watched  # type: ignore[attr-defined]
    sys.exit(run.main())
