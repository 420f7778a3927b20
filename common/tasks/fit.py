"""Training a model, and what it needs first: networks and jobs whose products it reads; one that is trained."""

import logging
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import LightningModule, seed_everything

from common.command import composed, composed_need, plain
from common.config import applies, as_list, build, locate, needed
from common.data.module import ImageData
from common.errors import UserError, tell
from common.files import content_hash, locked, short_hash, whole
from common.loggers import MetricsCSV, finish_loggers, loggers_for
from common.tasks.job import Config, Job, load_data
from common.tasks.runs import RunFolder, identity, keep_log
from common.tasks.trainer import check_options, epochs_of, trainer_for
from common.tasks.trainer import fit as train
from common.weights import KNOWN_FILES, find_weights, settings_of

log = logging.getLogger(__name__)


def fill_prerequisites(cfg: Config, *, networks: bool = True) -> None:
    """Fills in the files of the networks and jobs that the model needs, making those that are absent.

    networks=False: of jobs alone.
    """
    for key, need in needed(cfg).items():
        if cfg["model"].get(key) is None and (networks or "prepare" in need):
            try:
                cfg["model"][key] = str(artifact(need, cfg["words"]))
            except UserError as error:
                if "model" not in need:
                    raise
                words = " ".join(composed_need(need, cfg["words"])["words"])
                said = f"model.{key} is made first, unless a file is given, and `run.py {words}` says: {error}"
                raise UserError(said) from None


def artifact(need: Config, asked: list[str]) -> Path:
    """The artifact of a needed network or job; made now when it is absent, once even if two runs ask at a time."""
    if (weights := known_weights(need)) is not None:
        return weights
    cfg = composed_need(need, asked) | {"prerequisite": True}
    if "prepare" in need:
        return run_job(cfg)
    cfg["hash"] = short_hash(identity(cfg))
    data = load_data(cfg)
    found = data.records.fingerprint(data.reads)
    # cfg["model"]: in it the bar that it has to reach
    digest = short_hash([cfg["hash"], cfg["trainer"]["max_epochs"], cfg["model"], found])
    path = Path(cfg["paths"]["artifacts"]) / f"{need['model']}-{cfg['data']['name']}-{digest}.pt"
    if path.is_file():
        return path
    with locked(path):
        if not path.is_file():
            log.info("model=%s is needed first and %s is absent: training it now", need["model"], path)
            model, _, _ = train_one(cfg)
            export(model, path)
    return path


def known_weights(need: Config) -> Path | None:
    """The public file that makes a needed network unnecessary, where it is on disk."""
    known = need.get("unless_weights")
    return find_weights(known) if known in KNOWN_FILES else None


def contents(cfg: Config) -> list[str]:
    """Hashes of what a job reads by the names in its `files`: of a file that is given or public, else of the recipe."""
    job, found = cfg["prepare"], []
    for key in job.get("files", ()):
        need = job["needs"].get(key)
        given = job[key] if job[key] is not None or need is None else known_weights(need)
        if given is not None or need is None or not applies(need, job):
            found.append("" if given is None else content_hash(given))
            continue
        made = composed_need(need, cfg["words"])
        recipe = [made["prepare"], contents(made)] if "prepare" in need else made["trainer"]["max_epochs"]
        found.append(short_hash([recipe, identity(made)["data" if "prepare" in need else "model"]]))
    return found


def run_job(cfg: Config) -> Path:
    """What a one-off job of conf/prepare makes; made now when it is absent."""
    job = cfg["prepare"]
    always, found = job.get("always"), ""
    if "images" in cfg["requires"] and not always:
        data = load_data(cfg)
        found = data.records.fingerprint(data.reads)
    digest = short_hash([identity(cfg)["data"], job, found, *contents(cfg)])  # before needed files are filled in
    name = f"{cfg['chosen']['prepare']}-{cfg['data']['name']}-{digest}.{job.get('suffix', 'npz')}"
    path = Path(cfg["paths"]["artifacts"]) / name
    with locked(path):
        if always or not path.is_file():
            log.info("prepare=%s: making %s", cfg["chosen"]["prepare"], path)
            for key, need in job.get("needs", {}).items():
                if job.get(key) is None and applies(need, job):
                    job[key] = str(artifact(need, cfg["words"]))
            locate(job["_target_"])(Job(cfg, path))
    return path


def export(model: LightningModule, path: Path) -> None:
    """The model's own export, written whole or not at all."""
    with whole(path) as part:
        torch.save(model.export(), part)  # type: ignore[operator]


def say_earlier(folder: RunFolder) -> None:
    """Runs of this name and seed that versions before made, whose names no configuration gives any more."""
    for status in sorted(folder.path.parent.glob(f"{folder.path.name.rpartition('-')[0]}-*/status.json")):
        if (old := status.parent / "checkpoints" / "last.ckpt").is_file() and '"data_hash"' not in status.read_text():
            log.info("%s is of an earlier version and not gone on with: give resume=%s if it is meant", old.parent, old)


