"""What a user can get wrong, said in one sentence, and what is told once."""

import difflib
import errno
import logging
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
# what a system says of places that a user may not use, or that are full or something else than they should be
DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
DENIED |= {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG}


class UserError(Exception):
    """Something a user can put right: the message is one sentence with what, where and what to do.

    `run.py` prints the message without a traceback and exits with 2. Anything else is a bug and keeps its traceback.
    """


def sentence_of(error: UserError | OSError) -> str:
    """What is said of an error that a user can put right; any other is raised again, with its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if error.errno not in DENIED or error.filename is None:
        raise error
    return (
        f"{error.filename} cannot be read or written ({error.strerror}): make it one that you may use, or choose "
        "another place, as with paths.runs=FOLDER, paths.artifacts=FOLDER or paths.data=FOLDER."
    )


@cache
def tell(line: str) -> None:
    """Logs a line, once in a process: data are read again for every needed network and every job of a sweep."""
    log.info("%s", line)


def choose(key: str, value: object, known: Iterable[T]) -> T:
    """The one of `known` that is `value`; else a UserError naming the nearest. key: in full, as on a command line."""
    choices = list(known)
    if value in choices:
        return choices[choices.index(value)]  # type: ignore[arg-type]
    words = [as_word(choice) for choice in choices]
    nearest = difflib.get_close_matches(as_word(value), words, n=1, cutoff=0)[0]
    raise UserError(f"{key}={as_word(value)} is not known: did you mean {nearest}? There are {', '.join(words)}.")


def check_ranges(section: str, settings: Mapping[str, Any], ranges: Mapping[str, str]) -> None:
    """Refuses settings that are out of their range; section: of the command line, such as "model".

    ranges: name -> one or several of "null", "auto", "[0, 1)", "int [1, inf)" and "2 x [0, 1)" (a list of two) with
    " or " between them.
    """
    for name, text in ranges.items():
        if not any(holds(kind, settings[name]) for kind in text.split(" or ")):
            key = f"{section}.{name}" if section else name
            wanted = " or ".join(in_words(kind) for kind in text.split(" or "))
            raise UserError(f"{key}={as_word(settings[name])} cannot be: it is {wanted}.")


INTERVAL = re.compile(r"(?:(\d+) x )?(int )?([\[(])(.+), (.+)([\])])")


def holds(kind: str, value: Any) -> bool:
    """Whether a value is of a kind, as in `check_ranges`."""
    found = INTERVAL.fullmatch(kind)
    if found is None:
        return value is None if kind == "null" else value == kind
    count, whole, left, low, high, right = found.groups()
    if count:
        inner = kind.partition(" x ")[2]
        return isinstance(value, list | tuple) and len(value) == int(count) and all(holds(inner, one) for one in value)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return False
    least, most = float(low), float(high)
    above = least < value or (left == "[" and value == least)
    return above and (value < most or (right == "]" and value == most))


def in_words(kind: str) -> str:
    """A kind of `check_ranges` as a sentence has it: "a whole number from 1 on"."""
    found = INTERVAL.fullmatch(kind)
    if found is None:
        return kind
    count, whole, left, low, high, right = found.groups()
    noun = f"{'whole ' if whole else ''}number"
    where = f"in {left}{low}, {high}{right}"
    if math.isinf(float(high)):
        where = f"from {low} on" if left == "[" else f"above {low}"
    return f"a list of {count} {noun}s {where}" if count else f"a {noun} {where}"


def as_word(value: object) -> str:
    """A plain value as it is written on a command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
