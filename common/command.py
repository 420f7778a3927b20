"""A command's words -> checked -> composed -> plain values. Beside run.py the only file that knows Hydra."""

import difflib
from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from common.config import build
from common.errors import UserError

CONF = Path(__file__).resolve().parents[1] / "conf"
# numbers that 0 is too small for
FROM_ONE = """image_size batch_size devices num_nodes accumulate checkpoint_every keep_every grid_every
log_every_n_steps pairs_per_image splits""".split()
FORWARDED_SECTIONS = ("paths.", "data.procedural.", "logger")  # and what the data's file says is inherited


# ---- what was asked for, checked before anything is built


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_"))


def groups() -> list[str]:
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


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


def composed_need(need: dict[str, Any], asked: list[str]) -> dict[str, Any]:
    """The configuration of a needed network: its asker's data and folders, its own recipe, one device."""
    asker = composed(*asked)
    kept = [f"data={asker.chosen['data']}"]  # a table row may have picked it
    inherited = {"preset", *(f"data.{key}" for key in asker.cfg.data.inherited)}
    for override in OverridesParser.create().parse_overrides(asked):
        key, line = override.key_or_group, override.input_line or ""
        if key in inherited or key.startswith(FORWARDED_SECTIONS):
            kept.append(line)
        elif key == "trainer" and line != "trainer=ddp":
            kept.append(line)
    kind = [f"model={need['model']}"] if "model" in need else ["task=prepare", f"prepare={need['prepare']}"]
    words = [*kind, *kept, *need.get("overrides", [])]
    return plain(composed(*words), words)
