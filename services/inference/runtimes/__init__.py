"""The runtimes; one file each."""

import importlib
import pkgutil
import threading
from pathlib import PurePosixPath
from typing import cast

from model_store.manifest import FileEntry, Manifest
from services.inference.runtimes.runtime import Runtime, RuntimeModule
from services.inference.settings import InferenceSettings
from tessera.errors import FailedPreconditionError


def known_runtimes() -> list[str]:
    """Return the names of the runtimes that this server has, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "runtime")


def carried_runtimes(manifest: Manifest) -> list[str]:
    """Return the runtimes that a version carries a graph for, the preferred one first.

    Raises:
        FailedPreconditionError: This server does not have the preferred one, or the version carries no graph for it.
    """
    preferred = manifest.runtime
    if preferred not in known_runtimes():
        raise FailedPreconditionError(f"the version asks for the runtime {preferred!r}; this server has {', '.join(known_runtimes())}")
    graph_of(manifest, preferred)
    return [preferred, *(name for name in known_runtimes() if name != preferred and len(_graphs(manifest, name)) == 1)]


def graph_of(manifest: Manifest, name: str) -> FileEntry:
    """Return the graph of a version for a runtime; FailedPreconditionError unless there is exactly one."""
    graphs = _graphs(manifest, name)
    if len(graphs) != 1:
        raise FailedPreconditionError(
            f"the runtime {name} needs exactly one {_module(name).GRAPH} file with the role graph; the manifest has {len(graphs)}"
        )
    return graphs[0]


class Runtimes:
    """The runtimes of one server, each made when it is first needed; may be used by several threads.

    Args:
        settings: Of the server.
    """

    def __init__(self, settings: InferenceSettings) -> None:
        self._settings = settings
        self._created: dict[str, Runtime] = {}
        self._lock = threading.Lock()

    def find(self, name: str) -> Runtime:
        """Return a runtime by its name; its libraries are imported here, not before. Blocking."""
        with self._lock:
            if name not in self._created:
                self._created[name] = _module(name).create(self._settings)
            return self._created[name]

    def close(self) -> None:
        """End all of them; nothing may be loaded any more. Blocking."""
        with self._lock:
            while self._created:
                self._created.popitem()[1].close()


def _graphs(manifest: Manifest, name: str) -> list[FileEntry]:
    extension = _module(name).GRAPH
    return [file for file in manifest.files_in_role("graph") if PurePosixPath(file.path).suffix.lower() == extension]


def _module(name: str) -> RuntimeModule:
    return cast(RuntimeModule, importlib.import_module(f"{__name__}.{name}"))
