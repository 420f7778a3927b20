"""A model's settings as conf/ has them, so that a test says only what differs; and a Trainer's that is not heard."""

import copy
from functools import lru_cache
from typing import Any

from common.command import composed, plain

QUIET: dict[str, Any] = {  # of a Trainer: it says nothing and keeps nothing
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "use_distributed_sampler": False,
    "accelerator": "cpu",
}


@lru_cache
def of_file(model: str) -> dict[str, Any]:
    words = [f"model={model}", "data.source=procedural"]
    return plain(composed(*words), words)["model"]


def settings(model: str, **changes: Any) -> dict[str, Any]:
    """Arguments of the model of conf/model/<model>.yaml. A change is of a name at the top, or with dots, or of the one
    group that has it: ngf is generator.ngf."""
    found = copy.deepcopy(of_file(model))
    del found["_target_"]
    groups = {name: group for name, group in found.items() if isinstance(group, dict) and name != "loss"}
    for name, value in changes.items():
        group, _, inner = name.rpartition(".")
        if not group and name not in found:
            group, inner = next(((key, name) for key, each in groups.items() if name in each), ("", name))
        (found[group] if group else found)[inner] = value
    return found
