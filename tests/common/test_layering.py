"""Who may import whom: run -> papers -> common -> torch, lightning. Read off the syntax tree; nothing is imported."""

import ast
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
ONLY_IN = {  # what Hydra and W&B are to the rest of the suite: nothing
    "hydra": {"run.py", "common/command.py"},
    "omegaconf": {"run.py", "common/command.py"},
    "wandb": {"common/loggers.py"},
}
NAMELESS = {"utils", "helpers", "base", "misc"}
MOST_LINES = 400


def tracked() -> dict[str, str]:
    """Path from the root -> text of every Python file that git tracks or would track; without git, of every package."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"]
    git = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True) if shutil.which("git") else None
    if git is not None and git.returncode == 0:
        names = git.stdout.splitlines()
    else:
        packages = [init.parent for init in ROOT.glob("*/__init__.py")]
        found = [*ROOT.glob("*.py"), *(file for p in (*packages, ROOT / "tests") for file in p.rglob("*.py"))]
        names = [file.relative_to(ROOT).as_posix() for file in found]
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in names if (ROOT / name).is_file()}


def imports(name: str, text: str) -> Iterator[str]:
    """Dotted names of all that a file imports, wherever in the file, also by importlib and relative to itself."""
    for node in ast.walk(ast.parse(text)):
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


def violations(files: dict[str, str]) -> list[str]:
    """One line for each rule that a file breaks."""
    papers = {name.split("/")[0] for name in files if name.endswith("/__init__.py")} - {"common", "tests"}
    found = []
    for name, text in files.items():
        room, parts = name.split("/")[0], PurePosixPath(name).with_suffix("").parts
        if NAMELESS & set(parts):
            found.append(f"{name}: a name that says nothing")
        if room == "tests":
            continue
        if (lines := len(text.splitlines())) > MOST_LINES:
            found.append(f"{name}: {lines} lines")
        for module in imports(name, text):
            target = module.split(".")[0]
            if name not in ONLY_IN.get(target, {name}):
                found.append(f"{name}: {module}, which only {' and '.join(sorted(ONLY_IN[target]))} may know")
            if target in papers | {"run"} and room == "common":
                found.append(f"{name}: {module}, but common knows no paper")
            if target in (papers - {room}) | {"run"} and room in papers:
                found.append(f"{name}: {module}, but papers never import each other or run")
            if target in {"tests", "conf"}:
                found.append(f"{name}: {module}, which nothing imports")
            if room in papers and parts[-1] in ("networks", "losses") and target in ("pytorch_lightning", "lightning"):
                found.append(f"{name}: {module}, but only models know Lightning")
    return found


def test_the_tree_keeps_its_layers() -> None:
    files = tracked()
    assert {"common/errors.py", "simgan/networks.py", "tests/common/test_layering.py"} <= set(files)
    assert violations(files) == []


GOOD = {
    "common/__init__.py": "",
    "common/data/__init__.py": "",
    "simgan/__init__.py": "",
    "jem/__init__.py": "",
    "run.py": "import hydra\nimport simgan.model",
    "common/command.py": "import hydra\nfrom omegaconf import OmegaConf",
    "common/loggers.py": "def finish():\n    import wandb",
    "common/gan.py": "import torch\nfrom pytorch_lightning import LightningModule",
    "common/data/store.py": "from .records import Records\nfrom ..errors import UserError",
    "simgan/model.py": "from common.gan import GANModule\nfrom simgan.networks import Generator\nfrom . import vse",
    "jem/model.py": "import common.losses",
    "tests/common/test_run.py": "import omegaconf\nimport simgan, jem\n" + "\n" * 500,
}


def test_a_tree_in_order_passes() -> None:
    assert violations(GOOD) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("common/gan.py", "import simgan"),
        ("common/gan.py", "def later():\n    from simgan.networks import Generator"),
        ("common/data/store.py", "from run import main"),
        ("common/data/store.py", "from ...jem import model"),
        ("common/tasks/trainer.py", "import importlib\nimportlib.import_module('jem.model')"),
        ("jem/model.py", "from simgan.networks import Generator"),
        ("jem/model.py", "import common.gan, simgan.model as other"),
        ("jem/model.py", "from ..simgan import model"),
        ("simgan/model.py", "import run"),
        ("common/tasks/runs.py", "import wandb"),
        ("common/tasks/fit.py", "from hydra import compose"),
        ("common/loggers.py", "import omegaconf"),
        ("run.py", "import wandb"),
        ("simgan/model.py", "try:\n    from omegaconf import OmegaConf\nexcept ImportError:\n    pass"),
        ("simgan/networks.py", "import pytorch_lightning as pl"),
        ("common/tasks/runs.py", "from tests.squares import write"),
        ("common/utils.py", ""),
        ("tests/helpers.py", ""),
        ("simgan/base/model.py", ""),
        ("common/long.py", "x = 1\n" * 401),
    ],
)
def test_a_planted_violation_is_caught(name: str, text: str) -> None:
    found = violations({**GOOD, name: text})
    assert len(found) == 1
    assert found[0].startswith(f"{name}: ")
