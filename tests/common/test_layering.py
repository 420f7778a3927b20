"""Who may import whom: run -> papers -> common -> torch, lightning. Read off the syntax tree; nothing is imported."""

from collections import Counter
from pathlib import PurePosixPath

import pytest

from tests.bench.house import circles, functions, graph, imports, lines_of, longest_chain, source_of, tracked

ONLY_IN = {  # what Hydra and W&B are to the rest of the suite: nothing
    "hydra": {"run.py", "common/command.py"},
    "omegaconf": {"run.py", "common/command.py"},
    "wandb": {"common/loggers.py"},
}
NAMELESS = {"utils", "helpers", "base", "misc"}
MOST_FILES, MOST_LINES, LONGEST_FUNCTION, LONGEST_CHAIN = 16, 400, 60, 8  # of a room, of a file, in lines, in files


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


def too_large(files: dict[str, str]) -> list[str]:
    """One line for each room, file and function of the source that is over its size, and for each circle and chain."""
    files = source_of(files)
    rooms = Counter(name.rpartition("/")[0] for name in files)
    sizes = {name: len(text.splitlines()) for name, text in files.items()}
    lengths = {name: lines_of(node) for name, node in functions(files).items()}
    edges = graph(files)
    found = [f"{room}: {count} files" for room, count in rooms.items() if count > MOST_FILES]
    found += [f"{name}: {count} lines" for name, count in sizes.items() if count > MOST_LINES]
    found += [f"{name}: {count} lines" for name, count in lengths.items() if count > LONGEST_FUNCTION]
    found += [f"{name}: in a circle of {', '.join(group)}" for group in circles(edges) for name in group]
    chain = longest_chain(edges)
    return found + ([f"chain: {' imports '.join(chain)}"] if len(chain) > LONGEST_CHAIN else [])


def test_the_tree_keeps_its_layers() -> None:
    files = tracked()
    assert {"common/errors.py", "simgan/networks.py", "tests/common/test_layering.py"} <= set(files)
    assert violations(files) == []


def test_nothing_is_too_large_or_in_a_circle() -> None:
    assert too_large(tracked()) == []


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
    ],
)
def test_a_planted_violation_is_caught(name: str, text: str) -> None:
    found = violations({**GOOD, name: text})
    assert len(found) == 1
    assert found[0].startswith(f"{name}: ")


def chained(count: int) -> dict[str, str]:
    return {f"jem/a{i}.py": f"from jem.a{i + 1} import x" for i in range(1, count)} | {f"jem/a{count}.py": "x = 1"}


@pytest.mark.parametrize(
    ("files", "places"),
    [
        ({"jem/long.py": "x = 1\n" * 400}, set()),
        ({"jem/long.py": "x = 1\n" * 401}, {"jem/long.py"}),
        ({"jem/f.py": "def f():\n" + "    x = 1\n" * 59}, set()),
        ({"jem/f.py": "class A:\n    def f():\n" + "        x = 1\n" * 60}, {"jem/f.py:A.f"}),
        ({f"jem/b{i}.py": "x = 1" for i in range(15)}, set()),  # and model.py
        ({f"jem/b{i}.py": "x = 1" for i in range(16)}, {"jem"}),
        (chained(8), set()),
        (chained(9), {"chain"}),
        ({"jem/a.py": "import jem.b", "jem/b.py": "def f():\n    from jem.a import f"}, {"jem/a.py", "jem/b.py"}),
        (
            {
                "jem/a.py": "import jem.b",
                "jem/b.py": "if TYPE_CHECKING:\n    from . import c",
                "jem/c.py": "import jem.a",
            },
            {"jem/a.py", "jem/b.py", "jem/c.py"},
        ),
        (chained(8) | {"jem/a8.py": "import jem.a7"}, {"jem/a7.py", "jem/a8.py"}),  # a circle lengthens no chain
    ],
)
def test_a_planted_size_and_circle_is_caught(files: dict[str, str], places: set[str]) -> None:
    found = too_large(GOOD | files)
    assert {line.partition(": ")[0] for line in found} == places
    assert len(found) == len(places)
