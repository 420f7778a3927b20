"""Five papers on conditional image synthesis, one command.

    python run.py model=simgan data=cub                          fit, then evaluate
    python run.py model=simgan data=cub preset=toy               no data, no GPU, no account: minutes on a laptop
    python run.py -m model=simgan data=cub,oxford102 seed=0,1,2  a sweep; jobs that are done are skipped
    python run.py task=describe model=simgan                     networks, sizes, losses and needs of a command
    python run.py task=sample image=photo.jpg text="a red bird with white wings" preset=toy
    python run.py task=doctor                                    what is installed and what is missing

A group is chosen with GROUP=CHOICE, a value is set with KEY=VALUE (`--cfg job` prints them all). Names that collide:
simgan is Yu et al., ICIP 2019, not Apple's SimGAN.
"""

import difflib
import logging
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import UserError

CONF = Path(__file__).resolve().parent / "conf"
# what a needed network takes over from the command that asked for it
FORWARDED = ("data", "preset", "data.source", "data.allow_missing", "data.captions", "data.root", "data.store")
FORWARDED_SECTIONS = ("paths.", "data.procedural.", "logger")
log = logging.getLogger("run")
refused: list[str] = []  # what jobs said that a user can put right


# ---- what was asked for, checked before anything is built


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_"))


def groups() -> list[str]:
    return sorted(path.name for path in CONF.iterdir() if path.is_dir() and not path.name.endswith("sizes"))


def nearest(word: str, known: list[str]) -> str:
    """'did you mean ...' with the closest of the known words, or the list of them when none is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.55)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join([k for k in known if '.' not in k])}"


def keys_of(node: Any, prefix: str = "") -> list[str]:
    """Every dotted key of a composed configuration, sections included."""
    if not isinstance(node, DictConfig):
        return []
    found = []
    for key in node:
        name = f"{prefix}{key}"
        child = node._get_node(key)
        found += [name, *keys_of(child, f"{name}.")]
    return found


def check_words(words: list[str]) -> None:
    """Refuses unknown groups' choices and unknown keys in one sentence with the nearest valid word."""
    try:
        overrides = OverridesParser.create().parse_overrides(words)
    except HydraException as error:
        raise UserError(
            f"{str(error).splitlines()[0]}: write KEY=VALUE, and quote values with spaces or commas"
        ) from None
    picks: list[str] = []
    for override in overrides:
        key = override.key_or_group
        if key in groups() and override.is_sweep_override() and "glob" in (override.input_line or ""):
            picks.append(f"{key}={choices(key)[0]}")
        elif key in groups() and not override.is_delete():
            wanted = [str(v) for v in values_of(override)]
            for name in wanted:
                if name not in [*choices(key), "null", "None"]:
                    raise UserError(f"{key}={name} is not known: {nearest(name, choices(key))}")
            picks.append(f"{key}={'null' if wanted[0] == 'None' else wanted[0]}")
    known = keys_of(compose(picks))
    for override in overrides:
        key = override.key_or_group
        if key in groups() or key in known or override.is_add() or key.startswith("hydra"):
            continue
        if any(name.startswith(f"{key}.") for name in known):
            continue
        raise UserError(f"{key} is no setting of this command: {nearest(key, known)}")


def values_of(override: Override) -> list[Any]:
    return list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]


def compose(words: list[str]) -> DictConfig:
    """The configuration of a command line, whether or not Hydra is running a job at the time."""
    if GlobalHydra.instance().is_initialized():
        return hydra.compose("config", words)
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", words)


def check_pair(cfg: dict[str, Any]) -> None:
    """Refuses a model on data that cannot feed it."""
    absent = [thing for thing in cfg["requires"] if thing not in cfg["data"]["provides"]]
    if absent:
        fitting = [
            name
            for name in choices("data")
            if set(cfg["requires"]) <= set(OmegaConf.load(CONF / "data" / f"{name}.yaml").provides)
        ]
        raise UserError(
            f"model={cfg['chosen']['model']} needs {' and '.join(absent)}, which data={cfg['data']['name']} does not "
            f"have: choose data={' or '.join(fitting) or '(no data set here has them)'}"
        )


def plain(cfg: DictConfig, words: list[str]) -> dict[str, Any]:
    """The configuration as plain resolved values; the words that made it and the groups they choose stay with it."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{missing[0]} has no value: add {missing[0]}=... to the command")
    try:
        values: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration does not resolve: {str(error).splitlines()[0]}") from None
    picked = dict(word.split("=", 1) for word in words if word.partition("=")[0] in groups())
    values["chosen"] = {"model": "simgan", "data": "cub"} | {k: v for k, v in picked.items() if v != "null"}
    values["words"] = words
    return values


# ---- what only this file can do, handed to the tasks


def compose_need(need: dict[str, Any], asked: list[str]) -> dict[str, Any]:
    """The configuration of a needed network: its asker's data and folders, its own recipe, one device."""
    kept = []
    for override in OverridesParser.create().parse_overrides(asked):
        key, line = override.key_or_group, override.input_line or ""
        if key in FORWARDED or key.startswith(FORWARDED_SECTIONS):
            kept.append(line)
        elif key == "trainer" and line != "trainer=ddp":
            kept.append(line)
    words = [f"model={need['model']}", *kept, *need.get("overrides", [])]
    return plain(compose(words), words)


def loggers(cfg: dict[str, Any], folder: Path) -> list[Any]:
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
    import netrc

    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_logger(cfg: dict[str, Any], folder: Path, *, offline: bool) -> Any:
    """One W&B run for each run folder: its id is kept there, so that a resumed run goes on in it."""
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    kept = folder / "wandb_id.txt"
    if not kept.is_file():
        kept.write_text(wandb.util.generate_id(), encoding="utf-8")
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
            wandb.finish(exit_code=code, quiet=True)


# ---- the door


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def job(cfg: DictConfig) -> None:
    """One job of a command or of a sweep."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # to standard error
    hydra_config = HydraConfig.get()
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    words = list(hydra_config.overrides.task)
    try:
        values = plain(cfg, words)
        if values["task"] == "doctor":  # must be able to say that torch and torchvision do not fit
            from common.doctor import examine

            print(examine(values))
            return
        check_pair(values)
        if sweeping and int(values["trainer"]["devices"]) > 1 and values["chosen"].get("launcher") is None:
            raise UserError(
                "a sweep on several devices would start every job again in each of its processes: choose trainer=auto "
                "for one device a job, or launcher=slurm"
            )
        from common import tasks

        door = tasks.Door(compose_need=compose_need, loggers=loggers, finish_loggers=finish_loggers)
        tasks.run(values, door, sweeping=sweeping)
    except UserError as error:  # kept for main: Hydra would print a traceback and stop a sweep
        refused.append(f"{' '.join(words)}: {error}" if sweeping else str(error))


def main() -> int:
    """Exit codes: 0 done, 1 a bug (with its traceback), 2 something the user can put right, 130 stopped."""
    words = sys.argv[1:]
    if not words or set(words) & {"--help", "-h"}:
        print(__doc__)
        print(
            "Groups: "
            + "\n        ".join(f"{group:9}{', '.join(choices(group))}" for group in groups() if choices(group))
        )
        return 0
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a bug shows where it is
    try:
        check_words([word for word in words if not word.startswith("-")])
        job()
    except UserError as error:
        refused.append(str(error))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    for sentence in refused:
        print(f"error: {sentence}", file=sys.stderr)
    return 2 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
