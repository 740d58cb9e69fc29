"""Connectors are found by file name: the value of a setting is the name of the file that serves it."""

import pkgutil
from importlib import import_module
from types import ModuleType

from pipelines.errors import BadRequest


def names(package: ModuleType) -> list[str]:
    """Names of the connector files in a package, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def load(package: ModuleType, name: str) -> ModuleType:
    """Import one connector by its file name; only the one asked for. Raises BadRequest with the names there are."""
    if name not in names(package):
        raise BadRequest(unknown(package, name))
    return import_module(f"{package.__name__}.{name}")


def unknown(package: ModuleType, name: str) -> str:
    """What is wrong with a name that no file has, with the names there are."""
    return f"unknown {package.__name__.rpartition('.')[2]} connector {name!r}: use one of {', '.join(names(package))}"
