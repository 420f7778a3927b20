"""A command's words -> checked -> composed -> plain values. Beside run.py the only file that knows Hydra."""

import difflib
import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from functools import lru_cache, reduce
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from common.config import build
from common.errors import UserError, as_word, check_ranges

CONF = Path(__file__).resolve().parents[1] / "conf"
LITERAL = ("text", "image")  # keys whose value is taken as it stands
PATHS = ("resume", "checkpoint", "output", "pairs", "data.root", "data.store")
LONGEST_NAME = 150  # bytes; a file's name has 255, and a run's also tells seed and hash
INHERITED = ("paths.", "data.procedural.", "logger")  # by needed networks, beside what the data set's file says
SUBMITIT = "hydra_plugins.hydra_submitit_launcher"
WORD = r"(?!ours\b)(-?[a-z0-9](?:[\w.+-]*\w)?)"  # "ours" says where a number comes from


# ---- what there is to choose and to set


def choices(group: str) -> list[str]:
    """The files of a group of conf/, but for those that only other files begin with."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_"))


def groups() -> list[str]:
    """The folders of conf/: what has choices."""
    return sorted(path.name for path in CONF.iterdir() if path.is_dir())


class Setting(NamedTuple):
    """A line of a configuration file: its key in full, the value as it is written, and the comment."""

    key: str
    value: str
    comment: str


@lru_cache(maxsize=128)
def settings(file: str) -> list[Setting]:
    """The lines of conf/<file>.yaml that hold a value, without what only the suite itself reads."""
    text = (CONF / f"{file}.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()

    def below(node: yaml.Node, prefix: str) -> Iterator[Setting]:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            name, line = prefix + str(key.value), lines[key.start_mark.line]
            if value.start_mark.line > key.start_mark.line and isinstance(value, yaml.MappingNode):
                yield from below(value, f"{name}.")
            elif name != "defaults" and not name.startswith("hydra") and key.value != "_target_":
                written = text[value.start_mark.index : value.end_mark.index].strip()
                yield Setting(name, written, line[value.end_mark.column :].partition("# ")[2].strip())

    packed = text.startswith("# @package _global_") or "/" not in file
    return list(below(yaml.compose(text, Loader=yaml.SafeLoader), "" if packed else f"{file.split('/')[0]}."))


def documented(comment: str) -> list[str]:
    """The values that a comment names: "a | b (why) | c: why", "a: why; b = why", "whose: a | b"."""
    parts = re.split(r" \| ", comment)
    first = re.split(r": |; |, ", parts[0])[-1] if len(parts) > 1 else ""
    listed = [re.match(rf"{WORD}(?=$| \(|[:;,]| =)", part) for part in (first, *parts[1:])]
    explained = re.findall(rf"(?:^|; |, |\| ){WORD}(?=:| = )", comment)
    return sorted({found[1] for found in listed if found}.union(explained))


def figures_of(model: str) -> list[str]:
    """The choices of task=figure: `pictures.figures` of a model's file, or of the one that it begins with."""
    own = [one.key.rpartition(".")[2] for one in settings(f"model/{model}") if one.key.startswith("pictures.figures.")]
    first = alone("model", model).get("defaults", [None])[0]
    return own or (figures_of(first) if isinstance(first, str) else [])


def help_text(words: list[str]) -> str:
    """The keys of each choice among the words, with their comments, and what every command has."""
    picks = [(key, value) for key, _, value in (word.partition("=") for word in words) if key in groups()]
    rows = []
    for group, choice in [*picks, ("", "config")]:
        if group and choice not in choices(group):
            raise UserError(f"{group}={choice} is not known: {nearest(choice, choices(group))}")
        file = f"{group}/{choice}" if group else choice
        text = (CONF / f"{file}.yaml").read_text(encoding="utf-8")
        told = re.findall(r"\A(?:# @package.*\n)?((?:#.*\n)+)", text)
        rows += [f"{group}={choice}" if group else "any command"]
        rows += [f"  {line.removeprefix('# ')}" for line in (told[0].splitlines() if told and group else ())]
        rows += [f"    {one.key + '=' + one.value:42} {one.comment}".rstrip() for one in settings(file)]
        if file == "task/figure":
            rows += [
                f"    model={name}: {', '.join(found)}" for name in choices("model") if (found := figures_of(name))
            ]
    listed = [f"{group:9}{', '.join(choices(group))}" for group in groups() if choices(group)]
    return "\n".join([*rows, "Groups: " + "\n        ".join(listed)])


# ---- what was asked for, checked before anything is built


