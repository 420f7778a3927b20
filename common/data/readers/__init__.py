"""A data set a file, each with all of its facts; and the formats that they share."""

import pkgutil
from importlib import import_module
from typing import Any


def known() -> list[Any]:
    """The `DatasetReader` of each data set, by the name of their file."""
    modules = (import_module(f"{__name__}.{each.name}") for each in pkgutil.iter_modules(__path__))
    owned = (value for module in modules for value in vars(module).values() if module.__name__ == _home(value))
    return [value for value in owned if hasattr(value, "dataset")]


def _home(value: object) -> str:
    return value.__module__ if isinstance(value, type) else ""
