"""What `python run.py task=...` does: one short function a task, which imports what it needs when it runs.

So a task that needs no torch imports none.
"""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.config import as_list, locate
from common.errors import UserError, choose
from common.files import short_hash, write_whole
from common.tasks.job import Config, load_data
from common.tasks.runs import RunFolder, append_result, identity, result_line

log = logging.getLogger(__name__)


def run(cfg: Config, *, sweeping: bool = False) -> None:
    """Runs cfg["task"]. In a sweep a fit that is done already is skipped."""
    cfg["hash"] = short_hash(identity(cfg))  # before needed files are filled in
    if sweeping and cfg["task"] == "fit":
        told = RunFolder.of(cfg).status()
        if told.get("state") == "done" and told.get("epochs", 0) >= cfg["trainer"]["max_epochs"]:
            log.info("done already, skipped: %s", RunFolder.of(cfg).path)
            return
    TASKS[choose("task", cfg["task"], TASKS)](cfg)


def fit(cfg: Config) -> None:
    """task=fit: what the model needs first, then the model, its one file and its numbers."""
    from common.tasks.fit import export as write
    from common.tasks.fit import train_one

    began = time.time()
    model, data, folder = train_one(cfg)
    write(model, folder.export)
    folder.say("trained", exported={"epochs": folder.status()["epochs"], "images": model.images_seen})
    if cfg["evaluate"] and cfg.get("measures"):
        score(cfg, model, data, folder)
    folder.say("done", seconds_total=round(time.time() - began, 1))
    for what, name in (("pictures", "samples"), ("numbers", "eval"), ("run", ".")):
        if any((folder.path / name).iterdir()):
            print(f"{what:9} {folder.path / name}")


def evaluate(cfg: Config) -> None:
    """task=evaluate: the numbers of a trained model. UserError for a network that is scored while it is trained."""
    if not cfg.get("measures"):
        raise UserError(f"model={cfg['chosen']['model']} is scored while it is trained: use task=fit")
    from common.tasks.fit import trained

    score(cfg, *trained(cfg))


def score(cfg: Config, model: Any, data: Any, folder: RunFolder) -> None:
    """Evaluates, prints the numbers, writes eval/<protocol>.json and appends the line of results.jsonl."""
    from common.metrics.evaluate import evaluate, needs_classifier, summary
    from common.tasks.fit import artifact, behind

    options = cfg["metrics"] | {"pairs": cfg.get("pairs")}
    files = {}
    for name, need in cfg.get("needs_to_score", {}).items():
        wanted = needs_classifier(options) if name == "classifier" else options["networks"]
        files[name] = str(artifact(need, cfg["words"])) if wanted and need else None
    numbers, protocol, cost = evaluate(model, data, options, cfg["measures"], files, Path(cfg["paths"]["artifacts"]))
    weights = Path(cfg.get("checkpoint") or folder.export)
    epochs, images = behind(weights, folder)
    line = result_line(
        cfg,
        cfg["chosen"].get("table") or cfg["chosen"]["model"],
        folder.path,
        numbers,
        protocol,
        images_found=f"{len(data.records)} of {data.records.expected}",
        data_hash=data.records.fingerprint(data.reads)[:8],
        weights=str(weights),
        epochs=epochs,
        images=images,
        cost=cost,
    )
    write_whole(folder.path / "eval" / f"{short_hash(protocol)}.json", json.dumps(line, indent=1))
    if data.records.procedural:
        print("numbers on PROCEDURAL data, not comparable with any paper:")
    print(summary(numbers, protocol, locate(cfg["measures"]["_target_"]).MEANINGS))
    append_result(Path(cfg["paths"]["runs"]), line)


