"""What `python run.py task=...` does, one function a task. Gets plain values; knows neither Hydra nor any paper."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import LightningModule, seed_everything

from common.command import composed_need
from common.config import build, locate, needed
from common.data.module import ImageData
from common.errors import UserError, choose
from common.files import locked, short_hash, whole, write_whole
from common.loggers import finish_loggers, loggers_for
from common.tasks.runs import RunFolder, append_result, environment, identity, keep_log
from common.tasks.trainer import MetricsCSV, epochs_of, trainer_for
from common.tasks.trainer import fit as train
from common.weights import find_weights

log = logging.getLogger(__name__)
Config = dict[str, Any]


def run(cfg: Config, *, sweeping: bool = False) -> None:
    """Runs cfg["task"]. In a sweep a fit that is done already is skipped."""
    cfg["hash"] = short_hash(identity(cfg))  # before needed files are filled in
    if sweeping and cfg["task"] == "fit":
        told = RunFolder.of(cfg).status()
        if told.get("state") == "done" and told.get("epochs", 0) >= cfg["trainer"]["max_epochs"]:
            log.info("done already, skipped: %s", RunFolder.of(cfg).path)
            return
    TASKS[cfg["task"]](cfg)


# ---- data, models and what they need


def load_data(cfg: Config) -> ImageData:
    """The data module of a configuration; procedural data is drawn first where it is asked for and absent."""
    spec = cfg["data"]
    root = Path(spec.get("root") or cfg["paths"]["data"]).expanduser()
    store = spec["store"]
    if choose("data.source", spec["source"], ("real", "procedural")) == "procedural":
        root = drawn(cfg)
        store = store or str(Path(cfg["paths"]["artifacts"]) / "stores")
    reader = build(
        spec["reader"],
        root=str(root),
        captions=spec["captions"] if "caption" in spec["reads"] or cfg.get("other") else "none",
        allow_missing=spec["allow_missing"],
        masks="mask" in spec["reads"],
        attributes="attributes" in spec["reads"],
    )
    own = "image_size batch_size load_ratio reads train_split flip rotate_deg bbox_crop allow_missing workers".split()
    return ImageData(dataset=reader, seed=cfg["seed"], store=store, **{key: spec[key] for key in own})


def drawn(cfg: Config) -> Path:
    """The folder of the procedural stand-in of a data set, drawn now if it is not there."""
    spec = cfg["data"]
    if not spec.get("procedural"):
        raise UserError(f"data={spec['name']} has no procedural stand-in: choose data=cub or data=oxford102")
    root = Path(cfg["paths"]["artifacts"]) / "procedural" / f"{spec['name']}-{short_hash(spec['procedural'])}"
    if not (root / "procedural.json").is_file():
        log.info("drawing %d procedural pictures into %s", spec["procedural"]["images"], root)
        build(spec["procedural"], root=root)  # locks and writes its folder whole
    return root


def supply(cfg: Config, *, networks: bool = True) -> None:
    """Fills in the files of the networks and jobs that the model needs, making those that are absent.

    networks=False: of jobs alone.
    """
    for key, need in needed(cfg).items():
        if cfg["model"].get(key) is None and (networks or "prepare" in need):
            cfg["model"][key] = str(obtain(need, cfg["words"]))


def obtain(need: Config, asked: list[str]) -> Path:
    """The artifact of a needed network or job; made now when it is absent, once even if two runs ask at a time."""
    if need.get("unless_weights") and (weights := find_weights(need["unless_weights"])) is not None:
        return weights
    cfg = composed_need(need, asked)
    if "prepare" in need:
        return prepared(cfg)
    cfg["hash"] = short_hash(identity(cfg))
    digest = short_hash([cfg["hash"], cfg["trainer"]["max_epochs"]])
    path = Path(cfg["paths"]["artifacts"]) / f"{need['model']}-{cfg['data']['name']}-{digest}.pt"
    if path.is_file():
        return path
    with locked(path):
        if not path.is_file():
            log.info("model=%s is needed first and %s is absent: training it now", need["model"], path)
            model, _, _ = train_one(cfg)
            export(model, path)
    return path


def prepared(cfg: Config) -> Path:
    """What a one-off job of conf/prepare makes; made now when it is absent."""
    job = cfg["prepare"]
    digest = short_hash([identity(cfg)["data"], job])  # before needed files are filled in
    name = f"{cfg['chosen']['prepare']}-{cfg['data']['name']}-{digest}.{job.get('suffix', 'npz')}"
    path = Path(cfg["paths"]["artifacts"]) / name
    with locked(path):
        if job.get("always") or not path.is_file():
            log.info("prepare=%s: making %s", cfg["chosen"]["prepare"], path)
            for key, need in job.get("needs", {}).items():
                if job.get(key) is None:
                    job[key] = str(obtain(need, cfg["words"]))
            locate(job["_target_"])(cfg, path)
    return path


def export(model: LightningModule, path: Path) -> None:
    """The model's own export, written whole or not at all."""
    with whole(path) as part:
        torch.save(model.export(), part)  # type: ignore[operator]


