"""Objects from plain configuration: {_target_: dotted.path, argument: value, ...}."""

import inspect
from importlib import import_module
from typing import Any

from common.errors import UserError

WORDS = {"when": True, "unless": False}  # of a rule that is conditional


def locate(target: str) -> Any:
    """The class or function of a dotted path; UserError where there is none."""
    module, _, name = str(target).rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ValueError, AttributeError, ModuleNotFoundError) as error:
        if module and isinstance(error, ModuleNotFoundError) and not f"{module}.".startswith(f"{error.name}."):
            raise  # one of its own imports
        raise UserError(f"_target_={target} is no class or function here: leave it as its file has it") from None


def as_list(value: Any) -> list[Any]:
    """A list as it is, one value as a list of one, null as none: a word given for a list is not its letters."""
    return value if isinstance(value, list) else [] if value is None else [value]


def needed(cfg: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The entries of `needs` that a configuration's model asks for."""
    return {key: need for key, need in cfg.get("needs", {}).items() if applies(need, cfg["model"])}


def applies(rule: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether a rule of a file holds, by its settings: `when: [setting, value]` only then, `unless` only otherwise.

    A dot leads into a group of settings. A list in the value's place: any of these.
    """

    def at(key: str) -> Any:
        found: Any = settings
        for name in key.split("."):
            found = found[name]
        return found

    def holds(setting: str, value: Any) -> bool:
        return at(setting) in (value if isinstance(value, list) else [value])

    return all(holds(*rule[word]) == wanted for word, wanted in WORDS.items() if word in rule)


def arguments_of(call: Any) -> list[str]:
    """Names of what a function or class takes; where a class hands `**more` on to its base, the base's too."""
    names: list[str] = []
    for one in inspect.getmro(call) if inspect.isclass(call) else [call]:
        known = inspect.signature(one.__init__ if inspect.isclass(one) else one).parameters
        names += [name for name, each in known.items() if name != "self" and each.kind is not each.VAR_KEYWORD]
        if not any(each.kind is each.VAR_KEYWORD for each in known.values()):
            break
    return names


def build(spec: dict[str, Any], **more: Any) -> Any:
    """Calls the `_target_` with the other keys and `more`; an argument that it does not know is the user's error."""
    call = locate(spec["_target_"])
    arguments = {key: value for key, value in spec.items() if key != "_target_"} | more
    known = arguments_of(call)
    strange = [name for name in arguments if name not in known]
    if strange:
        raise UserError(f"{spec['_target_']} has no setting {strange[0]}: it has {', '.join(known)}")
    return call(**arguments)
