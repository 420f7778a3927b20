"""Sentence vectors, and encoders of them, in the files that `model.text` may name.

    FILE.pt        model=skipthought, trained here
    FOLDER         ryankiros/skip-thoughts [K]: dictionary.txt, utable.npy and uni_skip.npz, btable.npy and bi_skip.npz
    FILE.hdf5      paarthneekhara/text-to-image [P]: flower_tv.hdf5, "image_00001.jpg" -> 5,4800 of the first captions
    FOLDER         StackGAN's Data/flowers: {train,test}/filenames.pickle and char-CNN-RNN-embeddings.pickle, 10,1024
    FOLDER         Reed's flowers_icml: class_00001/image_06734.t7, whose `txt` is 10,1024

Vectors alone say nothing of a sentence of a user's own. N images, C captions of the one that has most, T width.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data.edit_pairs import caption_counts
from common.data.readers.old_formats import decode_char, read_pickle, read_t7
from common.data.readers.splits import read_keys
from common.data.records import Records
from common.errors import UserError, choose
from common.files import open_file, sha256, short_hash
from jem.skipthoughts import HALVES, UNKNOWN, WORD, SkipThoughts, gru_of, load_skipthoughts, tokens

log = logging.getLogger(__name__)

Vectors = Mapping[str, Callable[[], Any]]  # image name -> reads its vectors, n,T


class Text(NamedTuple):
    """What a file gives: an encoder, or the vectors of the captions as they are."""

    dim: int  # T
    hash: str
    encoder: SkipThoughts | None
    table: Tensor | None  # N,C,T float16, unused places 0; None with an encoder, and without records


def read_text(path: str | Path, records: Records | None, dims: str = "combine") -> Text:
    """What `path` holds, for the captions of these records. UserError for anything else than the files named above.

    dims: combine, uni or bi, which of a skip-thought's halves; combine = all that the file has.
    """
    path = Path(path)
    if (path / "dictionary.txt").is_file():
        return published(path, records, dims)
    if path.is_dir():
        pickles = [file for part in ("train", "test") if (file := path / part / EMBEDDINGS).is_file()]
        files = {} if pickles else {file.stem: file for file in sorted(path.glob("*/*.t7"))}
        if not pickles and not files:
            raise UserError(
                f"{path} holds no sentence vectors: give the folder of dictionary.txt and uni_skip.npz, of train and "
                f"test with {EMBEDDINGS}, or of class_*/image_*.t7, or a file of model=skipthought."
            )
        found: Vectors = of_pickles(pickles) if pickles else {name: of_t7(file) for name, file in files.items()}
        return Text(*tabled(found, records, path))
    if path.suffix in (".hdf5", ".h5"):
        return of_hdf5(path, records, dims)
    encoder = load_skipthoughts(path, dims)
    return Text(encoder.dim, encoder.hash, encoder, None)


# ---- the published encoder

TABLES = {"uni": "utable.npy", "bi": "btable.npy"}
MODELS = {"uni": "uni_skip.npz", "bi": "bi_skip.npz"}
MD5 = {  # as a public issue quotes them
    "dictionary.txt": "26d8a3e6458500013723b380a4b4b55e",
    "uni_skip.npz": "8eb7c6948001740c3111d71a2fa446c1",
    "bi_skip.npz": "9a15429d694a0e035f9ee1efcb1406f3",
}
AGAIN = "fetch it again from cs.toronto.edu/~rkiros/models"


def published(folder: Path, records: Records | None, dims: str) -> Text:
    """The encoder of [K]'s files. Its tables of 930,911 words, 2.3 GB each, are mapped; an export takes along the words
    of the captions."""
    there = [half for half, file in MODELS.items() if (folder / file).is_file() and (folder / TABLES[half]).is_file()]
    halves = HALVES[choose("model.sentence.dims", dims, HALVES)]
    if absent := [half for half in halves if half not in there]:
        raise UserError(
            f"{folder} lacks {MODELS[absent[0]]} or {TABLES[absent[0]]}: put both there, or set "
            f"model.sentence.dims={(there or ['uni'])[0]}."
        )
    digests = [checked_md5(folder / name) for name in ("dictionary.txt", *(MODELS[half] for half in halves))]
    words, count = read_dictionary(folder / "dictionary.txt")
    grus = {half: gru_of(read_npz(folder / MODELS[half], half), half, folder / MODELS[half]) for half in halves}
    tables = {half: read_npy(folder / TABLES[half]) for half in halves}
    for half, table in tables.items():
        if table.shape != (count, grus[half].input_size):
            raise UserError(
                f"{folder / TABLES[half]} is of shape {table.shape}, and dictionary.txt with {MODELS[half]} of "
                f"({count}, {grus[half].input_size}): {AGAIN}."
            )
    said = (word for captions in records.captions for s in captions for word in tokens(s)) if records else ()
    kept = {spelt for word in said if (spelt := word if word in words else word.lower()) in words}
    sizes = [(folder / TABLES[half]).stat().st_size for half in halves]
    hash = short_hash([*digests, *sizes])
    encoder = SkipThoughts(words=words, tables=tables, grus=grus, hash=hash, kept=sorted(kept))
    return Text(encoder.dim, hash, encoder, None)


def checked_md5(path: Path) -> str:
    """32 hexadecimal digits, and a warning where they are not those of the published file."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != MD5[path.name]:
        log.warning("%s is not the published file (md5 %s, not %s)", path, found, MD5[path.name])
    return found


