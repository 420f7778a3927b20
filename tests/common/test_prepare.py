"""task=prepare with small archives in place of the real ones, and the table of the real ones."""

import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.data.readers import known
from common.data.readers.archives import prepare
from common.data.readers.cub import CUB
from common.data.readers.folder import Folder
from common.data.readers.presence import Archive, Part
from common.errors import UserError
from tests.worlds.archives import PACKED, PHOTOS, Server, md5, serving, tgz, tree, zipped
from tests.worlds.layouts import make_cub

PAGE = "https://example.org/birds"
Offer = Callable[..., None]
IMAGES = Part("images", ("CUB/images",), 2)


def the_archive(url: str, **changes: object) -> Archive:
    facts: dict = {"parts": (IMAGES, Part("names.txt", ("names.txt",))), "url": f"{url}/birds.tgz", "md5": md5(PACKED)}
    return Archive("birds.tgz", PAGE, **(facts | changes))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with serving() as state:
        yield state


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Offer:
    """offer(*archives): the archives that data=cub consists of."""
    return lambda *archives: monkeypatch.setattr(CUB, "dataset", replace(CUB.dataset, archives=archives))


# ---- the command


def test_prepare_downloads_and_unpacks_once(server: Server, tmp_path: Path, offer: Offer) -> None:
    server.files["birds.tgz"] = PACKED
    offer(the_archive(server.url))
    prepare(CUB, tmp_path / "data")
    assert tree(tmp_path / "data") == PHOTOS | {"birds.tgz": PACKED}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    prepare(CUB, tmp_path / "data")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert len(server.asked) == 1


def test_prepare_takes_an_archive_that_lies_there(server: Server, tmp_path: Path, offer: Offer) -> None:
    (tmp_path / "birds.tgz").write_bytes(PACKED)
    offer(the_archive(server.url))
    prepare(CUB, tmp_path)
    assert tree(tmp_path) == PHOTOS | {"birds.tgz": PACKED}
    assert server.asked == []


def test_prepare_keeps_a_persons_archive_with_another_md5(server: Server, tmp_path: Path, offer: Offer) -> None:
    (tmp_path / "birds.tgz").write_bytes(PACKED[:100])
    offer(the_archive(server.url))
    with pytest.raises(UserError, match="delete it, then start the same command again"):
        prepare(CUB, tmp_path)
    assert tree(tmp_path) == {"birds.tgz": PACKED[:100]}


def test_prepare_completes_a_partial_copy(server: Server, tmp_path: Path, offer: Offer) -> None:
    server.files["birds.tgz"] = PACKED
    offer(the_archive(server.url))
    (tmp_path / "CUB/images/1.a").mkdir(parents=True)
    (tmp_path / "CUB/images/1.a/x.jpg").write_bytes(PHOTOS["CUB/images/1.a/x.jpg"])
    prepare(CUB, tmp_path)
    assert tree(tmp_path) == PHOTOS | {"birds.tgz": PACKED}


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert ". " not in text.removesuffix(".")
    return text


