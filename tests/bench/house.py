"""What a house is measured by: sizes of files and functions, the import graph, docstrings, types, tests beside source.

    python tests/bench/house.py [ROOT]      of the repository at ROOT, or of this one: a row of a Markdown table

Read off the syntax tree; nothing is imported. Tests and empty files are set apart from source.
"""

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from statistics import median, quantiles

HERE = Path(__file__).parents[2]
COLUMNS = (
    """
.py files, median / max lines, function p95 / max, import depth and circles, docstrings of all and of public, typed,
tests : source""".replace("\n", " ")
    .strip()
    .split(", ")
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def tracked(root: Path = HERE, suffix: str = "py") -> dict[str, str]:
    """Path from the root -> text of every such file that git tracks or would track; without git, of every package."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", f"*.{suffix}"]
    git = subprocess.run(listing, cwd=root, capture_output=True, text=True) if shutil.which("git") else None
    if git is not None and git.returncode == 0:
        names = git.stdout.splitlines()
    else:
        rooms = [*(init.parent for init in root.glob("*/__init__.py")), root / "conf"]
        found = [*root.glob(f"*.{suffix}"), *(file for room in rooms for file in room.rglob(f"*.{suffix}"))]
        names = [file.relative_to(root).as_posix() for file in found]
    return {name: (root / name).read_text(encoding="utf-8") for name in sorted(names) if (root / name).is_file()}


@cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


def imports(name: str, text: str) -> Iterator[str]:
    """Dotted names of all that a file imports, wherever in the file, also by importlib and relative to itself."""
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = name.split("/")[: -node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__"):
                yield str(node.args[0].value)


def graph(files: Mapping[str, str]) -> dict[str, set[str]]:
    """Each file -> the files that it imports. A name that is no file is looked for in the file or room before it."""

    def file_of(module: str) -> str | None:
        while module:
            path = module.replace(".", "/")
            for name in (f"{path}.py", f"{path}/__init__.py"):
                if name in files:
                    return name
            module = module.rpartition(".")[0]
        return None

    found = {name: {file_of(module) for module in imports(name, text)} for name, text in files.items()}
    return {name: {file for file in reached if file not in (None, name)} for name, reached in found.items()}


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of files of which each imports each other by some way, the largest first."""
    reach = {name: set(after) for name, after in edges.items()}
    for middle in edges:
        for name in edges:
            if middle in reach[name]:
                reach[name] |= reach[middle]
    groups = {tuple(sorted(o for o in edges if o in reach[name] and name in reach[o])) for name in edges}
    return sorted((list(group) for group in groups if group), key=lambda group: (-len(group), group))


def longest_chain(edges: Mapping[str, set[str]]) -> list[str]:
    """Files that import one another in a row, the longest such; of a circle one file counts."""
    first = {name: group[0] for group in circles(edges) for name in group}
    chains: dict[str, list[str]] = {}

    def chain(name: str) -> list[str]:
        if name not in chains:
            group = [name, *(other for other in edges if first.get(other, other) == name)]
            after = {first.get(o, o) for member in group for o in edges[member]} - {name}
            chains[name] = [name, *max((chain(other) for other in sorted(after)), key=len, default=[])]
        return chains[name]

    return max((chain(first.get(name, name)) for name in edges), key=len, default=[])


def functions(files: Mapping[str, str]) -> dict[str, Function]:
    """file:class.function -> its node, of all files; functions inside functions too."""
    found: dict[str, Function] = {}

    def look(node: ast.AST, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, Function | ast.ClassDef)
            inner = f"{name}.{child.name}".replace(":.", ":") if named else name
            if isinstance(child, Function):
                found[inner] = child
            look(child, inner)

    for name, text in files.items():
        look(parsed(text), f"{name}:")
    return found


def lines_of(node: Function) -> int:
    """From its `def` to its last line, without decorators."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def is_typed(node: Function) -> bool:
    """Whether it says what it returns, or what it takes."""
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return node.returns is not None or any(arg.annotation for arg in given)


def is_public(name: str) -> bool:
    """No part of file:class.function begins with _; a function inside a function is nobody's else."""
    return not any(part.startswith("_") for part in name.partition(":")[2].split("."))


def source_of(files: Mapping[str, str]) -> dict[str, str]:
    """All but tests and empty files."""
    return {name: text for name, text in files.items() if name.split("/")[0] != "tests" and text.strip()}


def lines(files: Mapping[str, str]) -> int:
    return sum(len(text.splitlines()) for text in files.values())


def row(root: Path) -> str:
    """A row of the table, and below it the lines of source, tests (test_*.py, as in the row), all below tests, YAML."""
    files = tracked(root)
    source = source_of(files)
    tests = {name: text for name, text in files.items() if name.split("/")[-1].startswith("test_")}
    edges, found = graph(source), functions(source)
    sizes, lengths = [len(text.splitlines()) for text in source.values()], [lines_of(node) for node in found.values()]
    public = [node for name, node in found.items() if is_public(name)]
    said, said_public = (
        sum(ast.get_docstring(node) is not None for node in nodes) / len(nodes) for nodes in (found.values(), public)
    )
    typed = sum(map(is_typed, found.values())) / len(found)
    groups = ", ".join(str(len(group)) for group in circles(edges))
    cells = [
        root.resolve().name,
        str(len(source)),
        f"{median(sizes):.0f} / {max(sizes)}",
        f"{quantiles(lengths, n=20)[-1]:.0f} / {max(lengths)}",
        f"{len(longest_chain(edges))}, {f'circles of {groups} files' if groups else 'none'}",
        f"{said:.0%}, {said_public:.0%}",
        f"{typed:.0%}",
        f"{lines(tests) / lines(source):.2f}",
    ]
    head = f"| | {' | '.join(COLUMNS)} |\n|{'---|' * len(cells)}"
    below = {name: text for name, text in files.items() if name.startswith("tests/")}
    told = f"{lines(source):,} of source, {lines(tests):,} of tests ({lines(below):,} with what they share and benches)"
    return f"{head}\n| {' | '.join(cells)} |\n\nLines: {told}, {lines(tracked(root, 'yaml')):,} of YAML."


if __name__ == "__main__":
    print(row(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE))
