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
import uuid
from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from common.errors import UserError

CONF = Path(__file__).resolve().parent / "conf"
# what a needed network takes over from the command that asked for it
FORWARDED = """data preset data.source data.allow_missing data.captions data.root data.store data.split data.highres
data.files""".split()
# numbers that 0 is too small for
FROM_ONE = """image_size batch_size devices num_nodes accumulate checkpoint_every keep_every grid_every
log_every_n_steps pairs_per_image splits""".split()
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
        name = prefix + str(key)
        child = node._get_node(key)
        found += [name, *keys_of(child, f"{name}.")]
    return found


def spoken(word: str) -> str:
    """A sentence or a photo's name is taken as it stands: to Hydra commas, colons and apostrophes have a meaning."""
    key, _, value = word.partition("=")
    if key not in ("text", "image") or value[:1] in ("", "[", '"', "'", "$"):
        return word
    return '{}="{}"'.format(key, value.replace('"', '\\"'))


def parsed(words: list[str]) -> list[Override]:
    parser, overrides = OverridesParser.create(), []
    for word in words:
        try:
            overrides += parser.parse_overrides([word])
        except HydraException:
            raise UserError(
                f"{word} is not of the form KEY=VALUE: a value with commas, brackets or accents is quoted twice, as in "
                "'name=\"a, b\"'"
            ) from None
    return overrides


def check_words(words: list[str], *, sweeping: bool) -> None:
    """Refuses unknown groups' choices, unknown keys and values of another kind, in one sentence with what is valid."""
    overrides = [each for each in parsed(words) if not each.key_or_group.startswith("hydra")]
    picks: list[str] = []
    for override in overrides:
        key, line = override.key_or_group, override.input_line or ""
        if override.is_delete():
            raise UserError(f"{line} takes away what the command needs: leave it out, or give {key} another value")
        if override.is_sweep_override() and not sweeping:
            raise UserError(
                f"{line} gives {key} several values: add -m for a run of each, or quote one that holds a comma twice, "
                f"as in '{key}=\"a, b\"'"
            )
        if key in groups() and override.is_sweep_override() and "glob" in line:
            picks.append(f"{key}={choices(key)[0]}")
        elif key in groups():
            wanted = [str(v) for v in values_of(override)]
            for name in wanted:
                if name not in choices(key):
                    raise UserError(f"{key}={name} is not known: {nearest(name, choices(key))}")
            picks.append(f"{key}={wanted[0]}")
    cfg = composed(*picks).cfg
    known = keys_of(cfg)
    for override in overrides:
        key = override.key_or_group
        if key in groups() or (override.is_add() and f"{key.rpartition('.')[0]}._target_" in known):
            continue  # what is added to an object is checked when the object is built
        if key not in known:
            raise UserError(f"{key} is no setting of this command: {nearest(key, known)}")
        for value in values_of(override):
            check_value(key, value, OmegaConf.select(cfg, key, throw_on_missing=False))


def check_value(key: str, value: Any, default: Any) -> None:
    """Refuses a word where the configuration has a number, a number where it has a switch, and too small a number."""
    if value is None or (isinstance(value, str) and "${" in value):
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    least = 1 if key.rpartition(".")[2] in FROM_ONE else 0
    wanted = ""
    if isinstance(default, bool):
        wanted = "" if isinstance(value, bool) or value in ("auto", "warn") else "true or false"
    elif isinstance(default, int) and not (number and isinstance(value, int) and value >= least):
        wanted = f"a whole number from {least} on"
    elif isinstance(default, float) and not (number and value >= 0):
        wanted = "a number from 0 on"
    if wanted:
        raise UserError(f"{key}={value} cannot be: it is {wanted}, by default {default}")


def values_of(override: Override) -> list[Any]:
    return list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]


class Composed(NamedTuple):
    """A command's configuration, to be read only, and the groups' choices, also those that a table row makes."""

    cfg: DictConfig
    chosen: dict[str, str]


