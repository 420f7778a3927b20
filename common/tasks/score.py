"""A model that is trained, ready to serve, and its numbers."""

import json
import logging
from pathlib import Path
from typing import Any

import torch

from common.command import composed, plain
from common.config import build, locate
from common.data.module import ImageData
from common.errors import UserError
from common.files import short_hash, write_whole
from common.metrics.evaluate import evaluate, needs_classifier, summary
from common.tasks.fit import artifact, fill_prerequisites
from common.tasks.job import Config, load_data
from common.tasks.runs import RunFolder, append_result, identity, result_line
from common.weights import settings_of

log = logging.getLogger(__name__)


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
    if not (whole and cfg["task"] == "sample" and cfg["text"]):  # a user's own condition reads no data set
        fill_prerequisites(cfg, networks=not whole)
    cfg["checkpoint"] = str(path)  # pictures say what drew them
    data = load_data(cfg)
    model = build(cfg["model"])
    model.restore(path)
    device = torch.device("cuda" if torch.cuda.is_available() and cfg["trainer"]["accelerator"] != "cpu" else "cpu")
    return model.to(device).eval(), data, folder


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


def score(cfg: Config, model: Any, data: ImageData, folder: RunFolder) -> None:
    """Evaluates, prints the numbers, writes eval/<protocol>.json and appends the line of results.jsonl."""
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
