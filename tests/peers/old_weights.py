"""Weights files as Python 2 and PyTorch 0.3 wrote them, and one that runs code when it is unpickled."""

import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor


def norm(key: str, width: int) -> dict[str, tuple[int, ...]]:
    """A BatchNorm as PyTorch <= 0.3 saved it, without num_batches_tracked."""
    return {f"{key}.{leaf}": (width,) for leaf in ("weight", "bias", "running_mean", "running_var")}


def flat(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors that take no room in memory or on disk: one number each, another for each name."""
    return {key: torch.tensor(float(i)).expand(shape) for i, (key, shape) in enumerate(shapes.items())}


class Python2Pickler(pickle._Pickler):
    """What Python 2 and PyTorch 0.3 wrote: byte strings, OrderedDicts of pairs, the first function to build tensors."""

    dispatch: ClassVar[dict[type, Callable]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]
    write: Callable[[bytes], None]
    memoize: Callable[[str], None]

    def save_str(self, text: str) -> None:
        raw = text.encode("ascii")
        self.write(pickle.SHORT_BINSTRING + bytes([len(raw)]) + raw)
        self.memoize(text)

    dispatch[str] = save_str

    def reducer_override(self, thing: Any) -> Any:
        if type(thing) is OrderedDict:
            return OrderedDict, ([[key, value] for key, value in thing.items()],)
        if isinstance(thing, Tensor):
            layout = (thing.storage_offset(), tuple(thing.shape), thing.stride())
            return torch._utils._rebuild_tensor, (thing.storage(), *layout)
        return NotImplemented


class python2:
    """Stands for the pickle module in torch.save."""

    Pickler = Python2Pickler

    @staticmethod
    def dump(thing: Any, file: Any, protocol: int = 2) -> None:
        Python2Pickler(file, protocol).dump(thing)


def save_like_python2(state: dict[str, Tensor], path: Path) -> None:
    torch.save(OrderedDict(state), path, pickle_module=python2, _use_new_zipfile_serialization=False)
    raw = path.read_bytes().replace(b"ctorch\nFloatStorage", b"ctorch.cuda\nFloatStorage")
    path.write_bytes(raw.replace(b"U\x03cpu", b"U\x06cuda:0"))


class Trap:
    """Unpickled the usual way, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)
