"""One package a family; whatever lies here is found, so that adding a family means adding a folder."""

import importlib
import pkgutil

from tessera.errors import InvalidArgumentError
from trainers.family import Family


def find_families() -> dict[str, Family]:
    """Import every package here and return the families by name."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return {module.FAMILY.name: module.FAMILY for module in sorted(modules, key=lambda module: module.FAMILY.name)}


def find_family(name: str) -> Family:
    """Return one family; InvalidArgumentError, listing the known ones, if there is none of that name."""
    families = find_families()
    if name not in families:
        raise InvalidArgumentError.unknown("family", name, families, field="spec.family")
    return families[name]
