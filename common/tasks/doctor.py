"""What is installed, which devices, data sets and weights are here, and what to do about what is missing.

Only the standard library is imported before the versions are checked: a torchvision that was built for another torch
takes Lightning and torchmetrics down with it. No socket is opened.
"""

import hashlib
import netrc
import os
import platform
import re
import shutil
import sys
import textwrap
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import UserError

REINSTALL = "reinstall both from one source: pip install --force-reinstall torch torchvision"
MALICIOUS = ("2.6.2", "2.6.3")  # of lightning: GHSA-w37p-236h-pfx3
PACKAGES = ("torchmetrics", "torch-fidelity", "hydra-core", "omegaconf", "scipy", "pillow", "numpy", "filelock", "rich")
OPTIONAL = {
    "wandb": "logger=wandb",
    "tensorboard": "logger=tensorboard",
    "fasttext": "sentence vectors from wiki.en.bin, which the released SISGAN encoders were trained on",
    "hydra-submitit-launcher": "sweeps on a SLURM cluster",
    "hydra-joblib-launcher": "sweeps with several jobs at a time",
}
LITTLE = 5  # GiB of free disk
WIDTH = 120


class Line(NamedTuple):
    """One row of the table. mark: ok, partial, absent or broken."""

    mark: str
    what: str
    told: str


def examine(cfg: dict[str, Any]) -> str:
    """The table of task=doctor. cfg: `paths` (data, runs, artifacts) and `data` (name, root) are read."""
    table = {"software": software()}
    marks = {line.what: line.mark for line in table["software"]}
    if marks["torch"] != "ok":  # without torch nothing else can be asked
        return render(table)
    table["machine"] = [*machine(), *(disk(key, Path(path)) for key, path in cfg["paths"].items()), tracking()]
    if marks["torchvision"] == "ok":  # else Lightning fails, and with it what reads data
        table["data"] = datasets(cfg)
    from common.weights import KNOWN_FILES, hub_folder

    hub = hub_folder()
    table[f"weights in {hub}"] = [weights(needed, hub) for needed in KNOWN_FILES.values()]
    table["optional"] = [optional(name, use) for name, use in OPTIONAL.items()]
    return render(table)


def render(table: dict[str, list[Line]]) -> str:
    """Section by section: mark, name, and what there is to say, wrapped."""
    wrapper = textwrap.TextWrapper(WIDTH, subsequent_indent=" " * 38, break_long_words=False, break_on_hyphens=False)
    rows = []
    for section, lines in table.items():
        rows.append(section)
        for mark, what, told in lines:
            head = f"  {mark:9}{what:26}"
            rows.append(wrapper.fill(f"{head:37} {told}"))
    marks = [line.mark for lines in table.values() for line in lines]
    rows.append(", ".join(f"{marks.count(m)} {m}" for m in ("ok", "partial", "absent", "broken") if m in marks))
    return "\n".join(rows)


# ---- software


def installed(package: str) -> str:
    """Its version, "" when it is not there. Nothing is imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def software() -> list[Line]:
    """Python, torch, torchvision and Lightning, in the order in which a fault brings the next ones down."""
    python = "ok" if sys.version_info >= (3, 11) else "broken"
    lines = [
        Line(python, "Python", platform.python_version() + ("" if python == "ok" else ": 3.11 or newer is needed"))
    ]
    try:
        import torch

        lines.append(Line("ok", "torch", torch.__version__))
    except Exception as error:  # a build for another system or GPU driver fails in many ways
        return [*lines, Line("broken", "torch", f"{error}: pip install torch torchvision")]
    return [*lines, torchvision(), *lightning(), packages()]


def torchvision() -> Line:
    """Imports it, which registers its operators: they exist only beside the torch that it was built for."""
    wanted = next((line for line in requires_of("torchvision") if re.match(r"torch\b(?!-)", line)), "torch")
    try:
        import torch
        import torchvision as tv

        tv.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        return Line("ok", "torchvision", f"{tv.__version__}, fits torch")
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        found = installed("torchvision") or "absent"
        return Line(
            "broken", "torchvision", f"{found} needs {wanted} and found {installed('torch')} ({reason}): {REINSTALL}"
        )


def requires_of(package: str) -> list[str]:
    """What a package says it needs; nothing for one that is absent."""
    try:
        return requires(package) or []
    except PackageNotFoundError:
        return []


def lightning() -> list[Line]:
    """Both names of Lightning: 2.6.2 and 2.6.3 of `lightning` were malicious uploads."""
    lines = []
    for name in ("pytorch-lightning", "lightning"):
        found = installed(name)
        if found in MALICIOUS:
            remedy = (
                f'was a malicious upload: pip install "{name}>=2.6.4", and change every key that this machine holds'
            )
            lines.append(Line("broken", name, f"{found} {remedy}"))
        elif found:
            lines.append(Line("ok", name, found))
        elif name == "pytorch-lightning":
            lines.append(Line("absent", name, 'pip install "pytorch-lightning>=2.6.4"'))
    return lines


def packages() -> Line:
    """The packages that nothing works without, with their versions."""
    found = {name: installed(name) for name in PACKAGES}
    if absent := [name for name in PACKAGES if not found[name]]:
        return Line("absent", "packages", f"{', '.join(absent)}: pip install -e . in the project's folder")
    return Line("ok", "packages", ", ".join(f"{name} {found[name]}" for name in PACKAGES))


# ---- machine


def machine() -> list[Line]:
    """Threads, memory and GPUs."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines = [Line("ok", "CPU", f"{cores} cores, of which torch uses {torch.get_num_threads()}; {memory()}")]
    if not torch.cuda.is_available():
        return [*lines, Line("absent", "GPU", "the CPU is used: right for preset=toy, too slow for the papers' sizes")]
    for i in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(i)
        with torch.cuda.device(i):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        told = (
            f"{facts.name}, {gib(facts.total_memory)}, {'bf16' if bf16 else 'no bf16: add trainer.precision=32-true'}"
        )
        lines.append(Line("ok", f"GPU {i}", told))
    return lines


