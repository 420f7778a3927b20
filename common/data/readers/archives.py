"""Fetches what can be had of a data set, unpacks it where its reader looks, and says what is left to get."""

import errno
import logging
import shutil
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError

from filelock import FileLock

from common.data.readers.download import AGAIN, check_md5, fetch, unpack
from common.data.readers.presence import Archive, DatasetReader, Part, is_procedural
from common.errors import UserError

log = logging.getLogger(__name__)


def prepare(reader: type[DatasetReader], root: Path, *, download: bool = True, captions: str = "auto") -> None:
    """Completes a data set under root (paths.data): unpacks the archives that lie there and downloads the others.

    A data set without archives (data=folder) and a procedural one are left as they are. download=False: only checks,
    writes nothing. captions="none": none are asked for. The same command goes on where it stopped. What cannot be had
    and only some models read (masks, attributes) is logged.
    UserError: one sentence with every file that is still needed, its page and where to put it; a damaged archive; a
    disk that cannot be written.
    """
    root = Path(root).expanduser().absolute()
    folders = reader.folders(root)
    if is_procedural(folders):
        return
    archives = [a for a in reader.dataset.archives if a.url or captions != "none"]  # captions are what has no url
    if not any(a.lacks(folders) and (a.url or a.needed(folders) or a.found(folders)) for a in archives):
        return
    failures: dict[str, str] = {}
    try:
        if download:
            folders[0].mkdir(parents=True, exist_ok=True)
            lock = root / ".prepare.lock"
            with FileLock(lock):  # two commands would write into one .part
                try:
                    _supply(archives, folders, failures)
                finally:
                    lock.unlink(missing_ok=True)
    except OSError as error:
        why = f"{root} cannot be written ({error.strerror or error})"
        if any(archive.needed(folders) for archive in archives):
            raise UserError(f"{why}: free space there or choose paths.data=FOLDER, then {AGAIN}.") from error
        log.warning("%s", why)
    absent = [a for a in archives if a.lacks(folders) and (a.url or a.needed(folders))]
    needed = [archive for archive in absent if archive.needed(folders)]
    begun = [archive for archive in needed if any(part.count(folders) for part in archive.parts)]
    if not absent:
        return
    sentence = _sentence(reader.dataset.name, root, folders, absent, failures)
    if not needed or (begun == needed and not download):  # the reader judges, which knows of data.allow_missing
        log.warning("%s", sentence)
    else:
        goes_on = ", or data.allow_missing=true download=false goes on with what is there" if begun else ""
        raise UserError(f"{sentence}{goes_on}.")


def _supply(archives: list[Archive], folders: Sequence[Path], failures: dict[str, str]) -> None:
    """Unpacks what is there and downloads what is not; failures gets why not, by the name of the archive."""
    offline = ""
    for archive in archives:
        if not archive.lacks(folders):
            continue
        path = archive.found(folders)
        if path:
            check_md5(path, archive.md5, f"delete it, then {AGAIN}")
        elif not archive.url:
            continue
        elif offline:
            failures[archive.file] = offline
            continue
        else:
            path = folders[0] / archive.file
            log.info("downloading %s", "; ".join(filter(None, (archive.url, archive.terms))))
            try:
                fetch(archive.url, path, archive.md5)
            except (OSError, HTTPException) as error:
                _raise_if_disk(error)
                failures[archive.file] = f"the download failed: {getattr(error, 'reason', None) or error}"
                offline = "" if isinstance(error, HTTPError) else failures[archive.file]
                continue
        _place(archive, path, folders[0])
        if lacking := archive.lacks(folders):
            failures[archive.file] = f"the one at {path} lacks {' and '.join(part.what for part in lacking)}"


def _place(archive: Archive, path: Path, home: Path) -> None:
    if path.suffix in (".tgz", ".gz", ".zip"):
        folder = (home / archive.file).parent
        log.info("unpacking %s into %s", path, folder)
        unpack(path, folder, archive.top)
        log.info("%s is unpacked and may be deleted", path)
    elif path != home / archive.file:
        shutil.copyfile(path, home / archive.file)


def _raise_if_disk(error: BaseException) -> None:
    """A full or read-only disk is no trouble of the network."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
        raise error


def _sentence(name: str, root: Path, folders: Sequence[Path], wanted: list[Archive], failures: dict[str, str]) -> str:
    """What is lacking, which files hold it, where they come from and where they go: alternatives are joined by "or"."""
    lacking = dict.fromkeys(archive.lacks(folders)[0] for archive in wanted)
    tally = (f"{p.what} {p.count(folders):,} of {p.files:,}" if p.files > 1 else f"no {p.what}" for p in lacking)
    choices: dict[tuple[Part, ...], list[str]] = {}
    said: set[str] = set()
    for archive in wanted:
        why = failures.get(archive.file, "")
        facts = ["" if archive.needed(folders) else "only some models read it", "" if why in said else why]
        told = "; ".join(filter(None, facts))
        said.add(why)
        choices.setdefault(archive.parts, []).append(f"{archive.file} from {archive.page}{told and f' ({told})'}")
    files = ", and ".join(" or ".join(choice) for choice in choices.values())
    return f"{name} is not complete ({', '.join(tally)}): put {files} into {root}, then {AGAIN}"