def test_no_network_is_one_sentence_with_every_file_page_and_place(
    tmp_path: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    url = closed_port()
    captions = (Part("captions", ("text",), 2),)
    offer(
        the_archive(url),
        Archive("more.tgz", PAGE, (Part("more", ("more",)),), url=f"{url}/more.tgz"),
        Archive("reed.tar.gz", "the Drive", captions),
        Archive("gan.zip", "the other Drive", captions),
    )
    with pytest.raises(UserError) as error:
        prepare(CUB, tmp_path)
    text = one_sentence(error)
    for words in (
        f"birds.tgz from {PAGE}",
        f"more.tgz from {PAGE}",
        "reed.tar.gz from the Drive or gan.zip",
        "images 0 of 2",
    ):
        assert words in text
    assert f"into {tmp_path}, then start the same command again" in text
    assert text.count("refused") == 1

    (tmp_path / "birds.tgz").write_bytes(PACKED)  # the same command goes on with what a person puts there
    (tmp_path / "more.tgz").write_bytes(tgz({"more": b"more"}))
    (tmp_path / "gan.zip").write_bytes(zipped({"text/1.a/x.txt": b"a bird", "text/2.b/y.txt": b"a bird"}))
    prepare(CUB, tmp_path)
    assert set(PHOTOS) | {"more", "text/1.a/x.txt", "text/2.b/y.txt"} <= set(tree(tmp_path))


def test_a_refusal_of_one_page_does_not_stop_the_other_files(server: Server, tmp_path: Path, offer: Offer) -> None:
    server.files["birds.tgz"] = PACKED
    offer(Archive("more.tgz", PAGE, (Part("more", ("more",)),), url=f"{server.url}/more.tgz"), the_archive(server.url))
    with pytest.raises(UserError, match=r"put more\.tgz from .* \(the download failed: Forbidden\)") as error:
        prepare(CUB, tmp_path)
    assert "birds.tgz" not in one_sentence(error)
    assert set(PHOTOS) <= set(tree(tmp_path))


def test_an_archive_without_what_it_should_hold_is_named(server: Server, tmp_path: Path, offer: Offer) -> None:
    offer(Archive("reed.tar.gz", "the Drive", (Part("captions", ("text",), 2),)))
    (tmp_path / "reed.tar.gz").write_bytes(tgz({"text/1.a/x.txt": b"a bird"}))
    with pytest.raises(UserError, match=rf"captions 1 of 2.*the one at {tmp_path}/reed\.tar\.gz lacks captions"):
        prepare(CUB, tmp_path)


def test_what_only_some_models_read_is_a_warning(
    tmp_path: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    offer(the_archive(closed_port(), parts=(Part("masks", ("masks",), 2, needed=False),)))
    prepare(CUB, tmp_path)
    assert "masks 0 of 2" in caplog.text
    assert f"birds.tgz from {PAGE} (only some models read it" in caplog.text


def test_without_download_nothing_is_written(
    server: Server, tmp_path: Path, offer: Offer, caplog: pytest.LogCaptureFixture
) -> None:
    server.files["birds.tgz"] = PACKED
    offer(the_archive(server.url))
    root = tmp_path / "data"
    with pytest.raises(UserError, match=rf"put birds\.tgz from {PAGE} into {root}"):
        prepare(CUB, root, download=False)
    assert not root.exists()
    (root / "CUB/images/1.a").mkdir(parents=True)
    (root / "CUB/images/1.a/x.jpg").write_bytes(b"")
    prepare(CUB, root, download=False)  # the reader judges a partial copy
    assert "images 1 of 2" in caplog.text
    assert server.asked == []
    assert set(tree(root)) == {"CUB/images/1.a/x.jpg"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_full_disk_is_said_as_such(server: Server, tmp_path: Path, offer: Offer) -> None:
    server.files["birds.tgz"] = PACKED
    offer(the_archive(server.url))
    (tmp_path / "birds.tgz.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=rf"{tmp_path} cannot be written \(No space left on device\): free space"):
        prepare(CUB, tmp_path)


# ---- the real tables


def test_text_zip_inside_birds_zip_is_unpacked_too(tmp_path: Path, offer: Offer) -> None:
    zips = (archive for archive in CUB.dataset.archives if archive.file.endswith(".zip"))
    offer(*(replace(archive, parts=tuple(replace(part, files=3) for part in archive.parts)) for archive in zips))
    texts = {f"text/{i:03d}.a/{i}.txt": b"a bird" for i in range(3)}
    (tmp_path / "birds.zip").write_bytes(zipped({"birds/captions.pickle": b"", "birds/text.zip": zipped(texts)}))
    prepare(CUB, tmp_path)
    assert {f"birds/{name}" for name in texts} <= set(tree(tmp_path))


def test_captions_are_not_asked_for_where_none_are_wanted(tmp_path: Path, offer: Offer) -> None:
    offer(*(archive for archive in CUB.dataset.archives if not archive.url))
    with pytest.raises(UserError, match="Google Drive linked at"):
        prepare(CUB, tmp_path)
    prepare(CUB, tmp_path, captions="none")


def test_counts_of_the_real_layout(tmp_path: Path) -> None:
    make_cub(tmp_path, classes=3, images=2, photos=2, masks=True, attributes=3, procedural=False)
    counts = {part.what: n for part, n in CUB.inventory(tmp_path).items()}
    assert counts.pop("images") == counts.pop("captions") == counts.pop("masks") == 4
    assert set(counts.values()) == {1}  # the lists and the attributes


def test_procedural_and_own_data_are_left_alone(tmp_path: Path) -> None:
    make_cub(tmp_path)
    before = tree(tmp_path)
    prepare(CUB, tmp_path)
    prepare(Folder, tmp_path / "mine")
    assert tree(tmp_path) == before


def test_every_file_has_a_page_and_every_download_a_checksum() -> None:
    for archive in (archive for reader in known() for archive in reader.dataset.archives):
        assert "https://" in archive.page
        assert bool(re.fullmatch("[0-9a-f]{32}", archive.md5)) == archive.url.startswith("https://")
        assert not archive.url or archive.url.endswith(f"/{archive.file}")
