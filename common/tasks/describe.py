"""task=describe: what a command would build, said without data and without weights."""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from common.blocks import Frozen
from common.config import build, needed


def describe(cfg: dict[str, Any]) -> dict[str, Any]:
    """Networks with exact parameter counts and shapes, loss terms with weight and source, needs, steps an epoch.

    The key "text" holds the same for reading.
    """
    with torch.device("meta"):  # shapes without memory
        model = build(cfg["model"] | {key: None for key in cfg.get("needs", {})})
        nets = networks(model)
    facts: dict[str, Any] = {
        "paper": cfg["paper"],
        "model": cfg["chosen"]["model"],
        "data": {"name": cfg["data"]["name"], "source": cfg["data"]["source"], "image_size": cfg["data"]["image_size"]},
        "networks": nets,
        # as the model has it: a network that is switched off takes its terms along
        "losses": losses(model.loss if cfg.get("loss") else {}, getattr(model, "SOURCES", {})),  # type: ignore[arg-type]
        "needs": {key: need.get("model") or need["prepare"] for key, need in needed(cfg).items()},
        "training": training(cfg),
    }
    return facts | {"text": as_text(facts)}


def networks(model: LightningModule) -> dict[str, Any]:
    """name -> parameters, and input and output shapes where the model gives examples of its inputs."""
    examples: dict[str, tuple[Tensor, ...]] = getattr(model, "examples", dict)()
    found: dict[str, Any] = {}
    for name, child in model.named_children():
        if isinstance(child, Frozen) or name == "ema_generator":
            continue
        nets = (
            {f"{name}.{i}": net for i, net in enumerate(child)} if isinstance(child, nn.ModuleList) else {name: child}
        )
        for key, net in nets.items():
            count = sum(p.numel() for p in net.parameters())
            if not count:
                continue
            found[key] = {"parameters": count}
            if key in examples:
                output = net(*examples[key])
                found[key]["input"] = [list(x.shape) for x in examples[key]]
                found[key]["output"] = [list(y.shape) for y in flat(output)]
    return found


def flat(output: Any) -> list[Tensor]:
    """The tensors of an output, however nested."""
    return [output] if isinstance(output, Tensor) else [y for part in output for y in flat(part)]


def losses(weights: dict[str, Any], sources: dict[str, str]) -> list[dict[str, Any]]:
    """Each term of the loss with its weight and where it comes from."""
    return [
        {"term": f"{side}.{name}", "weight": weight, "source": sources.get(f"{side}.{name}", "not stated")}
        for side, terms in weights.items()
        for name, weight in terms.items()
    ]


def training(cfg: dict[str, Any]) -> dict[str, Any]:
    """Steps and images of an epoch: of the complete data set, or of the drawn one as it was asked for."""
    images = cfg["data"].get("train_images") if cfg["data"]["source"] == "real" else None
    batch, limit = cfg["data"]["batch_size"], cfg["trainer"]["limit_train_batches"]
    steps = None if images is None else images // batch
    if isinstance(limit, int) and not isinstance(limit, bool) and steps is not None:
        steps = min(steps, limit)
    return {
        "batch_size": batch,
        "steps_per_epoch": steps,
        "images_per_epoch": None if steps is None else steps * batch,
        "max_epochs": cfg["trainer"]["max_epochs"],
        "precision": cfg["trainer"]["precision"],
    }


def as_text(facts: dict[str, Any]) -> str:
    """The facts as the terminal shows them, a line each."""
    lines = [facts["paper"], f"model={facts['model']} data={facts['data']['name']} ({facts['data']['source']})", ""]
    for name, net in facts["networks"].items():
        shapes = ""
        if "input" in net:
            shapes = "  " + " ".join(map(str, net["input"])) + " -> " + " ".join(map(str, net["output"]))
        lines.append(f"{name:24}{net['parameters']:>14,} parameters{shapes}")
    lines += ["", "loss terms"] if facts["losses"] else []
    for term in facts["losses"]:
        weight = "absent" if term["weight"] is None else f"{term['weight']:g}"
        lines.append(f"  {term['term']:22}{weight:>8}  {term['source']}")
    if facts["needs"]:
        needs = ", ".join(f"{key} ({what})" for key, what in facts["needs"].items())
        lines += ["", f"needs first: {needs}; made where no file is given"]
    told = facts["training"]
    steps = told["steps_per_epoch"]
    epoch = "known once the data is read" if steps is None else f"{steps} steps, {told['images_per_epoch']:,} images"
    lines += ["", f"an epoch: {epoch}; batch {told['batch_size']}, {told['max_epochs']} epochs, {told['precision']}"]
    return "\n".join(lines)
