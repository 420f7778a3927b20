"""What a user can get wrong, said in one sentence."""

import difflib
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Something a user can put right: the message is one sentence with what, where and what to do.

    `run.py` prints the message without a traceback and exits with 2. Anything else is a bug and keeps its traceback.
    """


def choose(key: str, value: object, known: Iterable[T]) -> T:
    """The one of `known` that is `value`; else a UserError naming the nearest. key: in full, as on a command line."""
    choices = list(known)
    if value in choices:
        return choices[choices.index(value)]  # type: ignore[arg-type]
    words = [as_word(choice) for choice in choices]
    nearest = difflib.get_close_matches(as_word(value), words, n=1, cutoff=0)[0]
    raise UserError(f"{key}={as_word(value)} is not known: did you mean {nearest}? There are {', '.join(words)}.")


def as_word(value: object) -> str:
    """A plain value as it is written on a command line."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
