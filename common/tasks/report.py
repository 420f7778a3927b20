"""task=report: what results.jsonl holds, a line for each row of a table, beside what the papers report.

Measured and published numbers never share a column, and each row says whether the two may be compared and why not.
"""

import csv
import html
import io
import json
import logging
import statistics
from collections import defaultdict
from collections.abc import Sequence
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError
from common.files import write_whole
from common.tasks.runs import Line

log = logging.getLogger(__name__)
HEADINGS = ("row", "data", "seeds", "epochs", "metric", "ours", "published", "comparable?")


class Group(NamedTuple):
    """The results of one row on one data set, a line for each seed, the newest where there are several."""

    row: str
    data: str  # name, source and preset
    lines: list[Line]

    @property
    def published(self) -> dict[str, Any]:
        """What the paper has for this row, {} where it has none."""
        return self.lines[-1].get("published") or {}

    def values(self, metric: str) -> list[float]:
        """Of each seed that measured it."""
        found = [line["numbers"].get(metric) for line in self.lines]
        return [float(value) for value in found if value is not None]


def read_results(path: Path) -> list[Line]:
    """The lines of results.jsonl. UserError where there is none; a line cut by a kill is left out and told."""
    if not path.is_file():
        raise UserError(
            f"there are no results at {path}: train or evaluate something first, or give paths.runs=FOLDER."
        )
    lines: list[Line] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            line = None
        if isinstance(line, dict):
            lines.append(line)  # type: ignore[arg-type]
        else:
            log.warning("%s:%d is not whole and is left out", path, number)
    return lines


def grouped(lines: Sequence[Line], rows: Sequence[str]) -> list[Group]:
    """Groups in the order of their names; rows: patterns such as finegan_t*."""
    found: dict[tuple[str, str], dict[int, Line]] = defaultdict(dict)
    for line in lines:
        if any(fnmatch(line["row"], pattern) for pattern in rows):
            preset = f", preset={line['preset']}" if line.get("preset") else ""
            found[line["row"], f"{line['data']} ({line['data_source']}{preset})"][line["seed"]] = line
    return [Group(*key, [by_seed[seed] for seed in sorted(by_seed)]) for key, by_seed in sorted(found.items())]


def measured_as(group: Group, name: str) -> list[str]:
    """The measured numbers that stand beside a published one: those of its name, or of the pattern under `measured`,
    through whatever network ("is_mean" is also is_mean@classifier-cub)."""
    measured = group.published.get("measured")
    pattern = measured.get(name, name) if isinstance(measured, dict) else name
    keys = {key for line in group.lines for key in line["numbers"]}
    return sorted(key for key in keys if fnmatch(key, pattern) or fnmatch(key.partition("@")[0], pattern))


