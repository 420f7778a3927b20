"""The benchmarks run at tiny sizes, and what they write can be trusted: ratios, aims, equal steps, kept sections."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from tests.bench.__main__ import BENCHES, main, merge, table
from tests.bench.bench_data import birds
from tests.bench.bench_finegan import arithmetic as arithmetic_of
from tests.bench.bench_ggb import arithmetic as arithmetic_of_ggb
from tests.bench.bench_jem import arithmetic as arithmetic_of_jem
from tests.bench.bench_step import CASES, SWITCHES, Case, PublicStep, Turns, arithmetic, run
from tests.bench.timing import Row, alternate

CPU = torch.device("cpu")


def test_rows_know_whether_their_aim_is_met() -> None:
    assert Row("a", 6000, 200, at_least=5000, times=20).met
    assert Row("a", 6000, 400, at_least=5000, times=20).met is False  # fast, but 15 times only
    assert Row("a", 4000, 100, at_least=5000, times=20).met is False
    assert Row("a", 2.9, unit="%", at_most=3).met
    assert Row("a", 3.0, unit="%", at_most=3).met is False
    assert Row("a", 1, 0.5).met is None
    line = table([Row("store", 6000, 400, at_least=5000, times=20)]).splitlines()[-1]
    assert line == "| store | 6,000 | 400 | images/s | 15.00 x | >= 5,000 images/s, >= 20 x | no |"


def test_two_ways_take_turns() -> None:
    order: list[str] = []
    alternate(lambda: order.append("ours"), lambda: order.append("other"), rounds=3, device=CPU)
    assert order == ["ours", "other"] * 3


def test_a_section_replaces_only_itself() -> None:
    page = merge(merge("", "Step, CPU", "| stale |"), "Step, CUDA", "gpu | table")
    page = merge(page, "Step, CPU", "| fresh |")
    assert re.findall(r"^## .*", page, flags=re.MULTILINE) == ["## Step, CPU", "## Step, CUDA"]
    assert "stale" not in page
    assert "fresh" in page
    assert "gpu | table" in page
    assert merge(page, "Step, CPU", "| fresh |") == page


def written(page: Path, names: Iterable[str]) -> str:
    """The page that these benchmarks wrote at tiny sizes: a section each, in order, with figures that can be."""
    main(["--quick", "--out", str(page), "--only", *names])
    text = page.read_text()
    for name, section in zip(names, text.split("\n## ")[1:], strict=True):
        assert f"`python -m tests.bench --quick --only {name}`" in section
        rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
        figures = [float(row[1].replace(",", "")) for row in rows]
        assert all(figure > 0 for figure in figures), section
        assert figures
        assert all(0.01 < float(row[4].split()[0]) < 1e4 for row in rows if row[4]), section
    return text


def test_a_benchmark_runs_and_is_written(tmp_path: Path) -> None:
    assert written(tmp_path / "docs" / "performance.md", ["draw"])


@pytest.mark.slow
def test_every_benchmark_runs_and_is_written(tmp_path: Path) -> None:
    text = written(tmp_path / "performance.md", BENCHES)
    # two loaders twice, three steps of SIMGAN, two of AttnGAN and of FineGAN, their word loss, two of GGB and its maps,
    # four of JEM against [P] and three against [R] and their photos, one of metrics
    assert sum(" x | " in line for line in text.splitlines()) == 32


def test_arithmetic_of_the_paper_widths() -> None:
    assert arithmetic(Case(256, 16, (), rounds=1)) * 16 == pytest.approx(17.7e12, rel=0.01)  # counted by hand


@pytest.mark.parametrize(
    ("kind", "generator", "trunks"),
    [pytest.param("AttnGAN", 8.3, 3.84, marks=pytest.mark.slow), ("FineGAN", 9.1, 4 * 3.84)],
)
def test_arithmetic_of_finegan_and_attngan(kind: str, generator: float, trunks: float) -> None:
    """Billions of multiply-adds of an image: G with its backward pass; the trunks (quadrants and foregrounds make four
    of one) of photo and drawing with theirs, then of the drawing with that to its pixels; Inception likewise; four
    heads of the condition at three stages, 0.057 each."""
    passes = 3 * generator + (2 * 3 + 2) * trunks + 2 * 5.7 + 3 * (3 * 3 + 2) * 0.057
    assert arithmetic_of(Case(256, 20, (), rounds=1), kind) == pytest.approx(2e9 * passes, rel=0.02)


def test_arithmetic_of_ggb() -> None:
    """Billions of multiply-adds of an image. G draws twice, 6.37 with heads and 6.33 without, and goes back, first
    without level 7 (0.10), each time not to its input (0.35); D sees photo and drawing and goes back, and the drawing
    again with the way to its pixels; so do E of all levels with a third image, and both critics."""
    g = 6.37 + 6.33 + 2 * (6.27 + 6.33) - 2 * 0.35
    d, e, critics = 8 * 1.66 - 0.1, 3 * 3 * 0.193 - 0.05 + 3 * 0.193, 2 * 8 * 0.3525
    assert arithmetic_of_ggb(Case(256, 8, (), rounds=1)) == pytest.approx(2e9 * (g + d + e + critics), rel=0.01)


@pytest.mark.parametrize(("code", "updates"), [("[P]", 2), ("[R]", 1)])
def test_arithmetic_of_jem(code: str, updates: int) -> None:
    """Millions of multiply-adds of an image: G 211, D's trunk 162, its head 7.5, D's first layer 4.9. D's turn goes not
    back to the image, G's goes back through D to the image alone. Theirs draws once more and sees x twice."""
    each = updates * (3 * 211 + 2 * 169.5)
    ours = each + 2 * (3 * 162 - 4.9) + 3 * 3 * 7.5
    theirs = each + 211 + 3 * (3 * 169.5 - 4.9)
    found = arithmetic_of_jem(Case(64, 64, (), rounds=1), code)
    assert found == (pytest.approx(2e6 * ours, rel=0.02), pytest.approx(2e6 * theirs, rel=0.02))


def test_a_step_that_differs_is_no_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal losses are checked, to float32 rounding: the other way trained with another weight is found out."""
    reader, case = birds(tmp_path, 24), CASES["quick"][0]._replace(alone=0)
    first = next(iter(SWITCHES))
    turns = run(case, first, reader, tmp_path, CPU)
    assert len(turns.ours) == len(turns.theirs) == case.rounds
    assert turns.apart < 1e-4
    encode = PublicStep.encode
    monkeypatch.setattr(PublicStep, "encode", lambda self, batch: encode(self, batch)[::-1])
    with pytest.raises(AssertionError, match="not the same step"):
        run(case, first, reader, tmp_path, CPU)


def test_time_is_taken_by_whole_turns(tmp_path: Path) -> None:
    case = CASES["quick"][0]._replace(turn=2, rounds=2, warm=3)
    turns: Turns = run(case, next(iter(SWITCHES)), birds(tmp_path, 24), tmp_path, CPU)
    assert turns.done == 3 + 2 * 2
    assert len(turns.ours) == len(turns.theirs) == 2
    assert all(0 < seconds < 10 for seconds in turns.ours + turns.theirs)
