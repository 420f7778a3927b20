"""Table 1: the split by class, counted in the files that are there."""

from pathlib import Path

import numpy as np

from common.files import write_whole
from common.tasks.job import Job
from common.tasks.runs import append_result, result_line


def count(job: Job) -> None:
    """Counts classes and images of both splits, beside the published numbers; a line of results.jsonl, and a CSV."""
    cfg, records = job.cfg, job.records
    numbers: dict[str, int] = {}
    for split in ("train", "test"):
        rows = records.rows(split)
        numbers |= {f"{split}_classes": len(np.unique(records.labels[rows])), f"{split}_images": len(rows)}
    published = cfg.get("published") or {}
    lines = [f"{name},{value},{published.get(name, '')}" for name, value in numbers.items()]
    write_whole(job.path, "\n".join(["count,here,published", *lines, ""]))
    print("\n".join(f"  {name:32} {value}" for name, value in numbers.items()))
    row, found = cfg["chosen"].get("table") or "finegan_t1_split", f"{len(records)} of {records.expected}"
    line = result_line(cfg, row, job.path, numbers, {"split": "by class"}, images_found=found)
    append_result(Path(cfg["paths"]["runs"]), line)
