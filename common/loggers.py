"""W&B and TensorBoard; CSV is always there (common/tasks/trainer.py). The only file that knows W&B."""

import logging
import netrc
import os
import sys
import uuid
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def loggers_for(cfg: dict[str, Any], folder: Path) -> list[Any]:
    """W&B and TensorBoard as conf/logger says (CSV is always there). W&B never asks for a login."""
    found: list[Any] = []
    wanted = cfg["logger"]["wandb"]
    keyed = "WANDB_API_KEY" in os.environ or has_netrc_key()
    if wanted is True or (wanted == "auto" and (keyed or "WANDB_MODE" in os.environ)):
        found.append(wandb_logger(cfg, folder, offline=not keyed and "WANDB_MODE" not in os.environ))
    if cfg["logger"]["tensorboard"]:
        from pytorch_lightning.loggers import TensorBoardLogger

        found.append(TensorBoardLogger(folder, name="", version="tensorboard"))
    return found


def has_netrc_key() -> bool:
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_logger(cfg: dict[str, Any], folder: Path, *, offline: bool) -> Any:
    """One W&B run for each run folder: its id is kept there, so that a resumed run goes on in it."""
    from pytorch_lightning.loggers import WandbLogger

    kept = folder / "wandb_id.txt"
    if not kept.is_file():
        kept.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
    if offline:
        log.info("W&B: no key here, so the run is kept offline in %s", folder / "wandb")
    pair = f"{cfg['chosen']['model']}-{cfg['data']['name']}"
    logger = WandbLogger(
        project=cfg["logger"]["project"],
        group=pair,
        name=f"{pair}-{folder.name}",
        id=kept.read_text(encoding="utf-8"),
        resume="allow",
        save_dir=folder,
        offline=offline,
        job_type=cfg["task"],
        tags=[cfg["paper"][:64], cfg["data"]["source"]],
        config={k: cfg[k] for k in ("model", "loss", "data", "trainer", "seed") if k in cfg},
    )
    logger.experiment.define_metric("*", step_metric="progress/images")
    return logger


def finish_loggers(code: int) -> None:
    """Ends the W&B run, or the next run of this process would go on in it."""
    if "wandb" in sys.modules:
        import wandb

        if wandb.run is not None:
            wandb.finish(exit_code=code)