def train_one(cfg: Config) -> tuple[LightningModule, ImageData, RunFolder]:
    """Trains the model of a configuration in its run folder, and what it needs first."""
    check_options(cfg["trainer"])
    folder = RunFolder.of(cfg)
    checkpoint = folder.resume_from(cfg["resume"])  # refused, like what follows, before anything is written
    data = load_data(cfg)
    for note in data.records.notes:  # reading the records says at once what is absent
        tell(note)
    found = data.records.fingerprint(data.reads)
    if checkpoint == folder.last and cfg["resume"] == "auto":
        folder.check_data(found)
    elif checkpoint is None:
        say_earlier(folder)
    with torch.device("meta"):  # what its constructor refuses, before others are trained for it
        build(cfg["model"] | dict.fromkeys(needed(cfg)))
    fill_prerequisites(cfg)
    seed_everything(cfg["seed"], verbose=False)
    model = build(cfg["model"])
    model.read_files(data)
    done = 0 if checkpoint is None else epochs_of(checkpoint, model, cfg["trainer"]["max_epochs"])
    trainer = trainer_for(cfg["trainer"], folder, seed=cfg["seed"], grid=hasattr(model, "grid"))
    lock = folder.lock() if trainer.is_global_zero else None
    folder.start(yaml.safe_dump(cfg, sort_keys=False), found)
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
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
    if not trainer.is_global_zero:
        raise SystemExit(0)  # the other ranks are done when training is
    folder.say("trained", epochs=trainer.current_epoch)
    return model, data, folder


# ---- a model that is trained, ready to serve


def trained(cfg: Config) -> tuple[Any, ImageData, RunFolder]:
    """The model of a run, a checkpoint or an exported file, with its text table, ready to serve."""
    folder = RunFolder.of(cfg)
    path = Path(cfg["checkpoint"] or newest(folder))
    if not path.exists():
        named = "checkpoint" if cfg["checkpoint"] else "run"
        raise UserError(
            f"there is no {named} at {path}: train it with the same command and task=fit, or give checkpoint=FILE"
        )
    if cfg["checkpoint"]:
        take_settings(cfg, path)
        folder = RunFolder.of(cfg)
    # an exported file holds its networks, though not what jobs say of the data set; a published one goes with others
    whole = path.suffix in (".pt", ".pth", ".safetensors", ".npz") or path.is_dir()
    if not (whole and cfg["task"] == "sample" and cfg["text"] and all_files(cfg["image"])):
        fill_prerequisites(cfg, networks=not whole)
    cfg["checkpoint"] = str(path)  # pictures say what drew them
    data = load_data(cfg)
    model = build(cfg["model"])
    model.restore(path)
    device = torch.device("cuda" if torch.cuda.is_available() and cfg["trainer"]["accelerator"] != "cpu" else "cpu")
    return model.to(device).eval(), data, folder


def all_files(images: Any) -> bool:
    """Whether images are a user's own, which with a text of theirs need no data set. `photo::mask` is of its photo."""
    return all(Path(str(image).partition("::")[0]).expanduser().is_file() for image in as_list(images))


def take_settings(cfg: Config, path: Path) -> None:
    """A file of weights brings the settings of its model, but for those that the command names."""
    said = [word.partition("=")[0].lstrip("+") for word in cfg["words"]]
    spec = {key: value for key, value in cfg["model"].items() if key != "_target_"}
    found = locate(cfg["model"]["_target_"]).words_of(path, spec)
    brought = [f"{key}={value}" for key, value in found.items() if key not in said]
    if brought:
        log.info("%s brings its settings: %s", path, " ".join(brought))
        words = [*cfg["words"], *brought]
        cfg |= plain(composed(*words), words)
        cfg["hash"] = short_hash(identity(cfg))
        with settings_of(path), torch.device("meta"):
            build(cfg["model"])


def newest(folder: RunFolder) -> Path:
    """The weights of a run that have seen the most images: its export, unless a fit went on since and was stopped."""
    if folder.export.is_file() and folder.last.is_file():
        mine, last = (behind(path, folder)[1] or 0 for path in (folder.export, folder.last))
        return folder.export if mine >= last else folder.last
    return folder.export if folder.export.is_file() else folder.last


def behind(weights: Path, folder: RunFolder) -> tuple[int | None, int | None]:
    """Epochs and images behind a file of weights, as far as it is known: of a run's own files alone."""
    if weights == folder.export:
        told = folder.status().get("exported", {})
        return told.get("epochs"), told.get("images")
    if weights.suffix != ".ckpt":
        return None, None
    facts = torch.load(weights, weights_only=True, mmap=True, map_location="cpu")
    return facts["epoch"] + 1, facts["suite"]["images_seen"]