@lru_cache(maxsize=128)  # some tenths of a second each, and the same words are asked for again and again
def composed(*words: str) -> Composed:
    """The configuration of a command line, whether or not Hydra is running a job at the time."""
    running = GlobalHydra.instance().is_initialized()
    try:
        with nullcontext() if running else hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra.compose("config", list(words), return_hydra_config=True)
    except HydraException as error:
        raise UserError(f"{' '.join(words)} cannot be composed: {str(error).splitlines()[0]}") from None
    chosen = of_groups(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    return Composed(cfg, chosen)


def of_groups(picked: Mapping[str, Any]) -> dict[str, str]:
    """Without the groups that nothing is chosen from, and without Hydra's own."""
    return {group: picked[group] for group in groups() if picked.get(group) is not None}


def check_data(cfg: dict[str, Any]) -> None:
    """Refuses a data set that is not there. Before Lightning is imported, which alone takes seconds."""
    spec = cfg["data"]
    if cfg["task"] in ("fit", "evaluate") and spec["source"] == "real":
        from common.config import build

        build(spec["reader"], root=spec.get("root") or cfg["paths"]["data"]).find()


def check_pair(cfg: dict[str, Any]) -> None:
    """Refuses a model, or a job of conf/prepare, on data that cannot feed it."""
    has, kind = cfg["data"]["provides"], "prepare" if "prepare" in cfg["chosen"] else "model"
    absent = [thing for thing in cfg["requires"] if thing not in has]
    if not absent:
        return
    fitting = {"data": [name for name in choices("data") if set(cfg["requires"]) <= set(alone("data", name).provides)]}
    if kind == "model":
        fitting[kind] = [name for name in choices(kind) if set(alone(kind, name).requires) <= set(has)]
    ways = [f"{group}={' or '.join(names)}" for group, names in fitting.items() if names]
    raise UserError(
        f"{kind}={cfg['chosen'][kind]} needs {' and '.join(absent)}, which data={cfg['data']['name']} does not have: "
        f"choose {', or '.join(ways) or 'other data (no data set here has them)'}"
    )


def alone(group: str, name: str) -> DictConfig:
    """The file of a choice as it stands."""
    found = OmegaConf.load(CONF / group / f"{name}.yaml")
    assert isinstance(found, DictConfig)
    return found


def plain(made: Composed, words: list[str]) -> dict[str, Any]:
    """The configuration as plain resolved values; the words that made it and the groups they choose stay with it."""
    cfg, chosen = made
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        if missing:
            raise UserError(f"{missing[0]} has no value: add {missing[0]}=... to the command")
        values: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration does not resolve: {str(error).splitlines()[0]}") from None
    return values | {"chosen": dict(chosen), "words": words}


# ---- what only this file can do, handed to the tasks


def compose_need(need: dict[str, Any], asked: list[str]) -> dict[str, Any]:
    """The configuration of a needed network: its asker's data and folders, its own recipe, one device."""
    kept = [f"data={composed(*asked).chosen['data']}"]  # a table row may have picked it
    for override in OverridesParser.create().parse_overrides(asked):
        key, line = override.key_or_group, override.input_line or ""
        if (key in FORWARDED and key != "data") or key.startswith(FORWARDED_SECTIONS):
            kept.append(line)
        elif key == "trainer" and line != "trainer=ddp":
            kept.append(line)
    kind = [f"model={need['model']}"] if "model" in need else ["task=prepare", f"prepare={need['prepare']}"]
    words = [*kind, *kept, *need.get("overrides", [])]
    return plain(composed(*words), words)


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


# ---- the door


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def job(cfg: DictConfig) -> None:
    """One job of a command or of a sweep."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # to standard error
    hydra_config = HydraConfig.get()
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    words = list(hydra_config.overrides.task)
    try:
        values = plain(Composed(cfg, of_groups(hydra_config.runtime.choices)), words)
        if values["task"] == "doctor":  # must be able to say that torch and torchvision do not fit
            from common.tasks.doctor import examine

            print(examine(values))
            return
        check_pair(values)
        check_data(values)
        if sweeping and int(values["trainer"]["devices"]) > 1 and values["chosen"].get("launcher") is None:
            raise UserError(
                "a sweep on several devices would start every job again in each of its processes: choose trainer=auto "
                "for one device a job, or launcher=slurm"
            )
        from common.tasks import fit as tasks

        door = tasks.Door(compose_need=compose_need, loggers=loggers, finish_loggers=finish_loggers)
        tasks.run(values, door, sweeping=sweeping)
    except UserError as error:  # kept for main: Hydra would print a traceback and stop a sweep
        refused.append(f"{' '.join(words)}: {error}" if sweeping else str(error))


def main() -> int:
    """Exit codes: 0 done, 1 a bug (with its traceback), 2 something the user can put right, 130 stopped."""
    words = [spoken(word) for word in sys.argv[1:]]
    sys.argv[1:] = sorted(words, key=lambda word: word not in ("-m", "--multirun"))  # argparse wants it before or after
    refused.clear()
    if not words or set(words) & {"--help", "-h"}:
        print(__doc__)
        print(
            "Groups: "
            + "\n        ".join(f"{group:9}{', '.join(choices(group))}" for group in groups() if choices(group))
        )
        return 0
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a bug shows where it is
    try:
        own = [word for before, word in zip(["", *words], words, strict=False) if before not in ("--cfg", "-c")]
        check_words(
            [word for word in own if not word.startswith("-")], sweeping=bool({"-m", "--multirun"} & set(words))
        )
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
