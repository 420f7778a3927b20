"""The sentences for values that cannot be."""

from typing import Any

import pytest

from common.errors import UserError, check_ranges


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("[0, 1)", [0, 0.999], [1, -1e-9, True, "0", None, [0], float("nan")]),
        ("(0, 1]", [1, 1e-9], [0, 1.1]),
        ("int [1, inf)", [1, 2**40], [0, 1.0, -1, "1"]),
        ("null or (0, inf)", [None, 0.1], [0, "null", float("inf")]),
        ("null or int [1, inf) or (0, 1]", [None, 3, 0.5], [1.5, 0, "abc"]),
        ("auto or int [0, inf)", ["auto", 0], ["aut", None]),
        ("2 x [0, 1)", [[0.5, 0.999], (0, 0)], [[0.5], [0, 1], 0.5, "abc", [0, 0, 0], [True, 0]]),
    ],
)
def test_a_range_holds_what_is_inside(text: str, inside: list[Any], outside: list[Any]) -> None:
    for value in inside:
        check_ranges("model", {"lr": value}, {"lr": text})
    for value in outside:
        with pytest.raises(UserError, match=r"^model\.lr=.* cannot be: it is .*number"):
            check_ranges("model", {"lr": value}, {"lr": text})


def test_a_range_is_said_in_words() -> None:
    with pytest.raises(UserError, match=r"^seed=null cannot be: it is a whole number in"):
        check_ranges("", {"seed": None}, {"seed": "int [0, 4294967295]"})
    with pytest.raises(UserError, match="it is null or a number above 0"):
        check_ranges("model", {"clip_g": -1}, {"clip_g": "null or (0, inf)"})
    with pytest.raises(UserError, match="a list of 2 numbers in"):
        check_ranges("model", {"betas": [0.5]}, {"betas": "2 x [0, 1)"})
