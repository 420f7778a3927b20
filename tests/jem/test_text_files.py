"""Sentence vectors in others' files: [K]'s GRUs (check 13) and word tables, [P]'s cache, char-CNN-RNN vectors."""

import builtins
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.data.records import Records
from common.errors import UserError
from jem.skipthoughts import skipthoughts
from jem.text_files import EMBEDDINGS, gru_state, read_text
from tests.agree import agree
from tests.worlds.layouts import encode, refusal, t7

WORDS = ["<eos>", "UNK", "flower", "a", "red", "Rose", "is", "this", "unsaid", "tulip"]
CAPTIONS = (("a red flower .", "this is a Rose"), ("A red flower",))
E, H = 6, 5


def records(captions: tuple[tuple[str, ...], ...] = CAPTIONS) -> Records:
    keys = tuple(f"image_{i:05d}" for i in range(1, len(captions) + 1))
    labels, test = np.arange(len(keys)), np.zeros(len(keys), bool)
    return Records("toy", Path("toy"), keys, tuple(map(Path, keys)), labels, keys, test, captions)


# ---- the step of the GRU


def arrays(e: int, h: int, seed: int = 0, way: str = "") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"W": (e, 2 * h), "b": (2 * h,), "Wx": (e, h), "bx": (h,), "U": (h, 2 * h), "Ux": (h, h)}
    return {f"{way}{name}": rng.normal(size=shape) for name, shape in shapes.items()}


