"""Downloads that go on where they stopped, and archives that cannot write outside their folder."""

import errno
import hashlib
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path, PureWindowsPath
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rich.progress import Progress, TaskID

from common.errors import UserError
from common.progress import bar

AGENT = "Mozilla/5.0 (compatible; conditional-image-synthesis)"  # data.caltech.edu refuses urllib's own name
TIMEOUT = 30.0  # seconds without a byte
MB = 1e6
# what is wrong with names, not with the disk
ODD = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EINVAL, errno.ENOENT, errno.ENOTEMPTY)
AGAIN = "start the same command again"

# ---- downloading


def fetch(url: str, path: Path, md5: str = "") -> None:
    """Downloads url to path by way of <path>.part, going on with a part that is there.

    OSError or HTTPException when the network fails (the part stays), UserError when what arrived is not the file.
    """
    part = path.with_name(f"{path.name}.part")
    with bar() as shown:
        task = shown.add_task(path.name, total=0, numbers="MB")
        while True:
            before = _size(part)
            try:
                if _fetch_rest(url, part, shown, task):
                    break
            except (OSError, HTTPException):
                if _size(part) <= before:  # else the connection broke on the way: go on
                    raise
    try:
        check_md5(part, md5, f"it is deleted now: {AGAIN}")
    except UserError:
        part.unlink()
        raise
    part.replace(path)


def _fetch_rest(url: str, part: Path, shown: Progress, task: TaskID) -> bool:
    """Appends what the part lacks; True when it is whole, False to ask again."""
    done = _size(part)
    request = Request(url, headers={"User-Agent": AGENT, "Range": f"bytes={done}-"})
    try:
        answer = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416 or not done:
            raise
        if (error.headers.get("Content-Range") or "").rpartition("/")[2] == str(done):
            return True  # nothing is left behind the part's end
        part.unlink()  # longer than the file
        return False
    with answer, part.open("ab" if answer.status == 206 else "wb") as file:
        if answer.status != 206:
            done = 0  # the server sends all of it
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            raise ConnectionError(f"{url} sends another range than asked for")
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        while block := answer.read(1 << 20):
            file.write(block)
            done += len(block)
            shown.update(task, completed=done / MB, total=(total or done) / MB)
    if total is not None and done < total:
        raise ConnectionError(f"it stopped at {done:,} of {total:,} bytes")
    return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def check_md5(path: Path, md5: str, remedy: str) -> None:
    """UserError, ending in the remedy, if the file is another one than the MD5 says ("" = not known)."""
    if not md5:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != md5:
        raise UserError(f"{path} has the MD5 {found}, not {md5}, so it is cut or another file; {remedy}.")


# ---- unpacking


def unpack(file: Path, folder: Path, top: str = "") -> None:
    """Unpacks a tar or zip file into folder; what is there already is replaced, file by file.

    top: the members go to folder/top; an archive without that folder is unpacked inside it. UserError, with nothing
    changed, for a member that is no file or folder or lies outside, and for a damaged archive. OSError: a full disk.
    """
    partial = folder / f"{file.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a start that was killed
    partial.mkdir(parents=True)
    damaged = f"{file} is cut or damaged", f"delete it, take it again, then {AGAIN}"
    try:
        (_unzip if file.suffix == ".zip" else _untar)(file, partial)
        target = folder / top if top and not (partial / top).is_dir() else folder
        _check_places(partial, target)
        _move(partial, target)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise UserError(f"{damaged[0]} ({error}): {damaged[1]}.") from error
    except OSError as error:
        if error.errno is None:  # gzip and bz2, of a checksum that is wrong
            raise UserError(f"{damaged[0]} ({error}): {damaged[1]}.") from error
        if error.errno not in ODD:
            raise
        raise UserError(
            f"{file} has a member that cannot be a file or folder here ({error.strerror}: "
            f"{str(error.filename)[-80:]!r}): take another copy, or move away what lies there."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _untar(file: Path, folder: Path) -> None:
    with file.open("rb") as raw, tarfile.open(fileobj=raw) as archive, bar() as shown:
        task = shown.add_task(f"unpack {file.name}", total=_size(file) / MB, numbers="MB")
        for member in archive:
            _check_member(file, member.name, member.isreg() or member.isdir(), member.isdir())
            archive.extract(member, folder, filter="data")
            shown.update(task, completed=raw.tell() / MB)
        while archive.fileobj and archive.fileobj.read(1 << 20):  # to the checksum behind the last member
            pass


def _unzip(file: Path, folder: Path) -> None:
    with zipfile.ZipFile(file) as archive, bar() as shown:
        members = archive.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            _check_member(file, member.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR), member.filename.endswith("/"))
        task = shown.add_task(f"unpack {file.name}", total=len(members), numbers="files")
        for member in members:
            archive.extract(member, folder)
            shown.advance(task)


def _check_member(file: Path, name: str, plain: bool, folder: bool) -> None:
    path = PureWindowsPath(name)  # knows both slashes and drives
    if path.anchor or ".." in path.parts:
        raise UserError(f"{file} has a member {name!r} that would be written outside its folder: take another copy.")
    if not path.name and not folder:
        raise UserError(f"{file} has a member {name!r} that names no file: take another copy.")
    if not plain:
        raise UserError(f"{file} has a member {name!r} that is a link or a device, not a file: take another copy.")


def _check_places(source: Path, target: Path) -> None:
    """OSError where a file is to take a folder's place, or a folder a file's."""
    if source.is_dir() and target.is_dir():
        for entry in source.iterdir():
            _check_places(entry, target / entry.name)
    elif target.exists() and source.is_dir() != target.is_dir():
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))


def _move(source: Path, target: Path) -> None:
    """Renames; where the target is a folder, moves what is inside: files first, so that a new folder comes whole."""
    if source.is_dir() and target.is_dir():
        for entry in sorted(source.iterdir(), key=lambda path: (path.is_dir(), path.name)):
            _move(entry, target / entry.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
