"""What other methods report (Table 1 and after), kept apart from all that is measured."""

from pathlib import Path

from common.files import write_whole
from common.tasks.job import Job
from common.tasks.runs import append_result, result_line


def tell(job: Job) -> None:
    """A line of results.jsonl for each method of conf/prepare/reported.yaml, without numbers of ours, and a CSV."""
    table = ["method,ssim,inception_score,protocol"]
    for name, told in job.settings["methods"].items():
        ssim, score, protocol = told["ssim"], told["inception_score"], told["protocol"]
        table.append(f'{name},{ssim},{score[0] if isinstance(score, list) else score},"{protocol}"')
        published = {"where": "reported", "ssim": ssim, "inception_score": score, "measured": f"no: {protocol}"}
        line = result_line(
            job.cfg,
            f"ggb_t1_{name}",
            job.path,
            {},
            {"protocol": protocol},
            data="as reported",
            data_source="others",
            images_found="0 of 0",
            seed=0,
            published=published,
            preset=None,
        )
        append_result(Path(job.cfg["paths"]["runs"]), line)
    write_whole(job.path, "\n".join([*table, ""]))
    print("\n".join(table))
