"""The runtimes; one file each."""

import importlib
import pkgutil
from typing import cast

from services.inference.runtimes.runtime import Runtime
from tessera.errors import FailedPreconditionError


def known_runtimes() -> list[str]:
    """Return the names of the runtimes that this server has, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "runtime")


def find_runtime(name: str) -> Runtime:
    """Return a runtime; its libraries are imported here, not before.

    Args:
        name: As in the manifest, for example `onnxruntime`.

    Raises:
        FailedPreconditionError: There is no such runtime; the message lists those that there are.
    """
    if name not in known_runtimes():
        raise FailedPreconditionError(f"the version asks for the runtime {name!r}; this server has {', '.join(known_runtimes())}")
    return cast(Runtime, importlib.import_module(f"{__name__}.{name}"))
