"""`make bench`: how fast the suite is beside the way public code does the same. Writes docs/performance.md.

python -m tests.bench [--only store step finegan ggb jem metrics draw] [--device cuda] [--quick] [--out FILE]
"""

import argparse
import datetime
import inspect
import logging
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch

from tests.bench.timing import Row

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
BENCHES = {
    "store": "bench_data",
    "step": "bench_step",
    "finegan": "bench_finegan",
    "ggb": "bench_ggb",
    "jem": "bench_jem",
    "denoise": "bench_denoise",
    "metrics": "bench_metrics",
    "draw": "bench_data",
}
TITLES = {
    "store": "Image store",
    "step": "Training step",
    "finegan": "FineGAN's training step",
    "ggb": "GGB's training step",
    "jem": "JEM's training step",
    "denoise": "Attribute denoising",
    "metrics": "Metrics",
    "draw": "Procedural drawing",
}
HEAD = """# Performance

Written by `make bench` (`python -m tests.bench`; with a GPU `--device cuda`). Both ways of doing a thing run in turn in
one process and each figure is a median: ratios hold on a busy machine, rates less so. Each section says which machine
made it; a run replaces its own sections and leaves the others.
"""


def machine(device: torch.device) -> str:
    """Processor, threads, GPU or none, library, load before the start."""
    try:
        chip = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    except (OSError, IndexError):
        chip = platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    return f"{chip}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{load}; {gpu}; torch {torch.__version__}"


def commit() -> str:
    """Of the code that is measured, or "unknown" outside a repository."""
    try:
        head = ["git", "rev-parse", "--short", "HEAD"]
        name = subprocess.run(head, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "*.py"], cwd=ROOT).returncode != 0
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name} with changes" if changed else name


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    lines = ["| work | ours | other | unit | ratio | aim | met |", "|---|---:|---:|---|---:|---|---|"]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f} x"
        met = {None: "", True: "yes", False: "no"}[row.met]
        cells = (row.work, number(row.ours), number(row.other), row.unit, ratio, row.aim, met)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def merge(page: str, title: str, section: str) -> str:
    """The page with this section in place of the one of the same title, or at its end."""
    _, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    kept = {text.partition("\n")[0]: text.partition("\n")[2].strip() for text in sections}
    kept[title] = section
    return HEAD + "".join(f"\n## {title}\n\n{text}\n" for title, text in kept.items())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHES, default=list(BENCHES), metavar="NAME")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: does it run? prints only, unless --out is given"
    )
    parser.add_argument("--out", type=Path, help="the page to write, else docs/performance.md")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    out = options.out or (None if options.quick else PAGE)
    words = [f"--device {device.type}"] * (device.type != "cpu") + ["--quick"] * options.quick
    facts = f"{machine(device)}; {datetime.date.today()}; commit {commit()}"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for name in options.only:
            bench = getattr(import_module(f"tests.bench.{BENCHES[name]}"), name)
            rows = bench(Path(folder), device=device, quick=options.quick)
            title = f"{TITLES[name]}, {device.type.upper()}"
            command = " ".join(["python -m tests.bench", *words, f"--only {name}"])
            section = f"{inspect.getdoc(bench)}\n\n{facts}; `{command}`\n\n{table(rows)}"
            print(f"## {title}\n\n{table(rows)}\n", flush=True)
            if out is not None:  # after each, so that a later one that fails costs nothing
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(merge(out.read_text() if out.is_file() else "", title, section))


if __name__ == "__main__":
    logging.getLogger("common").setLevel(logging.ERROR)  # only the tables
    main()
