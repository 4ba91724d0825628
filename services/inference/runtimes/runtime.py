"""What a runtime is: the one thing that a new one has to provide.

A runtime is a module beside this one with what `RuntimeModule` lists. Its file name is the name under which manifests and calls ask for it;
nothing else has to be changed to add one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from model_store.manifest import Manifest

if TYPE_CHECKING:
    from services.inference.settings import InferenceSettings

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
            UnavailableError: The runtime does not work now; all requests of the batch are told so.
            ResourceExhaustedError, DeadlineExceededError: The same with other reasons.
            Exception: Of any other kind: the model fails on this batch. Its requests are tried one by one, and those that fail again are
                answered INTERNAL.
        """

    def close(self) -> None:
        """Give the memory back. `run` is not called any more."""


@dataclass(frozen=True)
class RuntimeOptions:
    """What the server grants to each model.

    Args:
        threads: Threads that one call of `run` may use, 1 or more.
        instances: Most calls of `run` at the same time, 1 or more.
    """

    threads: int = 1
    instances: int = 1


class Runtime(Protocol):
    """What loads versions. All methods are blocking and are called outside the event loop."""

    instances: int
    """Calls of `run` at the same time that suit a model which asks for no number."""
    in_process: bool
    """Whether models are in this process: what they take up is measured then, and loading them is kept from slowing down others."""

    def memory_for(self, graph_bytes: int) -> int:
        """Return the most bytes of memory that a graph of so many bytes takes up while it is loaded; batches not counted."""

    def load(self, manifest: Manifest, graph: Path, options: RuntimeOptions) -> LoadedModel:
        """Load the graph of a version from a verified file.

        Raises:
            FailedPreconditionError: The graph is not what the manifest says, or this runtime cannot load it.
            UnavailableError: The runtime does not work now.
        """

    def close(self) -> None:
        """End what belongs to the runtime as a whole. No model of it is loaded any more."""


class RuntimeModule(Protocol):
    """A module of this package."""

    GRAPH: str
    """Extension of the graphs that it computes; a version with such a file can be served by it."""

    def create(self, settings: "InferenceSettings") -> Runtime:
        """Return the runtime of a server; called once, when a version needs it first."""