def read_dictionary(path: Path) -> tuple[dict[str, int], int]:
    """Word -> row, and how many rows there are: one a line, blanks around it apart; of equal words the last counts."""
    with open_file(path) as file:
        lines = file.read().removesuffix(b"\n").split(b"\n")
    try:
        words = {line.decode().strip(): row for row, line in enumerate(lines)}
    except UnicodeDecodeError:
        raise UserError(f"{path} is not in UTF-8: {AGAIN}.") from None
    if UNKNOWN not in words:
        raise UserError(f"{path} lacks the word {UNKNOWN}, in whose place unknown words are read: {AGAIN}.")
    if len(words) < len(lines):
        log.info("%d of the %d words of %s are there twice; the last counts", len(lines) - len(words), len(lines), path)
    return words, len(lines)


def read_npy(path: Path) -> np.ndarray:
    """A table of numbers, mapped; one that is pickled, as Python 2 did, is read without running what is in it."""
    try:
        with open_file(path) as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            pickled, start = header(file)[2].hasobject, file.tell()
        table = np.load(path, mmap_mode="r") if not pickled else np.stack(list(read_pickle(path, start)))
        if table.ndim != 2 or table.dtype.kind != "f":
            raise ValueError(f"{table.dtype} of shape {table.shape}")
    except (ValueError, TypeError, EOFError) as error:
        raise UserError(f"{path} is no table of word vectors ({error}): {AGAIN}.") from None
    return table


def read_npz(path: Path, half: str) -> dict[str, Tensor]:
    """The encoder's GRU in PyTorch's names (`gru_state`). UserError for arrays that are absent or do not fit."""
    ways = {"": ""} if half == "uni" else {"": "", "r_": "_reverse"}
    state: dict[str, Tensor] = {}
    try:
        with np.load(path) as file:
            for way, suffix in ways.items():
                arrays = {name: file[f"encoder_{way}{name}"] for name in ("W", "b", "Wx", "bx", "U", "Ux")}
                e, h = arrays["Wx"].shape
                shapes = {"W": (e, 2 * h), "b": (2 * h,), "bx": (h,), "U": (h, 2 * h), "Ux": (h, h)}
                for name, shape in shapes.items():
                    if arrays[name].shape != shape:
                        raise ValueError(f"encoder_{way}{name} is of shape {arrays[name].shape}, not {shape}")
                state |= {f"{name}{suffix}": value for name, value in gru_state(arrays).items()}
    except Exception as error:  # whatever a cut archive makes NumPy and zipfile stumble over
        fault = str(error).strip("'\"")
        raise UserError(f"{path} is no skip-thought encoder of {half} ({fault}): {AGAIN}.") from None
    return state


