"""Files written whole or not at all, things made once and kept, and hashes of both."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from common.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def whole(path: str | Path, remedy: str = "free space there, or choose another folder") -> Iterator[Path]:
    """A path beside `path` to write to, with the same suffix: moved to `path` at the end, removed if the body fails.

    So a kill or a full disk leaves what was there. UserError, ending in the remedy, where the disk is full or the place
    cannot be written, the latter before the body runs.
    """
    path = Path(path)
    part = path.with_name(f"{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        yield part
        part.replace(path)
    except BaseException as error:
        try:
            part.unlink(missing_ok=True)
        except OSError:
            pass  # a folder that cannot be written
        if (why := unwritable(error, part)) is not None:
            raise UserError(f"{path} cannot be written ({why}): {remedy}.") from error
        raise


def unwritable(error: BaseException, place: Path) -> str | None:
    """Why `place` cannot be written, if that is what the error says; None for errors about other files."""
    if isinstance(error, OSError):
        named = [Path(name) for name in (error.filename, error.filename2) if isinstance(name, str | os.PathLike)]
        if error.errno in FULL or any(one == place or one in place.parents for one in named):
            return error.strerror
    if "inline_container" in str(error):  # what torch says when a write comes up short
        return os.strerror(errno.ENOSPC)
    return None


def write_whole(path: str | Path, text: str, remedy: str = "free space there, or choose another folder") -> None:
    """A text file in UTF-8, whole or not at all; UserError as of `whole`."""
    with whole(path, remedy) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """One process at a time; others wait. The lock, a file beside `path`, is gone afterwards."""
    lock = Path(f"{path}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock)
        held.acquire()
    except OSError as error:
        raise UserError(
            f"{lock} cannot be written ({error.strerror}): choose another folder than {lock.parent}."
        ) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        held.release()


def cached(path: str | Path, make: Callable[[Path], object]) -> Path:
    """`path`, written by make(path beside it) where it is absent; made once, also when several processes ask at a time.

    A file that is there is not touched, so it may lie where nothing can be written.
    """
    path = Path(path)
    if not path.exists():
        with locked(path):
            if not path.exists():  # another process had the lock and made it
                with whole(path) as part:
                    make(part)
    return path


def sha256(content: str | bytes) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def short_hash(value: object) -> str:
    """Eight hexadecimal digits of a plain value."""
    return sha256(json.dumps(value, sort_keys=True, default=str))[:8]


def file_hash(path: str | Path) -> str:
    """First 8 hexadecimal digits of the file's SHA-256, as torchvision writes them into its file names."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
