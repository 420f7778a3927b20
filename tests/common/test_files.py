"""Files written whole or not at all, things made once, and the sentence for a value that is not known."""

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError, choose
from common.files import cached, file_hash, locked, read_cached, sha256, short_hash, whole, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_moved_into_place_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.npz"
    with whole(path) as part:
        assert (part.parent, part.suffix) == (path.parent, ".npz")  # numpy appends .npz to any other name
        part.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    assert names(path.parent) == ["table.npz"]


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), FileNotFoundError(2, "none", "other.csv")])
def test_what_fails_leaves_the_old_file_and_its_own_error(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    write_whole(path, "old")

    def write() -> None:
        with whole(path) as part:
            part.write_text("ne")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert (names(tmp_path), path.read_text()) == (["a.txt"], "old")


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("[enforce fail at inline_container.cc:784]")],
)
def test_a_full_disk_is_said_and_leaves_the_old_file(tmp_path: Path, error: Exception) -> None:
    path = tmp_path / "a.pt"
    torch.save(1, path)
    with pytest.raises(UserError, match=r"a\.pt cannot be written \(No space left.*take paths\.runs"):
        with whole(path, "take paths.runs=FOLDER"):
            raise error
    assert (names(tmp_path), torch.load(path)) == (["a.pt"], 1)


def test_a_place_that_cannot_be_written_is_said_before_the_body_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.txt", tmp_path / "file" / "deeper" / "a.txt"):  # for root nothing is read-only
        with pytest.raises(UserError, match="cannot be written"), whole(path):
            pytest.fail("the body ran")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(UserError, match=r"folder\.txt cannot be written"):
        write_whole(tmp_path / "folder.txt", "text")
    assert names(tmp_path) == ["file", "folder.txt"]


MAKE = """
import sys, time
from pathlib import Path
from common.files import cached
def make(part):
    with open(sys.argv[2], "a") as file:
        file.write("made\\n")
    part.write_text("whole")
assert cached(sys.argv[1], make).read_text() == "whole"
"""


def test_what_is_cached_is_made_once_by_processes_at_a_time(tmp_path: Path) -> None:
    path, told = tmp_path / "kept.txt", tmp_path / "told.txt"
    command = [sys.executable, "-c", MAKE, str(path), str(told)]
    running = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(4)]
    assert [process.wait() for process in running] == [0] * 4
    assert told.read_text() == "made\n"
    assert names(tmp_path) == ["kept.txt", "told.txt"]  # no lock, no part


def test_what_could_not_be_made_is_absent_and_made_the_next_time(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        cached(tmp_path / "a.txt", lambda part: 1 / 0)
    assert names(tmp_path) == []
    assert cached(tmp_path / "a.txt", lambda part: part.write_text("there")).read_text() == "there"
    assert cached(tmp_path / "a.txt", lambda part: pytest.fail("made again")).read_text() == "there"


def test_a_lock_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/a cannot be written"), locked(tmp_path / "file" / "a"):
        pytest.fail("the body ran")


def test_hashes(tmp_path: Path) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # FIPS 180-4
    assert (sha256(""), sha256(b"")) == (empty, empty)
    (tmp_path / "a").write_bytes(b"")
    assert file_hash(tmp_path / "a") == empty[:8]
    assert short_hash({"a": 1, "b": Path("x")}) == short_hash({"b": "x", "a": 1}) != short_hash({"a": 2, "b": "x"})


def test_a_value_that_is_not_known_is_refused_with_the_nearest() -> None:
    assert choose("model.norm", "batch", ("batch", "instance")) == "batch"
    assert choose("trainer.compile", None, ("auto", None)) is None
    with pytest.raises(
        UserError, match=r"^model\.norm=btach is not known: did you mean batch\? There are batch, none\.$"
    ):
        choose("model.norm", "btach", ("batch", "none"))
    with pytest.raises(UserError, match=r"trainer\.compile=fals .* mean false\? There are auto, false, null\."):
        choose("trainer.compile", "fals", ("auto", False, None))
    with pytest.raises(UserError, match=r"space=\['a'\] is not known"):
        choose("space", ["a"], {"phi": 1, "image": 2})


@pytest.mark.parametrize("kept", [0, 1, 100])
def test_a_cache_that_was_cut_is_made_anew(tmp_path: Path, kept: int, caplog: pytest.LogCaptureFixture) -> None:
    table, made = np.arange(100.0), []

    def make(part: Path) -> None:
        made.append(part)
        np.save(part, table)

    path = tmp_path / "table.npy"
    for _ in range(2):
        assert np.array_equal(read_cached(path, make, np.load), table)
    assert len(made) == 1
    path.write_bytes(path.read_bytes()[:kept])
    assert np.array_equal(read_cached(path, make, np.load), table)
    assert len(made) == 2
    assert f"{path} cannot be read" in caplog.text