def gru_state(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """A GRU of [K] in PyTorch's names: W E,2H, b 2H, U H,2H of its gates r and u; Wx E,H, bx H, Ux H,H of the state.

    r, u = sigmoid(x W + b + h U), n = tanh(x Wx + bx + r * (h Ux)), h' = u * h + (1 - u) * n.
    """
    joined = {
        "weight_ih_l0": np.concatenate([arrays["W"].T, arrays["Wx"].T]),
        "weight_hh_l0": np.concatenate([arrays["U"].T, arrays["Ux"].T]),
        "bias_ih_l0": np.concatenate([arrays["b"], arrays["bx"]]),
    }
    return {name: torch.from_numpy(value) for name, value in joined.items()}


# ---- vectors

EMBEDDINGS = "char-CNN-RNN-embeddings.pickle"


def tabled(found: Vectors, records: Records | None, path: Path) -> tuple[int, str, None, Tensor | None]:
    """The fields of `Text`: width, hash, no encoder, and the table where there are records.

    Caption k has the vector k; of an image with fewer vectors than captions, the vectors count round and round.
    """
    if records is None:
        first = vectors_of(found, next(iter(found), ""), path)
        return first.shape[1], "", None, None
    names, counts = [key.rpartition("/")[2] for key in records.keys], caption_counts(records)
    if absent := [name for name in names if name not in found]:
        raise UserError(
            f"{path} has no vectors of {absent[0]} (and {len(absent) - 1:,} more of {len(names):,} images): take the "
            "file of this data set."
        )
    table, fewer = torch.empty(0), 0
    for row, (name, n) in enumerate(zip(names, counts.tolist(), strict=True)):
        vectors = torch.from_numpy(vectors_of(found, name, path)).half()
        if not row:
            table = torch.zeros(len(names), int(counts.max()), vectors.shape[1], dtype=torch.float16)
        if vectors.shape[1] != table.shape[2] or not vectors.isfinite().all():
            fault = "no numbers" if vectors.shape[1] == table.shape[2] else f"{vectors.shape[1]} wide"
            raise UserError(f"{path} has vectors of {name} that are {fault}: take the original file.")
        table[row, :n] = vectors[torch.arange(n) % len(vectors)]
        fewer += len(vectors) < n
    if fewer:
        log.info("%s has fewer vectors than captions for %d images: theirs count round and round", path, fewer)
    return table.shape[2], sha256(table.numpy().tobytes())[:8], None, table


def vectors_of(found: Vectors, name: str, path: Path) -> np.ndarray:
    """n,T float32, n from 1 on, of an image. UserError for anything else."""
    vectors = np.empty(0, np.float32)
    try:
        vectors = np.asarray(found[name](), np.float32)
    except (KeyError, TypeError, ValueError, IndexError, OSError):
        pass
    if vectors.ndim != 2 or not vectors.size:
        raise UserError(f"{path} holds no vectors of {name or 'any image'}, one a caption: take the original file.")
    return vectors


def of_pickles(files: Sequence[Path]) -> Vectors:
    found: dict[str, Callable[[], Any]] = {}
    for file in files:
        names, vectors = read_keys(file.with_name("filenames.pickle")), read_pickle(file)
        if not isinstance(vectors, list | np.ndarray) or len(vectors) != len(names):
            raise UserError(f"{file} has not one array for each name of filenames.pickle: take both from one archive.")
        found |= {name.rpartition("/")[2]: held(each) for name, each in zip(names, vectors, strict=True)}
    return found


def held(value: Any) -> Callable[[], Any]:
    return lambda: value


def of_t7(file: Path) -> Callable[[], Any]:
    """`txt` of a file of Reed's, without the rows of captions that hold no word: the data have none of these."""

    def read() -> Any:
        content = read_t7(file)
        vectors = content["txt"] if isinstance(content, dict) else None
        if not isinstance(vectors, np.ndarray) or not isinstance(content.get("char"), np.ndarray):
            return vectors
        said = [bool(WORD.search(text)) for text in decode_char(content["char"], file)]
        return vectors[said] if len(said) == len(vectors) else vectors

    return read


def of_hdf5(path: Path, records: Records | None, dims: str) -> Text:
    """[P]'s cache of combine-skip vectors, of which `dims` takes the half asked for."""
    try:
        import h5py
    except ImportError:
        raise UserError(f"reading {path} needs the package h5py: pip install h5py.") from None
    open_file(path).close()
    try:
        file = h5py.File(path)
    except OSError as error:
        raise UserError(f"{path} is no HDF5 file ({error}): take the original file.") from None
    with file:
        images = {name: each for name, each in file.items() if re.search(r"\.jpe?g$", name)}
        if not images:
            some = ", ".join(list(file)[:3]) or "nothing"
            raise UserError(f"{path} holds {some}, no images such as image_00001.jpg: give [P]'s flower_tv.hdf5.")
        width = int((getattr(next(iter(images.values())), "shape", ()) or (0,))[-1])
        taken = {"uni": slice(width // 2), "bi": slice(width // 2, None)}.get(dims, slice(None))
        found = {name.rpartition(".")[0]: part_of(each, taken) for name, each in images.items()}
        return Text(*tabled(found, records, path))


def part_of(vectors: Any, columns: slice) -> Callable[[], Any]:
    return lambda: np.asarray(vectors)[:, columns]
