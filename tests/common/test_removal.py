"""A paper can go: without its folder, its YAML, its page and its tests the rest composes, imports and runs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.bench.house import HERE, graph, tracked
from tests.common.test_layering import violations

PAPERS = sorted(init.parent.name for init in HERE.glob("*/__init__.py") if init.parent.name not in ("common", "tests"))
APART = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "runs", "artifacts", "figures", "multirun", "outputs")
# in the copy the paper's package is nobody's, wherever else it is installed
GONE = "import sys; sys.path.insert(0, ''); sys.modules[{paper!r}] = None\n"
LOOK = """
import importlib
from common import command
for name in {modules}:
    importlib.import_module(name)
for name in command.choices("model"):
    command.composed(f"model={{name}}", "preset=toy")
for name in command.choices("prepare"):
    command.composed("model=classifier", "task=prepare", f"prepare={{name}}")
"""
RUN = """
import run
sys.argv = ["run.py", *{words}]
sys.exit(run.main())
"""
TINY = """model=ggb data=deepfashion preset=toy data.procedural.images=64 data.procedural.identities=12
data.batch_size=4 trainer=cpu trainer.max_epochs=1 trainer.limit_train_batches=2 metrics=none evaluate=false logger=csv
paths.data=data paths.runs=runs paths.artifacts=artifacts""".split()  # it draws its data and needs no other network


def target(path: Path) -> str:
    """The package of what a file of conf/model or conf/prepare builds, or of what the file that it begins with does."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    found = re.search(r"'_target_': '(\w+)\.", str(content.get(path.parent.name)))
    if found:
        return found[1]
    first = next((name for name in content.get("defaults", []) if isinstance(name, str) and name != "_self_"), None)
    return target(path.with_stem(first)) if first else ""


def chosen(path: Path) -> set[str]:
    """The models and jobs that a row of a table takes."""
    return set(re.findall(r"override /(?:model|prepare): (\w+)", path.read_text(encoding="utf-8")))


def without(paper: str, root: Path) -> Path:
    """A copy of the tree that never had this paper."""
    tree = root / "tree"
    shutil.copytree(HERE, tree, ignore=APART)
    kinds = [path for group in ("model", "prepare") for path in (tree / "conf" / group).glob("*.yaml")]
    gone = {path.stem for path in kinds if target(path) == paper}
    assert gone
    rows = [path for path in (tree / "conf/table").glob("*.yaml") if chosen(path) & gone]
    parts = [path for name in gone for path in (tree / "conf").rglob(f"{name}.yaml")]
    losses = [path for name in gone for path in (tree / "conf/loss").glob(f"{name}_*.yaml")]
    pages = [tree / "docs" / f"{paper}.md"]
    for path in {*rows, *parts, *losses, *pages}:
        path.unlink()
    for folder in (tree / paper, tree / "tests" / paper):
        shutil.rmtree(folder)
    return tree


def python(tree: Path, paper: str, code: str) -> None:
    """Runs code in the copy. AssertionError with what it said unless it ends well."""
    command = [sys.executable, "-c", GONE.format(paper=paper) + code]
    process = subprocess.run(command, cwd=tree, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]


@pytest.mark.parametrize("paper", PAPERS)
def test_the_rest_does_not_miss_a_paper(paper: str, tmp_path: Path) -> None:
    tree = without(paper, tmp_path)
    files = {name: text for name, text in tracked(tree).items() if not name.startswith("tests/")}
    assert violations(files) == []
    yamls = {path: path.read_text(encoding="utf-8") for path in (tree / "conf").rglob("*.yaml")}
    assert [path.name for path, text in yamls.items() if f"_target_: {paper}." in text] == []
    modules = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files if "/" in name]
    python(tree, paper, LOOK.format(modules=modules))


@pytest.mark.slow
def test_the_rest_trains_without_simgan(tmp_path: Path) -> None:
    """Without another paper SIMGAN is left, which the tests of the rest run."""
    python(without("simgan", tmp_path), "simgan", RUN.format(words=TINY))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("paper", PAPERS)
def test_the_tests_of_the_rest_pass(paper: str, tmp_path: Path) -> None:
    """All that know nothing of the paper: not its package, by whatever they import, nor its models by the command."""
    tree = without(paper, tmp_path)
    files = tracked(tree)
    edges = graph(tracked() | files)  # where the paper's own files still are
    names = {path.stem for path in (HERE / "conf/model").glob("*.yaml") if target(path) == paper}
    told = re.compile(rf"model={'|model='.join(names)}|\b{paper}\b")

    def knows(name: str, seen: frozenset[str] = frozenset()) -> bool:
        if name.split("/")[0] == paper or (name.startswith("tests/") and told.search(files.get(name, ""))):
            return True
        return any(knows(after, seen | {name}) for after in edges.get(name, ()) if after not in seen)

    rest = [name for name in files if name.split("/")[-1].startswith("test_") and not knows(name)]
    assert len(rest) > 20
    rest = [name for name in rest if not name.endswith(("test_docs.py", "test_removal.py"))]
    python(tree, paper, f"import pytest; sys.exit(pytest.main({['-x', '-q', *rest]}))")
