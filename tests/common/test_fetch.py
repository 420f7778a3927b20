"""Downloads from a server on this machine, and archives made to be refused."""

import gzip
import io
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.data.readers.download import fetch, unpack
from common.errors import UserError
from tests.worlds.archives import PACKED, PHOTOS, Server, md5, serving, tgz, tree, zipped


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with serving() as state:
        yield state


# ---- downloading


def test_download_arrives_whole_and_leaves_no_part(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = os.urandom(50_000)
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", md5(server.files["a.bin"]))
    assert tree(tmp_path) == {"a.bin": server.files["a.bin"]}


def test_half_a_file_is_resumed_from_its_end(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = content = os.urandom(50_000)
    (tmp_path / "a.bin.part").write_bytes(content[:20_000])
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", md5(content))
    assert server.asked == [("a.bin", "20000")]
    assert tree(tmp_path) == {"a.bin": content}


def test_a_server_that_knows_no_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"], server.ranges = os.urandom(50_000), False
    (tmp_path / "a.bin.part").write_bytes(b"stale" * 1000)
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", md5(server.files["a.bin"]))
    assert tree(tmp_path) == {"a.bin": server.files["a.bin"]}


@pytest.mark.parametrize(("beyond", "asked"), [(b"", ["50000"]), (b"more", ["50004", "0"])])
def test_a_part_that_is_whole_or_too_long(server: Server, tmp_path: Path, beyond: bytes, asked: list[str]) -> None:
    server.files["a.bin"] = content = os.urandom(50_000)
    (tmp_path / "a.bin.part").write_bytes(content + beyond)
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", md5(content))
    assert [start for _, start in server.asked] == asked
    assert tree(tmp_path) == {"a.bin": content}


def test_a_connection_that_breaks_is_taken_up_again(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"], server.cut = os.urandom(50_000), 30_000
    fetch(f"{server.url}/a.bin", tmp_path / "a.bin", md5(server.files["a.bin"]))
    assert [start for _, start in server.asked] == ["0", "30000"]
    assert tree(tmp_path) == {"a.bin": server.files["a.bin"]}


def test_a_server_that_sends_nothing_ends_the_download_and_keeps_the_part(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"], server.cut = os.urandom(50_000), 0
    (tmp_path / "a.bin.part").write_bytes(server.files["a.bin"][:100])
    with pytest.raises(OSError, match="stopped at 100 of 50,000 bytes"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin.part").stat().st_size == 100


def test_another_file_than_promised_is_deleted(server: Server, tmp_path: Path) -> None:
    server.files["a.bin"] = b"<html>please log in</html>"
    with pytest.raises(UserError, match=rf"a\.bin\.part has the MD5 {md5(server.files['a.bin'])}, not {md5(b'bird')}"):
        fetch(f"{server.url}/a.bin", tmp_path / "a.bin", md5(b"bird"))
    assert tree(tmp_path) == {}


# ---- unpacking


def linked(kind: bytes, target: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("inner/link")
        entry.type, entry.linkname = kind, target
        archive.addfile(entry)
    return packed.getvalue()


def symlink_in_zip() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        entry = zipfile.ZipInfo("inner/link")
        entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc")
    return packed.getvalue()


BAD = {
    "up.tgz": (tgz({"good.txt": b"", "../evil.txt": b"evil"}), "../evil.txt"),
    "inner-up.tgz": (tgz({"a/../../evil.txt": b"evil"}), "a/../../evil.txt"),
    "absolute.tgz": (tgz({"/tmp/evil-prepare-test.txt": b"evil"}), "/tmp/evil-prepare-test.txt"),
    "drive.tgz": (tgz({"C:evil.txt": b"evil"}), "C:evil.txt"),
    "backslash.tgz": (tgz({"..\\evil.txt": b"evil"}), "..\\evil.txt"),
    "symlink.tgz": (linked(tarfile.SYMTYPE, "/etc"), "inner/link"),
    "inner-symlink.tgz": (linked(tarfile.SYMTYPE, "good.txt"), "inner/link"),
    "hardlink.tgz": (linked(tarfile.LNKTYPE, "/etc/passwd"), "inner/link"),
    "device.tgz": (linked(tarfile.CHRTYPE, ""), "inner/link"),
    "fifo.tgz": (linked(tarfile.FIFOTYPE, ""), "inner/link"),
    "up.zip": (zipped({"good.txt": b"", "../evil.txt": b"evil"}), "../evil.txt"),
    "absolute.zip": (zipped({"/tmp/evil-prepare-test.txt": b"evil"}), "/tmp/evil-prepare-test.txt"),
    "symlink.zip": (symlink_in_zip(), "inner/link"),
}


@pytest.mark.parametrize("name", BAD)
def test_malicious_archives_are_refused_and_write_nothing(tmp_path: Path, name: str) -> None:
    content, member = BAD[name]
    file, folder = tmp_path / name, tmp_path / "data" / "cub"
    file.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{file} has a member {member!r}")):
        unpack(file, folder)
    assert tree(tmp_path) == {name: content}
    assert not any(folder.iterdir())
    assert not Path("/tmp/evil-prepare-test.txt").exists()


def nameless_zip(name: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("good.txt", b"")
        archive.writestr(zipfile.ZipInfo(name), b"odd")
    return packed.getvalue()


ODD = {
    "nameless.tgz": tgz({"good.txt": b"", "": b"odd"}),
    "dot.tgz": tgz({"good.txt": b"", ".": b"odd"}),
    "nameless.zip": nameless_zip(""),
    "dot.zip": nameless_zip("."),
    "long.tgz": tgz({"good.txt": b"", "a" * 300: b"odd"}),
    "long.zip": zipped({"good.txt": b"", "a" * 300: b"odd"}),
    "file-and-folder.tgz": tgz({"good.txt": b"", "a": b"odd", "a/b.txt": b"odd"}),
    "file-and-folder.zip": zipped({"good.txt": b"", "a": b"odd", "a/b.txt": b"odd"}),
    "in-the-way.tgz": tgz({"good.txt": b"", "there": b"odd"}),
    "in-the-way.zip": zipped({"good.txt": b"", "there": b"odd"}),
}


@pytest.mark.parametrize("name", ODD)
def test_members_that_cannot_be_files_are_a_sentence_and_write_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(ODD[name])
    (tmp_path / "data/there").mkdir(parents=True)
    (tmp_path / "data/there/mine.txt").write_bytes(b"mine")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / name} has a member")):
        unpack(tmp_path / name, tmp_path / "data")
    assert tree(tmp_path / "data") == {"there/mine.txt": b"mine"}


def test_an_archive_of_a_folder_as_such_is_unpacked(tmp_path: Path) -> None:
    """tar czf x.tgz . begins with the folder itself."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        here = tarfile.TarInfo(".")
        here.type, here.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(here)
        entry = tarfile.TarInfo("./a.txt")
        entry.size = 2
        archive.addfile(entry, io.BytesIO(b"ab"))
    (tmp_path / "x.tgz").write_bytes(packed.getvalue())
    unpack(tmp_path / "x.tgz", tmp_path / "data")
    assert tree(tmp_path / "data") == {"a.txt": b"ab"}


@pytest.mark.parametrize("place", [-1, -6, -8])  # of the length, and of the checksum, behind the last member
def test_one_bit_flipped_in_a_tgz_is_found(tmp_path: Path, place: int) -> None:
    content = bytearray(PACKED)
    content[place] ^= 1
    (tmp_path / "birds.tgz").write_bytes(content)
    with pytest.raises(UserError, match="cut or damaged"):
        unpack(tmp_path / "birds.tgz", tmp_path / "data")
    assert tree(tmp_path / "data") == {}


def test_every_flipped_bit_of_the_pixels_is_found(tmp_path: Path) -> None:
    """Stored as they are, so that no decompressor stumbles: only the checksum can tell."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=0) as file:
        file.write(gzip.decompress(tgz({"a.txt": bytes(3000)})))
    whole = packed.getvalue()
    for place in range(700, 3000, 500):
        content = bytearray(whole)
        content[place] ^= 16
        (tmp_path / "a.tgz").write_bytes(content)
        with pytest.raises(UserError, match="cut or damaged"):
            unpack(tmp_path / "a.tgz", tmp_path / "data")
        assert tree(tmp_path / "data") == {}


@pytest.mark.parametrize("name", ["birds.tgz", "birds.zip"])
def test_a_damaged_archive_changes_nothing(tmp_path: Path, name: str) -> None:
    whole = PACKED if name == "birds.tgz" else zipped(PHOTOS)
    for content in (whole[: len(whole) // 2], b"<html>", b""):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="cut or damaged"):
            unpack(tmp_path / name, tmp_path / "data")
        assert tree(tmp_path / "data") == {}


@pytest.mark.parametrize("name", ["birds.tgz", "birds.zip"])
def test_unpacking_fills_a_partial_copy_and_keeps_what_else_is_there(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PACKED if name == "birds.tgz" else zipped(PHOTOS))
    data = tmp_path / "data"
    (data / "CUB/images/1.a").mkdir(parents=True)
    (data / "CUB/images/1.a/x.jpg").write_bytes(b"cut")
    (data / "CUB/mine.txt").write_bytes(b"mine")
    (data / f"{name}.partial").mkdir()  # a start that was killed
    (data / f"{name}.partial" / "stale").write_bytes(b"stale")
    unpack(tmp_path / name, data)
    assert tree(data) == PHOTOS | {"CUB/mine.txt": b"mine"}


@pytest.mark.parametrize("members", [("text_c10/1.a/x.txt", "list.txt"), ("cap/text_c10/1.a/x.txt", "cap/list.txt")])
def test_members_get_their_top_folder_where_the_archive_has_none(tmp_path: Path, members: tuple[str, ...]) -> None:
    (tmp_path / "captions.tar.gz").write_bytes(tgz(dict.fromkeys(members, b"a bird")))
    for _ in range(2):
        unpack(tmp_path / "captions.tar.gz", tmp_path / "data", top="cap")
    assert set(tree(tmp_path / "data")) == {"cap/text_c10/1.a/x.txt", "cap/list.txt"}