def nearest(word: str, known: list[str]) -> str:
    """'did you mean ...' with the closest of the known words, or the list of them when none is close."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.55)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"


def nearest_key(key: str, cfg: DictConfig) -> str:
    """'did you mean ...' with the full path of the closest key, or of all that are equally close."""

    def ratio(a: str, b: str) -> float:
        return difflib.SequenceMatcher(None, a, b).ratio()

    def closeness(other: str) -> float:
        name, own = key.rpartition(".")[2], other.rpartition(".")[2]
        same_section = key.partition(".")[0] == other.partition(".")[0]
        part = name in own.split("_") or (same_section and own in name.split("_"))
        return max(ratio(key, other), ratio(name, own), 0.9 if part else 0)

    if tasks := [name for name in choices("task") if key in alone("task", name)]:
        return f"choose task={' or task='.join(tasks)} for it"
    scores = {other: closeness(other) for other in keys_of(cfg) if not is_copied(cfg, other)}
    best = max(scores.values())
    if best < 0.55:
        return f"there are {', '.join(other for other in scores if '.' not in other)}"
    return f"did you mean {' or '.join(other for other, score in scores.items() if score == best)}?"


def is_copied(cfg: DictConfig, key: str) -> bool:
    """Whether a key has the value of another, as model.image_size has."""
    section, _, name = key.rpartition(".")
    return OmegaConf.is_interpolation(OmegaConf.select(cfg, section) if section else cfg, name)


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


def as_it_stands(word: str) -> str:
    """A word in Hydra's grammar, to which commas, apostrophes, accents and ${x} have a meaning.

    The value of `text` and `image` is taken literally unless it is a list or quoted; any other where it does not parse.
    """
    key, _, value = word.partition("=")
    if not value or word.startswith("-"):
        return word
    literal = key in LITERAL
    kept = value[0] in "[\"'" and "${" not in value and parses(word) if literal else value[0] in "[{" or parses(word)
    if kept:
        return word
    if literal:
        value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    escaped = re.sub(r'(\\*)("|$)', lambda found: 2 * found[1] + ('\\"' if found[2] else ""), value)
    return f'{key}="{escaped}"'


def parses(word: str) -> bool:
    """Whether Hydra's grammar takes a word as it stands."""
    try:
        OverridesParser.create().parse_override(word)
    except HydraException:
        return False
    return True


