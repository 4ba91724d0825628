"""One reconstruction from beginning to end, for a caller who waits as for the queue."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.inference.limits import ModelLimits
from services.inference.options import CallOptions
from services.inference.ptychography.plan import Plan
from services.inference.routing import Router
from tessera.api.inference.v1.serving_pb2 import AnsweredBy
from tessera.tasks.ptychography.signatures import to_channels
from tessera.tensors import Array


class Source(Protocol):
    """The frames of a scan, on a disk; some of them may still be on their way.

    Its methods but `wait` read the disk: call them in a thread.
    """

    @property
    def size(self) -> int:
        """N, the pixels of a frame's side; known once `wait` has returned 1 or more."""

    @property
    def probe(self) -> NDArray[np.complex64] | None:
        """The scan's own probe, (modes, N, N); None if it has none."""

    async def wait(self, frames: int) -> int:
        """Return how many frames there are, as soon as there are more than `frames`, or no more come.

        Raises:
            TesseraError: What came is not fit, or the stream broke.
        """

    def amplitudes(self, indices: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return frames by their indices: (k, N, N), >= 0, zero frequency in the centre."""

    def positions(self, first: int, last: int) -> NDArray[np.float64]:
        """Return the (x, y) of the frames from `first` to before `last`: (k, 2), pixels."""


@dataclass(frozen=True)
class Progress:
    """Where a reconstruction stands.

    Attributes:
        frames: That have arrived.
        frames_done: That the network has seen; 0 without a network.
        iteration: Passes of the engine; 0 before the first.
        fourier_error: Of that pass; 0 before the first.
    """

    frames: int
    frames_done: int = 0
    iteration: int = 0
    fourier_error: float = 0.0


See = Callable[[], NDArray[np.complex64]]
"""Returns the object as it stands, (rows, columns); takes time in proportion to its size."""


class Listener(Protocol):
    """Is told how far a reconstruction is."""

    async def progressed(self, progress: Progress, see: See) -> None:
        """Hear where it stands, after every batch of the network and every pass of the engine; it goes on when this returns.

        `see` may be called, in a thread, until then.
        """


@dataclass(frozen=True)
class Result:
    """What came out.

    Attributes:
        object: complex64, (rows, columns).
        weight: float32, (rows, columns), 0 where no patch reaches.
        probe: complex64, (modes, N, N); None if it is not known.
        positions: float64, (frames, 2), as the engine improved them.
        errors: float32, (1 + passes,), Fourier errors: of what the engine began with and after every pass; empty without a probe.
        corner: The (x, y) of the object's upper left pixel, in the coordinates of the positions.
        iterations: Passes of the engine.
        answered_by: Which versions, the network before the engine.
    """

    object: NDArray[np.complex64]
    weight: NDArray[np.float32]
    probe: NDArray[np.complex64] | None
    positions: NDArray[np.float64]
    errors: NDArray[np.float32]
    corner: tuple[float, float]
    iterations: int
    answered_by: list[AnsweredBy]

    @property
    def fourier_error(self) -> float | None:
        """Of the result; None where there is no probe."""
        return float(self.errors[-1]) if len(self.errors) else None

    def tensors(self) -> dict[str, Array]:
        """Return the tensors that `ReconstructionPart` names, all float32 and of one dimension or more."""
        tensors: dict[str, Array] = {
            "amplitude": np.abs(self.object),
            "phase": np.angle(self.object),
            "weight": self.weight,
            "positions": self.positions.astype(np.float32),
            "errors": self.errors,
        }
        if self.probe is not None:
            tensors["probe"] = to_channels(self.probe)
        return tensors


class Reconstructor:
    """Reconstructs scans.

    Args:
        router: Where models are computed.
        limits: How many rows go into a batch of each model.
    """

    def __init__(self, router: Router, limits: ModelLimits) -> None:
        self._router = router
        self._limits = limits

    async def reconstruct(self, plan: Plan, options: CallOptions, source: Source, listener: Listener) -> Result:
        """Reconstruct a scan; each model is computed by one version from beginning to end.

        Args:
            plan: What to do.
            options: The caller's wishes, with the deadline of the whole.
            source: The frames.
            listener: Is told how far it is.

        Raises:
            InvalidArgumentError: The scan is not fit for the plan.
            FailedPreconditionError: A model is not what the plan needs.
            TesseraError: See `Source.wait`, `Router.begin` and `Prediction.compute`; ResourceExhaustedError of a busy model only after a
                while.
        """
        raise NotImplementedError
