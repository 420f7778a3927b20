"""State dicts of files: read without unpickling an object, and loaded only into the very network they were made of."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.classifier import read_weights
from common.errors import UserError


def read_state(path: str | Path) -> dict[str, Tensor]:
    """A state dict on the CPU. UserError when the file is absent, damaged, holds objects or anything but tensors."""
    state = read_weights(path)
    if not (isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise UserError(
            f"{path} is not a state dict, names with one tensor each: save the network's state_dict() alone."
        )
    return {str(name): value for name, value in state.items()}


def without_parallel(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of the network inside a DataParallel, whose keys all begin with `module.`; others as they are."""
    wrapped = all(name.startswith("module.") for name in state)
    return {name.removeprefix("module.") if wrapped else name: value for name, value in state.items()}


def load_strict(
    module: nn.Module,
    state: Mapping[str, Tensor],
    tolerate: Sequence[str] = ("num_batches_tracked",),
    *,
    source: str | Path = "the state dict",
) -> None:
    """Loads a state whose keys and shapes are exactly the module's, as `check_fit` has it."""
    state = without_parallel(state)
    check_fit(module, state, tolerate, source)
    module.load_state_dict(state, strict=False)  # what may be missing stays as it is


def check_fit(module: nn.Module, state: Mapping[str, Tensor], tolerate: Sequence[str], source: str | Path) -> None:
    """UserError that names the first few keys by which a state does not fit a module.

    tolerate: last parts of keys that may be missing. PyTorch <= 0.3 kept no num_batches_tracked in a BatchNorm.
    source: the file, for the message.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in state and name.rpartition(".")[2] not in tolerate]
    unexpected = [name for name in state if name not in expected]
    reshaped = [
        f"{name} {tuple(value.shape)} for {tuple(expected[name].shape)}"
        for name, value in state.items()
        if name in expected and value.shape != expected[name].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    faults = [f"{kind} {some(names)}" for kind, names in kinds.items() if names]
    if faults:
        raise UserError(
            f"{source} does not fit {type(module).__name__} ({'; '.join(faults)}): give a file of that very network."
        )


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in state.items()}


def check_settings(mine: Mapping[str, Any], theirs: Mapping[str, Any], names: Sequence[str], path: str | Path) -> None:
    """Refuses weights made with other settings and says which words of the command would fit them.

    names: of settings of the model, of `image_size`, which the data say, or in full (`loss.d.part`). Whether an average
    is kept is compared too. A setting that `theirs` lacks is as mine: the file is from before it.
    """
    other = [name for name in names if mine[name] != theirs.get(name, mine[name])]
    if (mine["ema_decay"] is None) != (theirs.get("ema_decay", mine["ema_decay"]) is None):
        other.append("ema_decay")
    if other:
        rooms = {name: "" if "." in name else "data." if name == "image_size" else "model." for name in other}
        words = [f"{rooms[name]}{name}={json.dumps(theirs[name], separators=(',', ':'))}" for name in other]
        raise UserError(f"{path} was made with other settings than these: add {' '.join(words)} to the command.")


def check_export(content: Mapping[str, Any], kind: str, format: int, path: str | Path, wanted: str) -> None:
    """UserError unless a file holds an export of this kind and format. wanted: what it should be, and which to give."""
    if content.get("kind") != kind:
        found = f"a {content['kind']}" if "kind" in content else "something else"
        raise UserError(f"{path} holds {found}, not {wanted}.")
    if content["format"] != format:
        raise UserError(f"{path} is of format {content['format']}, not {format}: export it again with this version.")