def parsed(words: list[str]) -> list[Override]:
    parser, overrides = OverridesParser.create(), []
    for word in words:
        try:
            overrides += parser.parse_overrides([word])
        except HydraException:
            raise UserError(
                f"{word} is not of the form KEY=VALUE: a value with commas or brackets is quoted twice, as in "
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
        if key in groups():
            wanted = [str(value) for value in values_of(override)]
            for name in wanted:
                if name not in choices(key):
                    raise UserError(f"{key}={name} is not known: {nearest(name, choices(key))}")
            if not wanted:
                raise UserError(f"{line} chooses nothing: there are {', '.join(choices(key))}")
            picks.append(f"{key}={wanted[0]}")
            if key == "launcher" and not (find_spec("hydra_plugins") and find_spec(SUBMITIT)):
                raise UserError(f"{line} is Submitit's: pip install -e '.[cluster]' in the project's folder")
    cfg = composed(*picks).cfg
    known = keys_of(cfg)
    for override in overrides:
        key = override.key_or_group
        if key in groups() or (override.is_add() and f"{key.rpartition('.')[0]}._target_" in known):
            continue  # what is added to an object is checked when the object is built
        if key not in known:
            raise UserError(f"{key} is no setting of this command: {nearest_key(key, cfg)}")
        for value in values_of(override):
            check_value(key, value, OmegaConf.select(cfg, key, throw_on_missing=False))


def check_value(key: str, value: Any, default: Any) -> None:
    """Refuses a word where the configuration has a number, a number where it has a switch. Ranges are their class's."""
    if value is None or (isinstance(value, str) and "${" in value):
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    wanted = ""
    if isinstance(default, bool):
        known = {word for group in groups() for name in choices(group) for word in words_for(key, f"{group}/{name}")}
        wanted = "" if isinstance(value, bool) or value in known else "true or false"
    elif isinstance(default, int):
        wanted = "" if number and isinstance(value, int) else "a whole number"
    elif isinstance(default, float):
        wanted = "" if number else "a number"
    elif isinstance(default, str) and isinstance(value, dict | list):
        wanted = "a word"
    elif isinstance(default, DictConfig) and not isinstance(value, dict):
        wanted = f"a section: give {key}.{next(iter(default), 'KEY')!s}=VALUE"
    if wanted:
        told = "" if isinstance(default, DictConfig) else f", by default {as_word(default)}"
        raise UserError(f"{key}={as_word(value)} cannot be: it is {wanted}{told}")


def words_for(key: str, file: str) -> list[str]:
    """What a file's comments name as values of a key."""
    return [word for one in settings(file) if one.key == key for word in documented(one.comment)]


def values_of(override: Override) -> list[Any]:
    """All values that an override gives: several of a sweep or of a pattern, else one."""
    value = override.value()
    if isinstance(value, Glob):
        return value.filter(choices(override.key_or_group))
    return list(override.sweep_iterator()) if override.is_sweep_override() else [value]


class Composed(NamedTuple):
    """A command's configuration, to be read only, and the groups' choices, also those that a table row makes."""

    cfg: DictConfig
    chosen: dict[str, str]


@lru_cache(maxsize=512)  # some tenths of a second each, and the same words are asked for again and again
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
    keys = [each.key_or_group for each in parsed(words)]
    default = composed(*(word for word, key in zip(words, keys, strict=True) if key in groups())).cfg
    for key in keys:
        if isinstance(OmegaConf.select(default, key, throw_on_missing=False), ListConfig):
            section, _, name = key.rpartition(".")
            place = reduce(lambda node, part: node[part], section.split(".") if section else (), values)
            if not isinstance(place[name], list | None):  # one word is a list of one
                place[name] = [place[name]]
    return values | {"chosen": dict(chosen), "words": words}


# ---- what the values must be together, before torch is imported


def check_values(cfg: dict[str, Any]) -> None:
    """Refuses names and paths that are none, and a seed that no generator takes."""
    check_ranges("", cfg, {"seed": "int [0, 4294967295]"})
    name = as_word(cfg["name"] if cfg["name"] is not None else "")
    fit = isinstance(cfg["name"], str | int | float | None) and len(name.encode("utf-8", "replace")) <= LONGEST_NAME
    if not fit or name in (".", "..") or not (name or "x").isprintable() or set(name) & set("/\\"):
        raise UserError(
            f"name={name[:LONGEST_NAME]} cannot be: it is one part of a path, of {LONGEST_NAME} bytes at most, as in "
            "name=first"
        )
    for key, path in cfg["paths"].items():
        if not isinstance(path, str) or not path.strip() or "\0" in path:
            raise UserError(f"paths.{key}={as_word(path)} is no folder: give one, such as paths.{key}={key}")
    for key in PATHS:
        section, _, last = key.rpartition(".")
        path = (cfg[section] if section else cfg).get(last)
        if not isinstance(path, str | None) or path == "" or "\0" in (path or ""):
            raise UserError(f"{key}={as_word(path)} is no path: leave it out, or give {key}=PATH")


def check_pair(cfg: dict[str, Any]) -> None:
    """Refuses a model, or a job of conf/prepare, on data that cannot feed it."""
    spec, kind = cfg["data"], "prepare" if "prepare" in cfg["chosen"] else "model"
    mute = spec["captions"] == "none" and cfg["task"] in ("fit", "evaluate")
    has = [thing for thing in spec["provides"] if thing != "captions" or not mute]
    absent = [thing for thing in cfg["requires"] if thing not in has]
    if not absent:
        return
    if set(absent) <= set(spec["provides"]):
        raise UserError(f"{kind}={cfg['chosen'][kind]} needs captions: take data.captions=none away")
    fitting = {"data": [name for name in choices("data") if set(cfg["requires"]) <= set(alone("data", name).provides)]}
    if kind == "model":
        fitting[kind] = [name for name in choices(kind) if set(alone(kind, name).requires) <= set(has)]
    ways = [f"{group}={' or '.join(names)}" for group, names in fitting.items() if names]
    raise UserError(
        f"{kind}={cfg['chosen'][kind]} needs {' and '.join(absent)}, which data={spec['name']} does not have: "
        f"choose {', or '.join(ways) or 'other data (no data set here has them)'}"
    )


def check_data(cfg: dict[str, Any]) -> None:
    """Refuses a data set that is not there."""
    spec = cfg["data"]
    if spec["source"] == "procedural" and not spec.get("procedural"):
        drawn = [name for name in choices("data") if "procedural" in alone("data", name)]
        raise UserError(
            f"data={spec['name']} has no procedural stand-in: add data.source=real to read your own files, or choose "
            f"data={' or data='.join(drawn)}"
        )
    if cfg["task"] in ("fit", "evaluate") and spec["source"] == "real":
        build(spec["reader"], root=spec.get("root") or cfg["paths"]["data"]).find()


# ---- for the tasks


def composed_need(need: dict[str, Any], asked: list[str]) -> dict[str, Any]:
    """The configuration of a needed network: its asker's data and folders, its own recipe, one device."""
    asker = composed(*asked)  # a table row may have picked the data set
    inherited = [f"data.{key}" for key in asker.cfg.data.inherited]
    kept = [f"data={asker.chosen['data']}"]
    drawn = asker.cfg.data.procedural if asker.cfg.data.source == "procedural" else {}
    if "prepare" in need or "prepare" in asker.chosen:  # a job's product is of its asker's very pictures
        kept += [f"data.procedural.{key}={value}" for key, value in drawn.items() if key != "_target_"]
    for override in OverridesParser.create().parse_overrides(asked):
        key, line = override.key_or_group, override.input_line or ""
        if key in ("preset", *inherited) or key.startswith(INHERITED) or (key == "trainer" and line != "trainer=ddp"):
            kept.append(line)
    kind = [f"model={need['model']}"] if "model" in need else ["task=prepare", f"prepare={need['prepare']}"]
    own = need.get("overrides", [])
    if isinstance(own, dict):  # which keeps null apart from a word
        own = [as_it_stands(f"{key}={as_word(value)}") for key, value in own.items()]
    words = [*kind, *kept, *own]
    return plain(composed(*words), words)
