"""What a runtime is: the one thing that a new one has to provide.

A runtime is a module beside this one with what `Runtime` lists. Its file name is the name under which manifests ask for it; nothing else
has to be changed to add one.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_store.artifact_files import Role
from model_store.manifest import Manifest

Tensors = Mapping[str, NDArray[np.generic]]
"""Name of the tensor in the graph to its array; the first axis is the batch."""


class LoadedModel(Protocol):
    """A model in memory. All methods are blocking and are called outside the event loop."""

    def run(self, inputs: Tensors) -> Tensors:
        """Compute one batch. May be called by several threads at once.

        Args:
            inputs: Every input of the manifest, of its type, all with the same number of rows.

        Returns:
            Every output of the manifest, with as many rows as the inputs.

        Raises:
            Exception: Of any kind; the server answers INTERNAL and goes on.
        """

    def close(self) -> None:
        """Give the memory back. `run` is not called any more."""


@dataclass(frozen=True)
class RuntimeOptions:
    """What the server grants to each model.

    Args:
        threads: Threads that one call of `run` may use, 1 or more.
    """

    threads: int = 1


class Runtime(Protocol):
    """A module of this package."""

    ROLES: Collection[Role]
    """Roles of the files that `load` reads; others are not fetched."""

    def load(self, manifest: Manifest, directory: Path, options: RuntimeOptions) -> LoadedModel:
        """Load a version whose files lie, verified, under `directory`.

        Raises:
            FailedPreconditionError: The files are not what the manifest says, or this runtime cannot load them.
        """