def by_hand(x: np.ndarray, h: np.ndarray, p: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """The step as [K] writes it: r, u, n, h'."""
    r, u = np.split(1 / (1 + np.exp(-(x @ p["W"] + p["b"] + h @ p["U"]))), 2)
    n = np.tanh(x @ p["Wx"] + p["bx"] + r * (h @ p["Ux"]))
    return r, u, n, u * h + (1 - u) * n


def cell(p: dict[str, np.ndarray]) -> nn.GRU:
    net = nn.GRU(*p["Wx"].shape, batch_first=True)
    state = gru_state(p)
    net.load_state_dict(state | {"bias_hh_l0": torch.zeros(len(state["bias_ih_l0"]))})
    return net


@pytest.mark.usefixtures("float64")
def test_a_step_of_numbers() -> None:
    """Check 13: x = 1, h = 0.5."""
    p = {"W": [[0.1, 0.2]], "b": [0.0, 0.0], "Wx": [[0.3]], "bx": [0.0], "U": [[0.4, 0.5]], "Ux": [[0.6]]}
    plain = {name: np.array(value) for name, value in p.items()}
    found = by_hand(np.array([1.0]), np.array([0.5]), plain)
    assert [one.item() for one in found] == pytest.approx([0.574443, 0.610639, 0.440082, 0.476670], abs=5e-7)
    h = cell(plain)(torch.ones(1, 1, 1), torch.full((1, 1, 1), 0.5))[1]
    agree(h.flatten(), torch.from_numpy(found[3]))


@pytest.mark.usefixtures("float64")
def test_a_step_of_matrices_that_are_not_square() -> None:
    """Check 13: W is 6 wide and h 5, so that a transpose or a swap of r and u shows."""
    p, rng = arrays(6, 5), np.random.default_rng(1)
    words, h = rng.normal(size=(4, 6)), np.zeros(5)
    with torch.no_grad():
        found = cell(p)(torch.from_numpy(words)[None])[0][0]
    for x, ours in zip(words, found, strict=True):
        h = by_hand(x, h, p)[3]
        agree(ours, torch.from_numpy(h))


# ---- [K]


def make_published(folder: Path, *, lines: list[str] = WORDS, pickled: bool = False) -> dict[str, np.ndarray]:
    """A folder of the published layout; with other arrays that nobody reads. -> utable, btable."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    tables = {name: rng.normal(size=(len(lines), E)).astype(np.float32) for name in ("utable", "btable")}
    (folder / "dictionary.txt").write_bytes("".join(f"{line}\n" for line in lines).encode())
    for name, table in tables.items():
        if pickled:
            rows = np.empty(len(table), object)
            rows[:] = list(table)
            np.save(folder / f"{name}.npy", rows, allow_pickle=True)
        else:
            np.save(folder / f"{name}.npy", table)
    more = {"Wemb": np.zeros((3, E)), "decoder_W": np.zeros((E, 4))}
    np.savez(folder / "uni_skip.npz", **half(E, 2 * H, 0, "encoder_"), **more)
    np.savez(folder / "bi_skip.npz", **half(E, H, 1, "encoder_"), **half(E, H, 2, "encoder_r_"), **more)
    return tables


def half(e: int, h: int, seed: int, way: str) -> dict[str, Any]:
    return {name: value.astype(np.float32) for name, value in arrays(e, h, seed, way).items()}


def test_published_files_encode_as_their_own_code_does(tmp_path: Path) -> None:
    """Each half from its own table and GRU, bi forwards first, each of length 1, words as they are spelt."""
    tables = make_published(tmp_path)
    text = read_text(tmp_path, records())
    assert text.encoder is not None
    assert (text.dim, text.table, text.encoder.hash) == (4 * H, None, text.hash)
    ids = [WORDS.index(word) for word in ("this", "is", "UNK", "Rose")]

    def state(table: np.ndarray, rows: list[int], h: int, seed: int) -> np.ndarray:
        at = np.zeros(h)
        for row in rows:
            at = by_hand(table[row].astype(float), at, arrays(E, h, seed))[3]
        return at

    uni = state(tables["utable"], ids, 2 * H, 0)
    bi = np.concatenate([state(tables["btable"], ids, H, 1), state(tables["btable"], ids[::-1], H, 2)])
    expected = np.concatenate([uni / np.linalg.norm(uni), bi / np.linalg.norm(bi)])
    torch.testing.assert_close(text.encoder.encode(["this is xyz Rose"])[0], torch.from_numpy(expected).float())


@pytest.mark.parametrize("dims", ["uni", "bi"])
def test_one_half_needs_the_files_of_that_half_alone(tmp_path: Path, dims: str) -> None:
    make_published(tmp_path)
    both = read_text(tmp_path, records())
    other = {"uni": "b", "bi": "u"}[dims]
    (tmp_path / f"{other}table.npy").unlink()
    text = read_text(tmp_path, records(), dims)
    assert (text.dim, text.hash != both.hash) == (2 * H, True)
    assert text.encoder is not None
    assert both.encoder is not None
    part = slice(2 * H) if dims == "uni" else slice(2 * H, None)
    torch.testing.assert_close(text.encoder.encode(["a flower"]), both.encoder.encode(["a flower"])[:, part])
    message = refusal(lambda: read_text(tmp_path, records()))
    assert f"lacks {'bi' if dims == 'uni' else 'uni'}_skip.npz" in message
    assert f"model.sentence.dims={dims}" in message


def test_tables_are_mapped_and_an_export_takes_the_captions_words_along(tmp_path: Path) -> None:
    make_published(tmp_path)
    encoder = read_text(tmp_path, records()).encoder
    assert encoder is not None
    assert all(isinstance(table, np.memmap) for table in encoder.tables.values())
    assert encoder.unknown("a tulip and a unsaid rose") == ["and", "rose"]  # the whole dictionary is at hand
    again = skipthoughts(encoder.export(), "jem.pt")
    assert set(again.words) == {"UNK", "a", "red", "flower", "this", "is", "Rose"}
    sentences = [sentence for captions in CAPTIONS for sentence in captions]
    assert torch.equal(again.encode(sentences), encoder.encode(sentences))
    assert again.unknown("a tulip") == ["tulip"]
    assert read_text(tmp_path, None).hash == again.hash


def test_pickled_tables_of_python_2_are_read_without_running_them(tmp_path: Path) -> None:
    tables = make_published(tmp_path / "plain")
    make_published(tmp_path / "pickled", pickled=True)
    encoder = read_text(tmp_path / "pickled", records()).encoder
    assert encoder is not None
    assert np.array_equal(encoder.tables["uni"], tables["utable"])
    bad = np.empty(1, object)
    bad[0] = Danger()
    np.save(tmp_path / "pickled" / "utable.npy", bad, allow_pickle=True)
    assert "utable.npy is not a pickle that can be read safely" in refusal(
        lambda: read_text(tmp_path / "pickled", records())
    )


class Danger:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit",)


def test_words_that_become_equal_are_said_and_the_last_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As zip() over the stripped lines makes it in [K]'s own code."""
    lines = [*WORDS, " red", "red\u2029"]
    make_published(tmp_path, lines=lines)
    with caplog.at_level(logging.INFO):
        encoder = read_text(tmp_path, records()).encoder
    assert encoder is not None
    assert encoder.row("red") == len(lines) - 1
    assert "2 of the 12 words" in caplog.text
    assert "dictionary.txt is not the published file" in caplog.text  # its md5: a warning, no more


def change(folder: Path, name: str, key: str | None, how: Callable[[np.ndarray], np.ndarray]) -> None:
    if key is None:
        np.save(folder / name, how(np.load(folder / name)))
        return
    content = dict(np.load(folder / name))
    content[key] = how(content[key])
    np.savez(folder / name, **content)


@pytest.mark.parametrize(
    ("name", "key", "how", "fault"),
    [
        ("utable.npy", None, lambda x: x[:-1], r"utable\.npy is of shape \(9, 6\), .* of \(10, 6\)"),
        ("btable.npy", None, lambda x: x[:, :-1], r"btable\.npy is of shape \(10, 5\)"),
        ("utable.npy", None, lambda x: x.astype(int), r"utable\.npy is no table of word vectors \(int64"),
        ("utable.npy", None, lambda x: x[0], r"utable\.npy is no table of word vectors"),
        (
            "uni_skip.npz",
            "encoder_U",
            lambda x: x.T,
            r"uni_skip\.npz .*encoder_U is of shape \(20, 10\), not \(10, 20\)",
        ),
        ("uni_skip.npz", "encoder_Wx", lambda x: x[0], r"uni_skip\.npz is no skip-thought encoder of uni"),
        (
            "bi_skip.npz",
            "encoder_r_bx",
            lambda x: x[1:],
            r"bi_skip\.npz .*encoder_r_bx is of shape \(4,\), not \(5,\)",
        ),
    ],
)
def test_files_of_the_wrong_shape_are_refused(tmp_path: Path, name: str, key: str, how: Any, fault: str) -> None:
    make_published(tmp_path)
    change(tmp_path, name, key, how)
    with pytest.raises(UserError, match=rf"{fault}.*rkiros/models"):
        read_text(tmp_path, records())


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("uni_skip.npz", b"PK\x03\x04cut", r"uni_skip\.npz is no skip-thought encoder of uni"),
        ("utable.npy", b"\x93NUMPY\x01\x00v", r"utable\.npy is no table of word vectors"),
        ("dictionary.txt", b"a\nred\n", r"dictionary\.txt lacks the word UNK"),
        ("dictionary.txt", b"UNK\n\xff\xfe\n", r"dictionary\.txt is not in UTF-8"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes, fault: str) -> None:
    make_published(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{fault}.*rkiros/models"):
        read_text(tmp_path, records())


def test_an_archive_without_an_array_names_it(tmp_path: Path) -> None:
    make_published(tmp_path)
    np.savez(tmp_path / "bi_skip.npz", **half(E, H, 1, "encoder_"))
    assert "encoder_r_W" in refusal(lambda: read_text(tmp_path, records()))


# ---- vectors

THREE = (("one", "two", "three"), ("four",), ("five", "six"))
NAMES = [f"image_{i:05d}" for i in (1, 2, 3)]


def vectors(width: int, rows: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: rng.normal(size=(rows, width)).astype(np.float32) for name in NAMES}


def check_table(table: Tensor | None, given: dict[str, np.ndarray]) -> None:
    """N,C,T float16: caption k has vector k; nothing where there is no caption."""
    assert table is not None
    assert (table.dtype, table.shape[:2]) == (torch.float16, (3, 3))
    for row, (name, n) in enumerate(zip(NAMES, (3, 1, 2), strict=True)):
        assert torch.equal(table[row, :n], torch.from_numpy(given[name][:n]).half())
        assert not table[row, n:].any()


def make_hdf5(path: Path, given: dict[str, Any]) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, value in given.items():
            file.create_dataset(name, data=value)


def test_a_cache_of_skip_thoughts(tmp_path: Path) -> None:
    """[P]'s: combine-skip, of which it reads uni."""
    given, path = vectors(8), tmp_path / "flower_tv.hdf5"
    make_hdf5(path, {f"{name}.jpg": value for name, value in given.items()})
    for dims, part in (("combine", slice(8)), ("uni", slice(4)), ("bi", slice(4, 8))):
        text = read_text(path, records(THREE), dims)
        assert (text.encoder, text.dim) == (None, part.stop - (part.start or 0))
        check_table(text.table, {name: value[:, part] for name, value in given.items()})
        assert len(text.hash) == 8
        bare = read_text(path, None, dims)
        assert (bare.dim, bare.table) == (text.dim, None)


def test_fewer_vectors_than_captions_count_round_and_round(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """[P] has five of ten: no caption may be drawn that has the vector 0."""
    given, path = vectors(8, rows=2), tmp_path / "flower_tv.hdf5"
    make_hdf5(path, {f"{name}.jpg": value for name, value in given.items()})
    with caplog.at_level(logging.INFO):
        table = read_text(path, records(THREE)).table
    assert "for 1 images" in caplog.text
    check_table(table, {name: np.concatenate([value, value]) for name, value in given.items()})


def test_caches_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {f"{name}.jpg": value for name, value in vectors(8).items()}
    nan = {**given, "image_00002.jpg": np.full((3, 8), np.nan)}
    narrow = {**given, "image_00003.jpg": np.zeros((3, 6))}
    flat = {**given, "image_00001.jpg": np.zeros(8)}
    cases = {
        "image_00002 that are no numbers": nan,
        "image_00003 that are 6 wide": narrow,
        "no vectors of image_00001": flat,
        "no vectors of image_00001 (and 1 more": {"image_00003.jpg": given["image_00003.jpg"]},
        "holds vectors, no images such as image_00001.jpg: give [P]'s flower_tv.hdf5": {"vectors": np.zeros((3, 8))},
        "holds nothing, no images": {},
    }
    for number, (fault, content) in enumerate(cases.items()):
        path = tmp_path / f"{number}.hdf5"
        make_hdf5(path, content)
        assert fault in refusal(lambda path=path: read_text(path, records(THREE)))  # type: ignore[misc]
    (tmp_path / "text.hdf5").write_text("no")
    assert "text.hdf5 is no HDF5 file" in refusal(lambda: read_text(tmp_path / "text.hdf5", records(THREE)))
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert "pip install h5py" in refusal(lambda: read_text(tmp_path / "0.hdf5", records(THREE)))


def make_stackgan(folder: Path, given: dict[str, np.ndarray]) -> None:
    """The first two images for training, the last for testing, each split in an order of its own."""
    for part, names in (("train", NAMES[1::-1]), ("test", NAMES[2:])):
        (folder / part).mkdir(parents=True)
        content: Any = [given[name] for name in names]
        for name, value in (("filenames.pickle", [f"jpg/{name}" for name in names]), (EMBEDDINGS, content)):
            (folder / part / name).write_bytes(pickle.dumps(value, protocol=2))


def test_stackgans_vectors(tmp_path: Path) -> None:
    given = vectors(4)
    make_stackgan(tmp_path, given)
    text = read_text(tmp_path, records(THREE), "char")
    assert (text.dim, text.encoder) == (4, None)
    check_table(text.table, given)
    (tmp_path / "train" / "filenames.pickle").write_bytes(pickle.dumps(["jpg/image_00001"]))
    assert "not one array for each name" in refusal(lambda: read_text(tmp_path, records(THREE), "char"))
    (tmp_path / "train" / EMBEDDINGS).unlink()
    message = refusal(lambda: read_text(tmp_path, records(THREE), "char"))
    assert "has no vectors of image_00001 (and 1 more of 3 images)" in message


def test_reeds_vectors_are_of_the_captions_that_say_something(tmp_path: Path) -> None:
    given = vectors(4)
    for row, (name, captions) in enumerate(zip(NAMES, THREE, strict=True)):
        (tmp_path / f"class_{row:05d}").mkdir()
        said = [captions[0], " .", *captions[1:]]  # a blank line, which the data have left out
        txt = np.insert(given[name][: len(captions)], 1, 99.0, axis=0).astype(np.float64)
        content = t7({"img": f"jpg/{name}.jpg", "txt": txt.copy(), "char": encode(said).T})
        (tmp_path / f"class_{row:05d}" / f"{name}.t7").write_bytes(content)
    text = read_text(tmp_path, records(THREE), "char")
    assert text.dim == 4
    check_table(text.table, given)
    (tmp_path / "class_00001" / f"{NAMES[1]}.t7").write_bytes(t7({"img": "jpg/x.jpg"}))
    assert "holds no vectors of image_00002" in refusal(lambda: read_text(tmp_path, records(THREE), "char"))


def test_what_holds_no_vectors_says_what_does(tmp_path: Path) -> None:
    assert "dictionary.txt and uni_skip.npz" in refusal(lambda: read_text(tmp_path, records()))
    assert "no weights file at" in refusal(lambda: read_text(tmp_path / "absent.pt", records()))
    torch.save({"format": 1, "kind": "vse"}, tmp_path / "vse.pt")
    assert "give the file that model=skipthought made" in refusal(lambda: read_text(tmp_path / "vse.pt", records()))
    make_stackgan(tmp_path / "char", vectors(4))
    bare = records(())
    assert "has no captions" in refusal(lambda: read_text(tmp_path / "char", bare))
