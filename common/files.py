"""Files written whole or not at all, things made once and kept, hashes of both; only regular files are opened."""

import codecs
import errno
import hashlib
import io
import json
import logging
import os
import stat
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from filelock import FileLock
from PIL import Image

from common.errors import UserError

log = logging.getLogger(__name__)

T = TypeVar("T")
MARKS = {  # what a text begins with -> its encoding; the longest first
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises on broken files
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ELSEWHERE = "choose another folder, such as paths.artifacts=FOLDER"


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
def locked(path: str | Path, remedy: str = ELSEWHERE) -> Iterator[None]:
    """One process at a time; others wait. The lock, a file beside `path`, is gone afterwards.

    UserError, ending in the remedy, where it cannot be written.
    """
    lock = Path(f"{path}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock)
        held.acquire()
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): {remedy}.") from error
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
                with whole(path, f"free space there, or {ELSEWHERE}") as part:
                    make(part)
    return path


def read_cached(path: str | Path, make: Callable[[Path], object], read: Callable[[Path], T]) -> T:
    """What `read` makes of a cached file. One that it cannot read, cut by a kill or a full disk, is made anew, once."""
    path = cached(path, make)
    try:
        return read(path)
    except Exception as error:  # whatever a cut file makes a parser stumble over
        log.warning("%s cannot be read (%s) and is made anew", path, error)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path} is cut or damaged and cannot be replaced ({error.strerror}): delete it.") from None
    return read(cached(path, make))


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


def content_hash(path: str | Path) -> str:
    """`file_hash`; of a folder of the names, sizes and times in it; "" where there is neither."""
    place = Path(path).expanduser()
    if place.is_dir():
        inside = sorted(one for one in place.rglob("*") if one.is_file())
        return short_hash([(str(one.relative_to(place)), one.stat().st_size, one.stat().st_mtime_ns) for one in inside])
    return file_hash(place) if place.is_file() else ""


def composed(name: str) -> str:
    """A name with letters such as \u00e9 in one piece: some systems write the accent as a letter of its own, and under
    LC_ALL=C Python hands over a file's name in bytes."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape"))


def regular(path: str | Path) -> Path:
    """The path, if it leads to a file. OSError for a folder, a pipe or a device: opening a pipe waits for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is a folder, a pipe or a device, not a file")
    return Path(path)


def open_file(path: str | Path) -> BinaryIO:
    """A file to read from. UserError for what is no file, is absent or may not be read."""
    try:
        return regular(path).open("rb")
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{path} cannot be read ({why}): put a file there that you may read.") from None


def open_image(path: str | Path) -> Image.Image:
    """A photo or mask whose header is read; its pixels are not yet. One of UNREADABLE for what is none."""
    regular(path)
    try:
        return Image.open(path)
    except Image.UnidentifiedImageError:  # also what Pillow says of a JPEG whose EXIF gives its resolution in bytes
        with open(path, "rb") as file:
            content = file.read()
        if not content.startswith(b"\xff\xd8") or (at := content.find(b"Exif\0\0", 0, 1 << 16)) < 4:
            raise
        image = Image.open(io.BytesIO(content[:at] + b"exif" + content[at + 4 :]))
        image.info["exif"] = content[at : at - 2 + int.from_bytes(content[at - 2 : at])]
        return image


def read_text(path: str | Path, stray: str | None = None) -> str:
    """The text of a file in UTF-8 or UTF-16, however its lines end: here with a line feed.

    stray: what a byte that is no UTF-8 becomes; None = a UserError that names the line and the encoding that it may be.
    """
    with open_file(path) as file:
        content = file.read()
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content:  # no text has such bytes, but UTF-16 without a mark
        encoding = "utf-16-be" if content[::2].count(0) > content[1::2].count(0) else "utf-16-le"
    try:
        text = content.decode(encoding, "strict" if stray is None else "replace")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        word = content[max(0, error.start - 12) : error.end + 12].decode("cp1252", "replace").split("\n")[0].strip()
        raise UserError(
            f"{path} line {line} is not in {encoding.upper()}, but in Windows-1252, say, where it has {word!r}: save "
            "the file as UTF-8."
        ) from None
    text = (text if stray is None else text.replace("\ufffd", stray)).replace("\r\n", "\n")
    return text if "\n" in text else text.replace("\r", "\n")