def train_one(cfg: Config) -> tuple[LightningModule, ImageData, RunFolder]:
    """Trains the model of a configuration in its run folder, and what it needs first."""
    folder = RunFolder.of(cfg)
    checkpoint = folder.resume_from(cfg["resume"])  # refused, like what follows, before anything is written
    data = load_data(cfg)
    for note in data.records.notes:  # reading the records says at once what is absent
        log.info("%s", note)
    supply(cfg)
    seed_everything(cfg["seed"], verbose=False)
    model = build(cfg["model"])
    done = 0 if checkpoint is None else epochs_of(checkpoint, model, cfg["trainer"]["max_epochs"])
    trainer = trainer_for(cfg["trainer"], folder, seed=cfg["seed"], grid=hasattr(model, "grid"))
    lock = folder.lock() if trainer.is_global_zero else None
    folder.start(yaml.safe_dump(cfg, sort_keys=False))
    handler, code = keep_log(folder), 1
    try:
        if checkpoint is not None:
            log.info("going on from %s: %d epochs done", checkpoint, done)
        trainer.loggers = [MetricsCSV(folder.path), *loggers_for(cfg, folder.path)]
        train(trainer, model, data, folder, cfg["trainer"], checkpoint)
        code = 0
    finally:
        finish_loggers(code)
        logging.getLogger().removeHandler(handler)
        if lock is not None:
            lock.release()
    if not trainer.is_global_zero:
        raise SystemExit(0)  # the other ranks are done when training is
    folder.say("trained", epochs=trainer.current_epoch)
    return model, data, folder


# ---- fit and evaluate


def fit(cfg: Config) -> None:
    began = time.time()
    model, data, folder = train_one(cfg)
    export(model, exported(cfg, folder))
    if cfg["evaluate"] and cfg.get("measures"):
        score(cfg, model, data, folder)
    folder.say("done", seconds_total=round(time.time() - began, 1))
    print(f"pictures  {folder.path / 'samples'}\nnumbers   {folder.path / 'eval'}\nrun       {folder.path}")


def exported(cfg: Config, folder: RunFolder) -> Path:
    """The one file of a finished run, enough to serve from."""
    return folder.path / f"{cfg['chosen']['model']}_{cfg['data']['name']}.pt"


def evaluate(cfg: Config) -> None:
    if not cfg.get("measures"):
        raise UserError(f"model={cfg['chosen']['model']} is scored while it is trained: use task=fit")
    model, data, folder = trained(cfg)
    score(cfg, model, data, folder)


def trained(cfg: Config) -> tuple[Any, ImageData, RunFolder]:
    """The model of a run, a checkpoint or an exported file, with its text table, ready to serve."""
    folder = RunFolder.of(cfg)
    own = exported(cfg, folder)
    path = Path(cfg["checkpoint"] or (own if own.is_file() else folder.last))
    if not path.exists():
        named = "checkpoint" if cfg["checkpoint"] else "run"
        raise UserError(
            f"there is no {named} at {path}: train it with the same command and task=fit, or give checkpoint=FILE"
        )
    # an exported file holds its networks, though not what jobs say of the data set; a published one goes with others
    whole = path.suffix in (".pt", ".pth", ".safetensors", ".npz") or path.is_dir()
    if not (whole and cfg["task"] == "sample" and cfg["text"]):  # a user's own condition reads no data set
        supply(cfg, networks=not whole)
    cfg["checkpoint"] = str(path)  # pictures say what drew them
    data = load_data(cfg)
    model = build(cfg["model"])
    model.restore(path)
    device = torch.device("cuda" if torch.cuda.is_available() and cfg["trainer"]["accelerator"] != "cpu" else "cpu")
    folder.path.mkdir(parents=True, exist_ok=True)
    return model.to(device).eval(), data, folder


