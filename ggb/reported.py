"""What other methods report (Table 1 and after), kept apart from all that is measured."""

import time
from pathlib import Path
from typing import Any

from common.files import write_whole
from common.tasks.runs import append_result, environment


def tell(cfg: dict[str, Any], path: Path) -> None:
    """A line of results.jsonl for each method of conf/prepare/reported.yaml, without numbers of ours, and a CSV."""
    table = ["method,ssim,inception_score,protocol"]
    for name, told in cfg["prepare"]["methods"].items():
        ssim, score = told["ssim"], told["inception_score"]
        table.append(f'{name},{ssim},{score[0] if isinstance(score, list) else score},"{told["protocol"]}"')
        line = {
            "row": f"ggb_t1_{name}",
            "run": str(path),
            "config": cfg["hash"],
            "data": "as reported",
            "data_source": "others",
            "images_found": "0 of 0",
            "seed": 0,
            "numbers": {},
            "protocol": {"protocol": told["protocol"]},
            "published": {
                "where": "reported",
                "ssim": ssim,
                "inception_score": score,
                "measured": f"no: {told['protocol']}",
            },
            "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
            **{key: environment()[key] for key in ("commit", "versions")},
        }
        append_result(Path(cfg["paths"]["runs"]), line)
    write_whole(path, "\n".join([*table, ""]))
    print("\n".join(table))
