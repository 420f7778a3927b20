"""Pickles of the AttnGAN, StackGAN, PG2 and VUNet distributions, read without running what is in them.

A pickle is a program: it may name any function and call it. Here it may name NumPy's scalar and array constructors and
the bytes that these are of, and nothing else, which is what the files of these distributions need (lists, tables,
strings, numbers and NumPy's).
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray

from common.errors import UserError


def _latin1(text: str, encoding: str) -> bytes:
    """In place of _codecs.encode, by which Python 3 writes bytes below protocol 3: that would look up any codec."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for bytes in {encoding!r}, which data does not need")
    return text.encode("latin1")


ALLOWED: dict[tuple[str, str], Any] = {("numpy", "dtype"): np.dtype, ("numpy", "ndarray"): np.ndarray} | {
    (module, name): getattr(multiarray, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since NumPy 2
    for name in ("scalar", "_reconstruct")
}
ALLOWED["_codecs", "encode"] = _latin1


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which data does not need")
        return ALLOWED[module, name]


def read_pickle(path: Path) -> Any:
    """The lists, strings and numbers of a pickle; UserError for anything else, or for a damaged file."""
    data = path.read_bytes()
    if not data.startswith(b"\x80"):  # protocol 0 is text, and git's autocrlf turns its line ends into CRLF
        data = data.replace(b"\r\n", b"\n")
    try:
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # whatever a hostile or cut file makes the unpickler stumble over
        raise UserError(f"{path} is not a pickle that can be read safely ({error}): take the original file.") from error
