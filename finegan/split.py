"""Table 1: the split by class, counted in the files that are there."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from common.files import write_whole
from common.tasks.fit import load_data
from common.tasks.runs import append_result, environment


def count(cfg: dict[str, Any], path: Path) -> None:
    """Counts classes and images of both splits, beside the published numbers; a line of results.jsonl, and a CSV."""
    records = load_data(cfg).records
    numbers: dict[str, int] = {}
    for split in ("train", "test"):
        rows = records.rows(split)
        numbers |= {f"{split}_classes": len(np.unique(records.labels[rows])), f"{split}_images": len(rows)}
    published = cfg.get("published") or {}
    lines = [f"{name},{value},{published.get(name, '')}" for name, value in numbers.items()]
    write_whole(path, "\n".join(["count,here,published", *lines, ""]))
    print("\n".join(f"  {name:32} {value}" for name, value in numbers.items()))
    line = {
        "row": cfg["chosen"].get("table") or "finegan_t1_split",
        "run": str(path),
        "config": cfg["hash"],
        "data": records.name,
        "data_source": cfg["data"]["source"],
        "images_found": f"{len(records)} of {records.expected}",
        "seed": cfg["seed"],
        "numbers": numbers,
        "published": published or None,
        "protocol": {"split": "by class"},
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        **{key: environment()[key] for key in ("commit", "versions")},
    }
    append_result(Path(cfg["paths"]["runs"]), line)
