"""What the documents say holds: commands compose, names and links exist, the configuration's numbers have an origin."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.types import Glob

from common import command
from common.errors import UserError
from common.files import short_hash
from common.tasks.describe import describe
from common.tasks.runs import identity

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAPERS = sorted(init.parent.name for init in ROOT.glob("*/__init__.py") if init.parent.name not in ("common", "tests"))
ROWS = command.choices("table")
SUBMITIT = any(found.name == "hydra-submitit-launcher" for found in distributions())


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# ---- commands


def commands(text: str) -> list[str]:
    """What follows `python run.py` in code blocks and in inline code; words in capitals stand for a user's own values,
    which composing a command does not look at."""
    return [found.strip() for found in re.findall(r"python run\.py([^`\n]*)", text.replace("\\\n", " "))]


def jobs(line: str) -> Iterator[list[str]]:
    """The overrides of each job: one, or with -m every combination of a sweep."""
    words = [command.as_it_stands(word) for word in shlex.split(line, comments=True)]
    overrides = [word for word in words if not word.startswith("-")]
    if not SUBMITIT:  # the launchers compose only with their package, an optional one
        assert all(word[9:] in command.choices("launcher") for word in overrides if word.startswith("launcher="))
        overrides = [word for word in overrides if not word.startswith("launcher=")]
    command.check_words(overrides, sweeping="-m" in words)
    if "-m" not in words:
        yield overrides
        return
    choices = []
    for override in command.parsed(overrides):
        key, value = override.key_or_group, override.value()
        values = value.filter(command.choices(key)) if isinstance(value, Glob) else command.values_of(override)
        assert values, f"{override.input_line} chooses nothing"
        choices.append(
            [f"{key}={value}" for value in values] if override.is_sweep_override() else [override.input_line]
        )
    yield from map(list, product(*choices))


def compose(words: list[str]) -> dict[str, Any]:
    values = command.plain(command.composed(*words), words)
    command.check_pair(values)
    return values


@pytest.mark.parametrize("path", DOCS, ids=name)
def test_every_command_composes(path: Path) -> None:
    for job in {without_seed(words) for line in commands(read(path)) for words in jobs(line)}:
        compose(list(job))


def without_seed(words: list[str]) -> tuple[str, ...]:
    """What jobs have in common that differ by their seed only: they are composed once, whatever documents give them."""
    return tuple(word for word in words if not word.startswith("seed="))


def test_a_wrong_command_would_be_noticed() -> None:
    assert commands("`python run.py a=1` and\n```\nX=1 python run.py \\\n  b=2  # why\n```") == ["a=1", "b=2  # why"]
    assert list(jobs("-m seed=0,1 model=simgan")) == [["seed=0", "model=simgan"], ["seed=1", "model=simgan"]]
    for wrong in ("model=simgam", "model.ngff=3", "-m 'table=simgan_nothing'", "figure=grid"):
        with pytest.raises(UserError):
            list(jobs(wrong))


# ---- names


def defined(path: Path) -> set[str]:
    """Names of a file's functions, classes, methods ("Class.method") and constants."""
    found = set()
    for node in ast.parse(read(path)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def configured() -> set[str]:
    words = [f"{group}={name}" for group in ("model", "data") for name in command.choices(group)]  # they add keys apart
    return {key for word in words for key in command.keys_of(command.composed(word).cfg)}


@pytest.mark.parametrize("path", DOCS, ids=name)
def test_functions_files_and_links_exist(path: Path) -> None:
    text = read(path)
    for file, function in re.findall(r"`([\w/]+\.py):([\w.]+)`", text):
        assert function in defined(ROOT / file), f"{file} has no {function}"
    for file in re.findall(r"`((?:common|conf|docs|finegan|ggb|simgan|tests)/[\w/]+\.\w+)`", text):
        assert (ROOT / file).is_file(), file
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        if not link.endswith(".png"):  # pictures are made by a run
            assert (path.parent / link).exists(), link


def test_settings_that_the_documents_name_exist() -> None:
    known = configured()
    for path in DOCS:
        for key in re.findall(r"`((?:model|loss|data|metrics|trainer|paths|logger)\.[a-z_0-9.]+)[=`]", read(path)):
            assert key in known or key.endswith(".py"), f"{name(path)}: {key}"


def test_make_targets_exist_and_the_readme_gives_the_two_that_set_up() -> None:
    targets = set(re.findall(r"(?m)^([a-z-]+):", read(ROOT / "Makefile")))
    for path in DOCS:
        assert set(re.findall(r"(?m)(?:^|`)make ([a-z-]+)", read(path))) <= targets, name(path)
    assert {"demo", "test"} <= set(re.findall(r"(?m)^make ([a-z-]+)", read(ROOT / "README.md")))


# ---- papers and rows


@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_is_packaged_and_has_its_page(paper: str) -> None:
    assert (ROOT / "docs" / f"{paper}.md").is_file()
    assert paper in tomllib.loads(read(ROOT / "pyproject.toml"))["tool"]["setuptools"]["packages"]


@pytest.mark.parametrize("row", ROWS)
def test_a_row_builds_and_is_on_its_papers_page(row: str) -> None:
    values = compose([f"table={row}"])
    terms = describe(values)["losses"]
    assert terms
    assert all(term["source"] != "not stated" for term in terms)
    assert f"table={row}`" in read(ROOT / "docs" / f"{row.split('_')[0]}.md")
    if "published" in values:
        assert values["published"]["where"].startswith("Table")


def test_no_two_rows_train_the_same() -> None:
    rows = {row: compose([f"table={row}"]) for row in ROWS}
    hashes = {row: short_hash(identity(values)) for row, values in rows.items() if values["task"] == "fit"}
    assert len(set(hashes.values())) == len(hashes)


# ---- where numbers come from


def bare_numbers(text: str) -> list[int]:
    """Lines, from 1, that hold a number and no comment that says where it comes from."""

    def lines(node: yaml.Node) -> Iterator[int]:
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith((":int", ":float")):
            yield node.start_mark.line
        elif isinstance(node, yaml.CollectionNode):
            for part in node.value:
                for child in part if isinstance(part, tuple) else (part,):
                    yield from lines(child)

    rows = text.splitlines()
    found = sorted(set(lines(yaml.compose(text, Loader=yaml.SafeLoader))))
    return [line + 1 for line in found if not re.search(r"#.*[A-Za-z]{3}", rows[line])]


@pytest.mark.parametrize(
    "path", [*(ROOT / "conf/model").glob("*.yaml"), *(ROOT / "conf/loss").glob("*.yaml")], ids=name
)
def test_every_number_says_where_it_comes_from(path: Path) -> None:
    assert bare_numbers(read(path)) == []


def test_a_bare_number_is_found() -> None:
    assert bare_numbers("a: 1\nb: 2.0e-4  # Sec. 3.1\nc: {d: 1.0, e: null}\nf: vgg16\ng: [0.5]  #\n") == [1, 3, 5]
