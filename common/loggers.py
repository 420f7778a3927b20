"""metrics.csv, which every run has, W&B and TensorBoard. The only file that knows W&B."""

import csv
import logging
import netrc
import os
import sys
import uuid
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter
from pytorch_lightning.loggers.logger import rank_zero_experiment

log = logging.getLogger(__name__)
PATIENCE = 20.0  # seconds that W&B's server may take; W&B's own 90 pass before anything is trained


class AppendingWriter(ExperimentWriter):
    """Lightning's CSV writer deletes the file of an earlier start; this one goes on with it."""

    def _check_log_dir_exists(self) -> None:
        if self._fs.isfile(self.metrics_file_path):
            with self._fs.open(self.metrics_file_path, "r", newline="") as file:
                self.metrics_keys = list(csv.DictReader(file).fieldnames or [])


class MetricsCSV(CSVLogger):
    """metrics.csv in the run folder, kept over resumes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="", version="")

    @property
    def log_dir(self) -> str:
        return str(self._root_dir)

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        if self._experiment is None:
            self._experiment = AppendingWriter(log_dir=self.log_dir)
        return self._experiment  # type: ignore[return-value]

    def log_hyperparams(self, params: Any = None) -> None:
        """config.yaml of the run folder says it all."""

    def forget_after(self, step: int) -> None:
        """Drops the rows past a step, and one cut short by a kill: their epoch is run again from its start."""
        path = Path(self.log_dir) / "metrics.csv"
        if not path.is_file():
            return
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if None not in row.values() and int(row["step"]) < step]
            names = reader.fieldnames or []
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(rows)


def loggers_for(cfg: dict[str, Any], folder: Path) -> list[Any]:
    """W&B and TensorBoard as conf/logger says. W&B never asks for a login, and no fault of its ends a run."""
    found: list[Any] = []
    wanted = cfg["logger"]["wandb"]
    keyed = bool(os.environ.get("WANDB_API_KEY", "").strip()) or has_netrc_key()
    if wanted is True or (wanted == "auto" and (keyed or os.environ.get("WANDB_MODE"))):
        if run := wandb_run(cfg, folder, offline=not keyed and not os.environ.get("WANDB_MODE")):
            from pytorch_lightning.loggers import WandbLogger

            found.append(WandbLogger(experiment=run, save_dir=folder))
    if cfg["logger"]["tensorboard"]:
        from pytorch_lightning.loggers import TensorBoardLogger

        found.append(TensorBoardLogger(folder, name="", version="tensorboard"))
    return found


def has_netrc_key() -> bool:
    """Whether `wandb login` has left a key in ~/.netrc."""
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_run(cfg: dict[str, Any], folder: Path, *, offline: bool) -> Any | None:
    """One W&B run for each run folder: its id is kept there, so that a resumed run goes on in it.

    Where the key is refused or the server is out of reach the run is kept offline; None on ranks other than the first.
    """
    from pytorch_lightning.utilities import rank_zero_only

    if rank_zero_only.rank:  # type: ignore[attr-defined]
        return None
    import wandb

    kept = folder / "wandb_id.txt"
    if not kept.is_file():
        kept.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
    if offline:
        log.info("W&B: no key here, so the run is kept offline in %s", folder / "wandb")
    pair = f"{cfg['chosen']['model']}-{cfg['data']['name']}"
    options: dict[str, Any] = {
        "project": cfg["logger"]["project"],
        "group": pair,
        "name": f"{pair}-{folder.name}"[:128],  # W&B's longest
        "id": kept.read_text(encoding="utf-8"),
        "resume": "allow",
        "dir": folder,
        "job_type": cfg["task"],
        "tags": [cfg["paper"][:64], cfg["data"]["source"]],
        "config": {k: cfg[k] for k in ("model", "loss", "data", "trainer", "seed") if k in cfg},
        "settings": wandb.Settings(init_timeout=PATIENCE),
    }
    try:
        run = wandb.init(**options, mode="offline" if offline else None)
    except Exception as error:  # a key that is none, a server out of reach, a project that is not theirs
        fault = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning("W&B is left out, the run is kept offline in %s: %s", folder / "wandb", fault)
        wandb.teardown()
        run = wandb.init(**options, mode="offline")
    run.define_metric("*", step_metric="progress/images")
    return run


def finish_loggers(code: int) -> None:
    """Ends the W&B run, or the next run of this process would go on in it."""
    if "wandb" in sys.modules:
        import wandb

        if wandb.run is not None:
            wandb.finish(exit_code=code)