def score(cfg: Config, model: Any, data: ImageData, folder: RunFolder) -> None:
    """Evaluates, prints the numbers, writes eval/<protocol>.json and appends the line of results.jsonl."""
    from common.metrics.evaluate import evaluate as measure
    from common.metrics.evaluate import needs_classifier

    options = cfg["metrics"] | {"pairs": cfg.get("pairs")}
    files = {}
    for name, need in cfg.get("needs_to_score", {}).items():
        wanted = needs_classifier(options) if name == "classifier" else options.get(name, True)
        files[name] = str(obtain(need, cfg["words"])) if wanted and need else None
    numbers, protocol, cost = measure(model, data, options, cfg["measures"], files, Path(cfg["paths"]["artifacts"]))
    line = {
        "row": cfg["chosen"].get("table") or cfg["chosen"]["model"],
        "run": str(folder.path),
        "config": cfg["hash"],
        "data": data.records.name,
        "data_source": cfg["data"]["source"],
        "images_found": f"{len(data.records)} of {data.records.expected}",
        "seed": cfg["seed"],
        "epochs": folder.status().get("epochs"),
        "numbers": numbers,
        "protocol": protocol,
        "published": cfg.get("published"),
        "preset": cfg["chosen"].get("preset"),
        "cost": cost,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        **{key: environment()[key] for key in ("commit", "versions", "gpu")},
    }
    (folder.path / "eval").mkdir(parents=True, exist_ok=True)
    name = f"{short_hash(protocol)}.json"
    write_whole(folder.path / "eval" / name, json.dumps(line, indent=1))
    append_result(Path(cfg["paths"]["runs"]), line)
    if data.records.procedural:
        print("numbers on PROCEDURAL data, not comparable with any paper:")
    for key, value in numbers.items():
        print(f"  {key:32} {value:.4f}" if isinstance(value, float) else f"  {key:32} {value}")


# ---- pictures


def sample(cfg: Config) -> None:
    model, data, folder = trained(cfg)
    path = locate(f"{cfg['pictures']}.sample")(cfg, model, data, folder.path / "samples")
    print(f"picture   {path}")


def figure(cfg: Config) -> None:
    model, data, folder = trained(cfg)
    path = locate(f"{cfg['pictures']}.figure")(cfg, model, data, folder.path / "figures")
    print(f"picture   {path}")


def export_as(cfg: Config) -> None:
    """task=export: the suite's one file, or a layout that the model's configuration lists."""
    layouts = cfg.get("layouts", {})
    choose("layout", cfg["layout"], ["suite", *layouts])
    folder = RunFolder.of(cfg)
    if not cfg["checkpoint"] and folder.last.is_file():
        cfg["checkpoint"] = str(folder.last)  # which has discriminators that are trained
    model, _, folder = trained(cfg)
    path = Path(cfg["output"]).expanduser() if cfg["output"] else folder.path / "export"
    if cfg["layout"] == "suite":
        path = path if cfg["output"] else exported(cfg, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        export(model, path)
    else:
        locate(layouts[cfg["layout"]])(model, path, discriminators=cfg["checkpoint"].endswith(".ckpt"))
    print(f"written   {path}")


# ---- what would be built, what is here


def describe(cfg: Config) -> None:
    from common.tasks.describe import describe as told

    facts = told(cfg)
    text = facts.pop("text")
    print(json.dumps(facts, indent=1) if cfg["format"] == "json" else text)


def prepare(cfg: Config) -> None:
    from common.data.readers.archives import prepare as fetch

    if cfg.get("prepare"):
        print(f"ready: {prepared(cfg)}")
        return
    spec = cfg["data"]
    if spec["source"] == "real" and "root" not in spec:  # a user's own folder and drawn data come from nowhere else
        root = Path(cfg["paths"]["data"]).expanduser()
        fetch(locate(spec["reader"]["_target_"]), root, download=cfg["download"], captions=spec["captions"])
    data = load_data(cfg)
    data.prepare_data()
    print(f"ready: {len(data.records)} of {data.records.expected} images of {data.records.name}")


def report(cfg: Config) -> None:
    from common.tasks.report import report as told

    runs = Path(cfg["paths"]["runs"])
    folder = Path(cfg["output"]).expanduser() if cfg["output"] else runs
    print(told(runs / "results.jsonl", folder, cfg["rows"], cfg["numbers"]))
    print(f"report    {folder / 'report.md'} (.tex, .csv, .html)")


TASKS: dict[str, Callable[[Config], None]] = {
    "fit": fit,
    "evaluate": evaluate,
    "sample": sample,
    "figure": figure,
    "prepare": prepare,
    "describe": describe,
    "export": export_as,
    "report": report,
}