def spread(values: Sequence[float]) -> str:
    """Mean and, over seeds, the sample standard deviation."""
    if not values:
        return "not measured"
    mean = statistics.fmean(values)
    digits = 0 if all(value.is_integer() for value in values) else 3
    return f"{mean:.{digits}f}" + (f" +- {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def told(value: Any) -> str:
    """A published number, with its spread where it has one."""
    return f"{value[0]:g} +- {value[1]:g}" if isinstance(value, list) else f"{value:g}"


def why_not(group: Group, metric: str) -> str:
    """Yes, or every reason why the measured number is another quantity than the published one."""
    line, protocol = group.lines[-1], group.lines[-1]["protocol"]
    if isinstance(group.published.get("measured"), str):
        return group.published["measured"]
    reasons = ["procedural data"] * (line["data_source"] == "procedural")
    reasons += [f"{line.get('preset')} size"] * bool(line.get("preset"))
    have, _, all_of = line["images_found"].partition(" of ")
    reasons += [f"{line['images_found']} images"] * (line["data_source"] != "procedural" and have != all_of)
    reasons += [
        str(reason) for pattern, reason in protocol.get("not_comparable", {}).items() if fnmatch(metric, pattern)
    ]
    return "no: " + ", ".join(reasons) if reasons else "yes"


def cells(groups: Sequence[Group], metrics: Sequence[str]) -> list[tuple[str, ...]]:
    """A row of the table for each group and metric: published ones first, then those asked for."""
    table: list[tuple[str, ...]] = []
    for group in groups:
        epochs = "/".join(sorted({str(line.get("epochs")) for line in group.lines if line.get("epochs")}))
        head = (group.row, group.data, str(len(group.lines)), epochs)
        published = {k: v for k, v in group.published.items() if k not in ("where", "measured")}
        for name, value in published.items():
            for metric in measured_as(group, name) or [name]:
                ours = spread(group.values(metric))
                table.append((*head, metric, ours, told(value), why_not(group, metric)))
        asked = metrics or ([] if published else ["*"])
        shown = {row[4] for row in table if row[0] == group.row}
        known = sorted({key for line in group.lines for key in line["numbers"]})
        more = [key for key in known if key not in shown and any(fnmatch(key, pattern) for pattern in asked)]
        table += [(*head, key, spread(group.values(key)), "-", "-") for key in more]
    return table


def steps(groups: Sequence[Group], metric: str) -> list[str]:
    """Neighbouring rows in the published order: by how much ours differ, and whether that is outside the spread.

    Outside: more than twice the standard error of the difference of the means over seeds.
    """
    held: list[tuple[float, str, list[float]]] = []
    for group in groups:
        if metric in group.published:
            value = group.published[metric]
            ours = [v for key in measured_as(group, metric)[:1] for v in group.values(key)]
            held += [(value[0] if isinstance(value, list) else value, group.row, ours)] if ours else []
    held.sort(key=lambda one: one[:2])
    lines = []
    for (low, before, a), (high, after, b) in pairwise(held):
        gain = statistics.fmean(b) - statistics.fmean(a)
        text = f"{before} -> {after}: published {high - low:+.2f}, ours {gain:+.3f}"
        if len(a) > 1 and len(b) > 1:
            error = (statistics.variance(a) / len(a) + statistics.variance(b) / len(b)) ** 0.5
            text += f", {'outside' if abs(gain) > 2 * error else 'within'} the spread over seeds (2 x {error:.3f})"
        lines.append(text)
    return lines


def as_markdown(table: Sequence[Sequence[str]], orders: Sequence[str]) -> str:
    """A table, and below it what is said of the order of its rows."""
    rows = [HEADINGS, ["---"] * len(HEADINGS), *table]
    text = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return text + ("\n\n" + "\n".join(f"- {line}" for line in orders) if orders else "") + "\n"


def as_latex(table: Sequence[Sequence[str]]) -> str:
    """A tabular, to be put into a table."""

    def clean(cell: str) -> str:
        return cell.replace("+-", r"$\pm$").replace("_", r"\_").replace("%", r"\%").replace("&", r"\&")

    lines = [" & ".join(map(clean, row)) + r" \\" for row in (HEADINGS, *table)]
    lines.insert(1, r"\hline")
    return "\n".join([rf"\begin{{tabular}}{{{'l' * len(HEADINGS)}}}", *lines, r"\end{tabular}", ""])


def as_csv(table: Sequence[Sequence[str]]) -> str:
    """A line for each row, the headings first."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([HEADINGS, *table])
    return file.getvalue()


def as_html(table: Sequence[Sequence[str]]) -> str:
    """A page of its own with one table."""

    def row(kind: str, values: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(value)}</{kind}>" for value in values) + "</tr>"

    body = "\n".join([row("th", HEADINGS), *(row("td", values) for values in table)])
    return f'<!doctype html><meta charset="utf-8"><title>Results</title>\n<table border="1">\n{body}\n</table>\n'


def report(results: Path, folder: Path, rows: Sequence[str] = ("*",), metrics: Sequence[str] = ()) -> str:
    """Writes report.{md,tex,csv,html} into a folder and gives the Markdown. UserError where it would be empty."""
    groups = grouped(read_results(results), rows)
    if not groups:
        raise UserError(f"no row of {results} is called {' or '.join(rows)}: leave rows out to see them all.")
    known = sorted({name for group in groups for line in group.lines for name in line["numbers"]})
    if metrics and not any(fnmatch(name, pattern) for name in known for pattern in metrics):
        raise UserError(
            f"no number of these rows of {results} is called {' or '.join(metrics)}: leave numbers out to see all, or "
            f"choose from {', '.join(known) or 'none, for nothing was measured'}."
        )
    table = cells(groups, metrics)
    published = sorted({key for group in groups for key in group.published if key not in ("where", "measured")})
    orders = []
    for data in sorted({group.data for group in groups}):
        own = [group for group in groups if group.data == data]
        for metric in published:
            orders += [f"{metric}, {data}: {line}" for line in steps(own, metric)]
    text = as_markdown(table, orders)
    files = {"md": text, "tex": as_latex(table), "csv": as_csv(table), "html": as_html(table)}
    for suffix, content in files.items():
        write_whole(folder / f"report.{suffix}", content)
    return text