def memory() -> str:
    """Memory of the machine, or of the container where that is less."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return "memory unknown"
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        total = min(total, int(limit)) if limit.isdecimal() else total
    except OSError:
        pass
    return f"{gib(total)} memory"


def gib(size: float) -> str:
    """Bytes in words."""
    return f"{size / 2**30:.1f} GiB"


def disk(key: str, path: Path) -> Line:
    """Free disk where a folder is or will be made."""
    path = path.expanduser().absolute()
    there = next(folder for folder in (path, *path.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    told = f"{path}: {gib(free)} free" + ("" if there == path else ", made when needed")
    if not os.access(there, os.W_OK):
        return Line("partial", f"paths.{key}", f"{told}, read-only: fine for complete data, else choose another folder")
    return (
        Line("ok", f"paths.{key}", told)
        if free > LITTLE * 2**30
        else Line("partial", f"paths.{key}", f"{told}: little")
    )


def tracking() -> Line:
    """Is there a key of W&B? Looks, never asks."""
    try:
        logged_in = netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        logged_in = False
    if os.environ.get("WANDB_API_KEY") or logged_in:
        return Line("ok", "W&B key", "found: runs are sent to W&B as well as kept in paths.runs")
    return Line("absent", "W&B key", "runs are kept in paths.runs as files; nobody is asked to log in")


# ---- data and weights


def datasets(cfg: dict[str, Any]) -> list[Line]:
    """Each data set under paths.data, the user's own folder if it is chosen, and what was drawn."""
    from common.data.readers import known

    root = Path(cfg["paths"]["data"]).expanduser().absolute()
    readers = {reader.dataset.name: reader for reader in known()}
    lines = [dataset(reader, root) for reader in readers.values() if reader.dataset.archive]
    if "root" in cfg["data"]:
        name, own = cfg["data"]["name"], Path(cfg["data"]["root"]).expanduser().absolute()
        try:
            records = readers[name](root=own, allow_missing=True).read()
            told = "; ".join((f"{own}: {len(records):,} images of {len(records.classes):,} classes", *records.notes))
            lines.append(Line("partial" if records.notes else "ok", name, told))
        except UserError as error:
            lines.append(Line("absent", name, str(error)))
    drawn = sorted(path.parent.name for path in Path(cfg["paths"]["artifacts"]).glob("procedural/*/procedural.json"))
    told = "drawn when asked for with preset=toy or data.source=procedural"
    return [*lines, Line("ok", "procedural", f"{told}; here: {', '.join(drawn) or 'none yet'}")]


def dataset(reader: Any, root: Path) -> Line:
    """What is there of a data set, part by part, and what its reader says of it."""
    name, counts = reader.dataset.name, reader.inventory(root)
    try:
        records = reader(root=root, allow_missing=True).read()
    except UserError as error:
        if not any(counts.values()):
            return Line("absent", name, str(error))
        return Line("partial", name, f"{root}: {tally(counts)}. {error}")
    if records.procedural:
        return Line("ok", name, f"{records.root}: {len(records):,} images, drawn (procedural)")
    split = f"{len(records.rows('train')):,} for training, {len(records.rows('test')):,} for testing"
    told = f"{records.root}: {tally(counts)}; {split}"
    if lacking := [part for part, n in counts.items() if n < part.files]:
        goes_on = "data.allow_missing=true goes on with these, " if any(part.needed for part in lacking) else ""
        return Line("partial", name, f"{told}; {goes_on}{reader.dataset.remedy}")
    return Line("partial" if records.notes else "ok", name, "; ".join((told, *records.notes)))


def tally(counts: Any) -> str:
    """Part -> files there, as a sentence: many files are counted, single ones are named when they are absent."""
    many = [f"{part.what} {n:,} of {part.files:,}" for part, n in counts.items() if part.files > 1]
    return ", ".join(many + [f"no {part.what}" for part, n in counts.items() if part.files == 1 and not n])


def weights(needed: Any, folder: Path) -> Line:
    """Is a `common.weights.KnownFile` in the folder, and whole?"""
    path = next((folder / name for name in needed.names if (folder / name).is_file()), None)
    if path is None:
        told = f"{needed.name} ({needed.source}), for {needed.use}: without it {needed.without}"
        return Line("absent", needed.title, told)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(path.stem.rpartition("-")[2]):
        return Line("broken", needed.title, f"{path.name} is cut or another file: delete it and take it again")
    return Line("ok", needed.title, f"{path.name}, for {needed.use}")


def optional(name: str, use: str) -> Line:
    """A package that one thing alone needs."""
    found = installed(name)
    return Line("ok" if found else "absent", name, f"{found or 'only'} for {use}")
