"""The typed services; one module each, which nothing else has to be told about."""

import importlib
import pkgutil
from typing import cast

from services.inference.served import ServedTask
from services.inference.typed.module import Parts, TypedModule
from tessera.rpc.server import Service


def typed_tasks() -> list[ServedTask]:
    """Return the tasks of the typed services that this server has."""
    return [module.TASK for module in _modules()]


def typed_services(parts: Parts) -> list[Service]:
    """Return the typed services of a server."""
    return [module.create(parts) for module in _modules()]


def _modules() -> list[TypedModule]:
    names = sorted(found.name for found in pkgutil.iter_modules(__path__) if found.name != "module")
    return [cast("TypedModule", importlib.import_module(f"{__name__}.{name}")) for name in names]
