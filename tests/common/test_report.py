"""The report: measured beside published, never in one column, with the reasons why they may not be compared."""

import csv
import json
import resource
from pathlib import Path
from typing import Any

import pytest

from common.tasks.report import HEADINGS, read_results, report
from common.tasks.runs import append_result
from tests.worlds.layouts import refusal
from tests.worlds.tiny import call


def line(row: str, seed: int, value: float | None, published: float, **more: Any) -> dict[str, Any]:
    return {
        "row": row,
        "data": "cub",
        "data_source": "real",
        "images_found": "11788 of 11788",
        "seed": seed,
        "epochs": 600,
        "numbers": {"is@inception_v3-cub-test50": value, "fid": 20.0 + seed},
        "published": {"where": "Table 2", "score": [published, 0.03], "measured": {"score": "is@*-test50"}},
        "protocol": {},
        **more,
    }


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "report.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_seeds_are_averaged_and_the_newest_line_of_a_seed_counts(tmp_path: Path) -> None:
    lines = [line("a", seed, value, 4.36) for seed, value in ((0, 9.5), (0, 4.5), (1, 5.5), (2, 6.5))]
    report(write(tmp_path / "results.jsonl", lines), tmp_path)
    (only,) = rows(tmp_path)
    assert only["ours"] == "5.500 +- 1.000"
    assert (only["published"], only["seeds"], only["epochs"]) == ("4.36 +- 0.03", "3", "600")
    assert only["comparable?"] == "yes"
    assert only["metric"] == "is@inception_v3-cub-test50"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"data_source": "procedural"}, "procedural data"),
        ({"preset": "toy"}, "toy size"),
        ({"images_found": "543 of 11788"}, "543 of 11788 images"),
        ({"protocol": {"not_comparable": {"is@*": "another network"}}}, "another network"),
    ],
)
def test_what_cannot_be_compared_says_why(tmp_path: Path, more: dict[str, Any], reason: str) -> None:
    report(write(tmp_path / "results.jsonl", [line("a", 0, 4.0, 4.36, **more)]), tmp_path)
    assert rows(tmp_path)[0]["comparable?"] == f"no: {reason}"


def test_the_order_is_told_with_its_spread(tmp_path: Path) -> None:
    near = [line("a", s, 4.0 + 0.1 * s, 4.36) for s in range(3)] + [line("b", s, 4.05 + 0.1 * s, 5.0) for s in range(3)]
    far = [line("c", s, 9.0 + 0.1 * s, 6.0) for s in range(3)]
    text = report(write(tmp_path / "results.jsonl", near + far), tmp_path)
    assert "a -> b: published +0.64, ours +0.050, within the spread" in text
    assert "b -> c: published +1.00, ours +4.950, outside the spread" in text


def test_rows_are_picked_and_other_numbers_shown_when_asked_for(tmp_path: Path) -> None:
    results = write(tmp_path / "results.jsonl", [line("a_1", 0, 4.0, 4.36), line("b_1", 0, None, 4.36)])
    report(results, tmp_path, rows=["b_*"], metrics=["fid*"])
    assert [(row["metric"], row["ours"]) for row in rows(tmp_path)] == [
        ("is@inception_v3-cub-test50", "not measured"),
        ("fid", "20"),
    ]
    assert "c_*" in refusal(lambda: report(results, tmp_path, rows=["c_*"]))
    assert "no results" in refusal(lambda: report(tmp_path / "absent.jsonl", tmp_path))


def test_four_files_say_the_same_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    results = write(tmp_path / "results.jsonl", [line("a_1", 0, 4.0, 4.36)])
    results.write_text(results.read_text() + '{"row": "cut')
    report(results, tmp_path)
    for suffix, row in (("md", "| a_1 |"), ("tex", r"a\_1 &"), ("html", "<td>a_1</td>"), ("csv", "a_1,")):
        text = (tmp_path / f"report.{suffix}").read_text()
        assert row in text
        assert all(heading in text for heading in HEADINGS)


def test_a_pattern_is_of_the_number_through_whatever_network(tmp_path: Path) -> None:
    """is_mean is not is_mean_far."""
    each = line("a", 0, 4.0, 3.26)
    each["numbers"] = {"is_mean@classifier-cub": 2.0, "is_mean_far@classifier-cub": 1.0}
    each["published"] = {"where": "Table 1", "inception_score": 3.26, "measured": {"inception_score": "is_mean"}}
    report(write(tmp_path / "results.jsonl", [each]), tmp_path)
    assert [row["metric"] for row in rows(tmp_path)] == ["is_mean@classifier-cub"]


def test_a_number_that_nobody_can_measure_says_so(tmp_path: Path) -> None:
    human = line("a", 0, 4.0, 1.28)
    human["published"] = {"where": "Table 1", "sharpness": [1.28, 0.5], "measured": "no, humans"}
    report(write(tmp_path / "results.jsonl", [human]), tmp_path)
    assert (rows(tmp_path)[0]["ours"], rows(tmp_path)[0]["comparable?"]) == ("not measured", "no, humans")


def test_a_word_is_a_list_of_one_and_an_empty_selection_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "results.jsonl", [line("a", 0, 4.0, 4.36)])
    command = ["task=report", f"paths.runs={tmp_path}", "rows=a"]
    assert call(monkeypatch, [*command, "numbers=fid"]) == 0
    assert [row["metric"] for row in rows(tmp_path)] == ["is@inception_v3-cub-test50", "fid"]
    before = (tmp_path / "report.md").read_bytes()
    capsys.readouterr()
    assert call(monkeypatch, [*command, "numbers=colour_match"]) == 2
    told = capsys.readouterr().err
    assert "colour_match" in told
    assert "choose from fid, is@inception_v3-cub-test50" in told
    assert (tmp_path / "report.md").read_bytes() == before


def test_what_is_appended_after_a_torn_line_is_read(tmp_path: Path) -> None:
    results = write(tmp_path / "results.jsonl", [line("a", 0, 4.0, 4.36)])
    torn = results.read_bytes() + b'{"row": "b", "numb'
    results.write_bytes(torn)
    for row in "cd":
        append_result(tmp_path, line(row, 0, 4.0, 4.36))  # type: ignore[arg-type]
    assert [each["row"] for each in read_results(results)] == ["a", "c", "d"]
    assert results.read_bytes().startswith(torn + b"\n{")
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]  # its lock is gone


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    results = write(tmp_path / "results.jsonl", [line("a", 0, 4.0, 4.36)])
    before, limits = results.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))  # ten bytes are written, then none
    try:
        told = refusal(lambda: append_result(tmp_path, line("b", 0, 4.0, 4.36)))  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "the line of b is not in" in told
    assert "results.jsonl" in told
    assert results.read_bytes() == before


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "results.jsonl", [line("a", 0, 4.0, 4.36)])
    assert call(monkeypatch, ["task=report", f"paths.runs={tmp_path}", "rows=a*"]) == 0
    assert "| a | cub (real) | 1 | 600 |" in capsys.readouterr().out
