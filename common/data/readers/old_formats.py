"""Formats of other people's files, read without running what is in them: Python pickles, and Torch7's `.t7`.

A pickle is a program: it may name any function and call it. Here it may name NumPy's scalar and array constructors and
the bytes that these are of, and nothing else, which is what the files of AttnGAN, StackGAN, PG2 and VUNet need (lists,
tables, strings, numbers and NumPy's).

A .t7 file, Reed et al.'s `char` matrices and networks, is little-endian with 8-byte longs. An object is an int32 type
(0 nil, 1 float64, 2 string, 3 table, 4 torch object, 5 bool) and its payload; tables and torch objects carry a memo
index, so that later references repeat only it. A torch object that is no tensor, such as a layer of a network, is its
class's name and a table of its fields: nothing of the class is run. Every count is held against the bytes that are
left, so that a damaged file is refused before anything is allocated.
"""

import io
import math
import pickle
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy._core import multiarray

from common.errors import UserError
from common.files import open_file

# ---- pickles


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


def read_pickle(path: Path, start: int = 0) -> Any:
    """The lists, strings and numbers of a pickle; UserError for anything else, or for a damaged file. start: bytes
    before it."""
    with open_file(path) as file:
        file.seek(start)
        data = file.read()
    if not data.startswith(b"\x80"):  # protocol 0 is text, and git's autocrlf turns its line ends into CRLF
        data = data.replace(b"\r\n", b"\n")
    try:
        return _Unpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # whatever a hostile or cut file makes the unpickler stumble over
        raise UserError(f"{path} is not a pickle that can be read safely ({error}): take the original file.") from error


# ---- Torch7

DTYPES = {"Byte": "u1", "Char": "i1", "Short": "<i2", "Int": "<i4", "Long": "<i8", "Float": "<f4", "Double": "<f8"}
DTYPES["Cuda"] = DTYPES["Float"]
DEEPEST = 64  # nested objects; Reed's captions have 1, his networks about a dozen

# Reed et al. 2016, 70 characters; "-" is there twice (37 and 60) and the space is the last.
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/\\|_@#$%^&*~`+-=<>()[]{} "
LONGEST = 201  # rows of a `char` matrix: a caption is cut there


class TorchObject(NamedTuple):
    """An object of a class of Torch7's, of which nothing but this is known."""

    kind: str  # such as nn.Linear
    fields: dict[Any, Any]


def read_t7(path: Path) -> Any:
    """What a .t7 file holds: float, int, bool, str, None, dict (table), numpy array (tensor, storage), TorchObject."""
    try:
        with open_file(path) as file:
            return _Torch7(file.read()).object()
    except _Damaged as error:
        raise UserError(f"{path} is not a readable .t7 file ({error}): copy or unpack it again.") from None


def decode_char(char: np.ndarray, path: Path) -> tuple[str, ...]:
    """Captions of a `char` matrix. char: 201,N of 1-based indices into ALPHABET, one caption a column, 0 = padding.

    Index 0 is never a character, also inside a caption, where it stands for one outside the alphabet.
    """
    if char.ndim != 2 or len(char) != LONGEST:
        raise UserError(f"{path} has a `char` of shape {char.shape}, not {LONGEST} x captions: copy the file again.")
    if char.size and not 0 <= char.min() <= char.max() <= len(ALPHABET):
        raise UserError(f"{path} has a `char` index outside 0..{len(ALPHABET)}: copy the file again.")
    columns = char.astype(np.int64).T
    return tuple("".join(ALPHABET[i - 1] for i in column if i > 0).strip() for column in columns)


class _Damaged(Exception):
    """Why a file cannot be read; `read_t7` adds its name."""


class _Torch7:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.memo: dict[int, Any] = {}

    def take(self, size: int, what: str) -> bytes:
        if not 0 <= size <= len(self.data) - self.at:
            raise _Damaged(f"{what} of {size} bytes at byte {self.at}, but {len(self.data) - self.at} are left")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, code: str, what: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0]

    def string(self) -> str:
        return self.take(self.number("i", "a string length"), "a string").decode("latin1")

    def longs(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}q", self.take(8 * count, "a shape"))

    def object(self, depth: int = 0) -> Any:
        if depth > DEEPEST:
            raise _Damaged(f"objects nested more than {DEEPEST} deep")
        kind = self.number("i", "a type")
        match kind:
            case 0:
                return None
            case 1:
                value = self.number("d", "a number")
                return int(value) if value.is_integer() else value  # Lua has one number type: 1.0 is the key 1
            case 2:
                return self.string()
            case 3:
                return self.table(depth)
            case 4:
                return self.torch_object(depth)
            case 5:
                return bool(self.number("i", "a bool"))
        raise _Damaged(f"type {kind} at byte {self.at - 4}")

    def table(self, depth: int) -> Any:
        index = self.number("i", "a memo index")
        if index in self.memo:
            return self.memo[index]
        count = self.number("i", "a table size")
        if not 0 <= count <= (len(self.data) - self.at) // 8:  # a key and a value are at least an int32 type each
            raise _Damaged(f"a table of {count} entries at byte {self.at - 4}")
        table: dict[Any, Any] = {}
        self.memo[index] = table  # before its content, which may refer to it
        for _ in range(count):
            key = self.object(depth + 1)
            if not isinstance(key, str | int | float):
                raise _Damaged(f"a table key of type {type(key).__name__} before byte {self.at}")
            table[key] = self.object(depth + 1)
        return table

    def torch_object(self, depth: int) -> Any:
        index = self.number("i", "a memo index")
        if index in self.memo:
            return self.memo[index]
        name = self.string()
        if name.startswith("V "):  # files older than version 1 have the class name at once
            name = self.string()
        element = name.removeprefix("torch.")
        if (family := element.removesuffix("Storage")) != element and family in DTYPES:
            self.memo[index] = self.storage(DTYPES[family])
        elif (family := element.removesuffix("Tensor")) != element and family in DTYPES:
            self.memo[index] = self.tensor(depth)
        else:
            self.memo[index] = thing = TorchObject(name, {})  # before its fields, which may refer to it
            fields = self.object(depth + 1)
            if not isinstance(fields, dict):
                raise _Damaged(f"it holds a {name[:60]!r} that is no tensor and has no fields")
            thing.fields.update(fields)
        return self.memo[index]

    def storage(self, dtype: str) -> np.ndarray:
        count = self.number("q", "a storage size")
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize, "a storage"), dtype)

    def tensor(self, depth: int) -> np.ndarray:
        dims = self.number("i", "a number of dimensions")
        if not 0 <= dims <= 16:
            raise _Damaged(f"a tensor of {dims} dimensions at byte {self.at - 4}")
        sizes, strides = self.longs(dims), self.longs(dims)
        first = self.number("q", "a storage offset") - 1
        storage = self.object(depth + 1)
        if not dims or storage is None:
            return np.empty(0)
        if not isinstance(storage, np.ndarray) or min(*sizes, *strides, first) < 0:
            raise _Damaged(f"a tensor of shape {sizes} and strides {strides} before byte {self.at}")
        last = first + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        count = math.prod(list(sizes))
        if count > storage.size or (count and last >= storage.size):
            raise _Damaged(f"a tensor of shape {sizes} in a storage of {storage.size} elements")
        steps = [stride * storage.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(storage[first:], sizes, steps, writeable=False)