def sample(cfg: Config) -> None:
    """What the model makes of the user's images and texts."""
    from common.pictures import Request, destination, write
    from common.tasks.fit import trained

    request = Request.of(cfg)
    model, data, folder = trained(cfg)
    first = Path(request.images[0]).stem if request.images else cfg["chosen"]["model"]
    digest = short_hash([request.images, request.texts, request.n, request.seed, request.settings])
    path = destination(cfg["output"], folder.path / "samples", f"{first}-{digest}.png")
    write(model.respond(data, request), path, request.said(cfg))
    print(f"picture   {path}")


def figure(cfg: Config) -> None:
    """One of the model's figures, of the user's images and texts or of test images."""
    from common.pictures import Request, destination, write
    from common.tasks.fit import trained

    request, pictures = Request.of(cfg), cfg["pictures"]
    name = choose("figure", cfg["figure"], pictures["figures"])
    if name in pictures.get("discriminators", ()):
        cfg["checkpoint"] = cfg["checkpoint"] or str(RunFolder.of(cfg).last)
        if not cfg["checkpoint"].endswith(".ckpt"):
            raise UserError(
                f"figure={name} reads the discriminators, which exported files leave out: give checkpoint=FILE.ckpt."
            )
    model, data, folder = trained(cfg)
    path = destination(cfg["output"], folder.path / "figures", f"{name}.png")
    write(locate(f"{pictures['module']}.{name}")(model, data, request), path, request.said(cfg))
    print(f"picture   {path}")


def export(cfg: Config) -> None:
    """The suite's one file, or a layout that the model's configuration lists."""
    from common.tasks.fit import export as write
    from common.tasks.fit import trained

    layouts = cfg.get("layouts", {})
    choose("layout", cfg["layout"], ["suite", *layouts])
    folder = RunFolder.of(cfg)
    if not cfg["checkpoint"] and folder.last.is_file():
        cfg["checkpoint"] = str(folder.last)  # which has discriminators that are trained
    model, _, folder = trained(cfg)
    path = Path(cfg["output"]).expanduser() if cfg["output"] else folder.path / "export"
    if cfg["layout"] == "suite":
        path = path if cfg["output"] else folder.export
        write(model, path)
    else:
        locate(layouts[cfg["layout"]])(model, path, discriminators=cfg["checkpoint"].endswith(".ckpt"))
    print(f"written   {path}")


def describe(cfg: Config) -> None:
    """task=describe: networks, losses and data on the terminal; nothing is trained or read."""
    from common.tasks.describe import describe as told

    facts = told(cfg)
    text = facts.pop("text")
    print(json.dumps(facts, indent=1) if cfg["format"] == "json" else text)


def prepare(cfg: Config) -> None:
    """A job of conf/prepare where one is chosen; else the data set: fetched, unpacked, checked, its store built."""
    if cfg.get("prepare"):
        from common.tasks.fit import run_job

        print(f"ready: {run_job(cfg)}")
        return
    from common.data.readers.archives import prepare as fetch

    spec = cfg["data"]
    if spec["source"] == "real" and "root" not in spec:  # a user's own folder and drawn data come from nowhere else
        root = Path(cfg["paths"]["data"]).expanduser()
        fetch(locate(spec["reader"]["_target_"]), root, download=cfg["download"], captions=spec["captions"])
    data = load_data(cfg)
    data.prepare_data()
    print(f"ready: {len(data.records)} of {data.records.expected} images of {data.records.name}")


def report(cfg: Config) -> None:
    """task=report: all results beside the published ones, as Markdown, LaTeX, CSV and HTML."""
    from common.tasks.report import report as told

    runs = Path(cfg["paths"]["runs"])
    folder = Path(cfg["output"]).expanduser() if cfg["output"] else runs
    print(told(runs / "results.jsonl", folder, as_list(cfg["rows"]), as_list(cfg["numbers"])))
    print(f"report    {folder / 'report.md'} (.tex, .csv, .html)")


TASKS: dict[str, Callable[[Config], None]] = {
    task.__name__: task for task in (fit, evaluate, sample, figure, prepare, describe, export, report)
}
