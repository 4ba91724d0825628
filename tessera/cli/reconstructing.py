"""Reconstruct a scan with a server and measure what came of it; for `tessera reconstruct` and the demo."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tessera.api.inference.v1 import ptychography_pb2 as pb
from tessera.cli import output
from tessera.cli.queue import follow
from tessera.cli.reconstruction_output import DEFAULT_ITERATIONS, Watcher
from tessera.client.ptychography import Frames, Reconstruction
from tessera.errors import InvalidArgumentError, UnavailableError
from tessera.tasks.ptychography.alignment import scanned
from tessera.tasks.ptychography.metrics import Comparison, Correlation, compare, correlate_halves, halves
from tessera.tasks.ptychography.scan import Scan
from tessera.tasks.ptychography.signatures import from_channels

if TYPE_CHECKING:
    from tessera.api.inference.v1.serving_pb2 import AnsweredBy
    from tessera.client import Client


@dataclass(frozen=True)
class Reconstructed:
    """A scan and what came of it.

    Args:
        scan: What was sent.
        tensors: By name, as `ReconstructionPart` in the API describes them.
        corner: The (x, y) of the object's upper left pixel, in the coordinates of the positions.
        iterations: Passes of the engine.
        answered_by: Which versions, the network before the engine.
        seconds: From the first frame to the last pixel, sending and stitching included.
    """

    scan: Scan
    tensors: Mapping[str, NDArray[np.floating]]
    corner: tuple[float, float]
    iterations: int
    answered_by: "Sequence[AnsweredBy]"
    seconds: float

    @property
    def engine(self) -> str:
        """The models that answered, for example `ptycho 3 + rpie 1`."""
        return " + ".join(f"{one.model} {one.version}" for one in self.answered_by)

    @property
    def object(self) -> NDArray[np.complex64]:
        """The object, (rows, columns)."""
        return np.asarray(self.tensors["amplitude"] * np.exp(1j * self.tensors["phase"]), np.complex64)

    @property
    def probe(self) -> NDArray[np.complex64] | None:
        """The probe, (modes, N, N); None if it is not known."""
        return from_channels(self.tensors["probe"]) if "probe" in self.tensors else None

    @property
    def errors(self) -> list[float]:
        """Fourier errors: of what the engine began with, or of the network's answer, then of every pass; empty without a probe."""
        return [float(error) for error in self.tensors["errors"]]

    @property
    def frames_per_s(self) -> float:
        """Frames of the scan a second."""
        return len(self.scan) / self.seconds

    def illuminated(self) -> tuple[slice, slice]:
        """Return rows and columns of the object that the inner halves of the frames reach: further out is little light, or none."""
        reach = self.scan.size / 4
        first = np.maximum(self.scan.positions.min(axis=0) - reach - self.corner, 0).astype(int)
        last = np.ceil(self.scan.positions.max(axis=0) + reach - self.corner).astype(int)
        return slice(first[1], last[1] + 1), slice(first[0], last[0] + 1)

    def figures(self) -> dict[str, Any]:
        """Return the numbers as plain data."""
        return {
            "engine": self.engine,
            "fourier_error": self.errors[-1] if self.errors else None,
            "iterations": self.iterations,
            "seconds": round(self.seconds, 3),
            "frames": len(self.scan),
            "frames_per_s": round(self.frames_per_s, 1),
            "corner": list(self.corner),
            "runtimes": [one.runtime for one in self.answered_by],
            "errors": self.errors,
        }

    def beside_truth(self) -> tuple[NDArray[np.complex128], NDArray[np.complexfloating]]:
        """Return the object and the truth on the scanned pixels. Raises InvalidArgumentError if there is no truth, or no such pixels."""
        if self.scan.truth is None:
            raise InvalidArgumentError("the scan has no truth")
        return scanned(self.object, self.corner, self.scan.positions, self.scan.truth)

    def comparison(self) -> Comparison:
        """Measure the object against the truth; raises what `beside_truth` raises."""
        return compare(*self.beside_truth())

    def correlation(self, other: "Reconstructed") -> Correlation:
        """Return the Fourier ring correlation with a reconstruction of the other half of the same scan."""
        origin = np.asarray(other.corner)
        positions = np.concatenate([self.scan.positions, other.scan.positions]) - origin
        x, y = (float(value) for value in self.corner - origin)
        return correlate_halves(*scanned(self.object, (x, y), positions, other.object))


async def reconstruct_scan(
    client: "Client", scan: Scan, plan: pb.ReconstructionPlan, watcher: Watcher, *, runtime: str = "", preview_s: float = 2.0
) -> Reconstructed:
    """Stream a scan to the server and return what came of it.

    Args:
        client: Of the server.
        scan: With a probe, unless the network has one.
        plan: From `tessera.client.ptychography.reconstruction_plan`.
        watcher: Is shown meanwhile.
        runtime: What shall compute; what each version prefers if empty.
        preview_s: Least time between two previews.

    Raises:
        TesseraError: Whatever the server refuses.
    """
    begun = time.perf_counter()
    with watcher.shown():
        events = client.ptychography.reconstruct(
            [Frames(scan.amplitudes, scan.positions)],
            plan,
            preview_interval_s=preview_s if watcher.previews is not None else 0,
            runtime=runtime,
        )
        async for event in events:
            if isinstance(event, Reconstruction):
                x, y = event.summary.corner
                seconds = time.perf_counter() - begun
                return Reconstructed(scan, event.tensors, (x, y), event.summary.iterations, event.summary.answered_by, seconds)
            if isinstance(event, pb.ReconstructionPreview):
                watcher.previewed(event)
            else:
                watcher.progressed(event, len(scan))
    raise UnavailableError("the server ended the stream without a result")


async def reconstruct_queued(client: "Client", scan: Scan, plan: pb.ReconstructionPlan, *, runtime: str = "") -> Reconstructed:
    """Upload a scan, queue its reconstruction, follow it, and return what came of it; its seconds do not count the waiting.

    Args:
        client: Of the server.
        scan: With a probe, unless the network has one.
        plan: Without a probe.
        runtime: What shall compute; what each version prefers if empty.

    Raises:
        FailedPreconditionError: The server has no queue, or the request has no result.
        TesseraError: Whatever the server refuses.
    """
    identity = (await client.queued.submit_reconstruction(scan, plan, runtime=runtime)).inference.id
    output.note(f"request {identity} goes on without this command: `tessera queue watch {identity}`, `tessera queue result {identity}`")
    inference = await follow(client, identity, as_json=False)
    x, y = inference.reconstruction.corner
    return Reconstructed(
        scan,
        await client.queued.result(identity),
        (x, y),
        inference.reconstruction.iteration,
        inference.reconstruction.answered_by,
        (inference.finish_time.ToNanoseconds() - inference.start_time.ToNanoseconds()) / 1e9,
    )


async def correlate_half_scans(client: "Client", scan: Scan, plan: pb.ReconstructionPlan, *, runtime: str = "") -> Correlation:
    """Reconstruct two halves of a scan and return how alike they are, a resolution that needs no truth; raises as `reconstruct_scan`."""
    first, second = [
        await reconstruct_scan(
            client,
            replace(scan, amplitudes=scan.amplitudes[indices], positions=scan.positions[indices]),
            plan,
            Watcher(f"{name} half", plan.iterations or DEFAULT_ITERATIONS),
            runtime=runtime,
        )
        for name, indices in zip(("first", "second"), halves(len(scan)), strict=True)
    ]
    return first.correlation(second)
