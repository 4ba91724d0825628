"""What a caller wants of a reconstruction, checked."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.inference.v1 import ptychography_pb2 as pb
from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.signatures import from_channels
from tessera.tasks.ptychography.validation import MAX_MODES, MAX_SIZE
from tessera.tensors import from_proto

DEFAULT_ITERATIONS = 50
MOST_ITERATIONS = 10_000
MOST_BATCH = 1024


@dataclass(frozen=True)
class Plan:
    """Which models reconstruct, and how.

    Attributes:
        model: A network or an engine.
        refine_with: An engine that goes on from what `model` found; None: none.
        iterations: Most passes of an engine over the scan, 1 or more.
        target_fourier_error: An engine stops as soon as the error is at most this, 0 to 1; 0: not before all iterations.
        weighted: Whether patches of a network are merged by the intensity of the probe; None: if there is a probe.
        crop: Central pixels of each patch of a network that are merged; 0: half of it.
        fixed_probe: Whether the probe stays as it is.
        correct_positions: Whether the positions are improved.
        batch: Frames that an engine takes at a time; 0: its own default.
        seed: Of the order in which an engine takes the frames.
        probe: complex64, (modes, N, N); None: that of the scan, or of the network.
    """

    model: ModelSelector
    refine_with: ModelSelector | None = None
    iterations: int = DEFAULT_ITERATIONS
    target_fourier_error: float = 0.0
    weighted: bool | None = None
    crop: int = 0
    fixed_probe: bool = False
    correct_positions: bool = False
    batch: int = 0
    seed: int = 0
    probe: NDArray[np.complex64] | None = None


def parse_plan(message: pb.ReconstructionPlan, field: str = "plan") -> Plan:
    """Return the plan that a message describes.

    Args:
        message: Of the request.
        field: Its path in the request, for errors.

    Raises:
        InvalidArgumentError: A value is out of its range, or the probe is not one.
    """
    if not message.model.model:
        raise InvalidArgumentError("no model is named", field=f"{field}.model.model")
    _check_range(message.iterations, MOST_ITERATIONS, f"{field}.iterations")
    _check_range(message.batch, MOST_BATCH, f"{field}.batch")
    _check_range(message.crop, MAX_SIZE, f"{field}.crop")
    if message.crop % 2:
        raise InvalidArgumentError(f"{message.crop} is odd; the crop is even, 2 to the size of a frame", field=f"{field}.crop")
    if not 0 <= message.target_fourier_error <= 1:
        raise InvalidArgumentError(f"{message.target_fourier_error:g} is not within 0 to 1", field=f"{field}.target_fourier_error")
    return Plan(
        model=message.model,
        refine_with=message.refine_with if message.HasField("refine_with") else None,
        iterations=message.iterations or DEFAULT_ITERATIONS,
        target_fourier_error=message.target_fourier_error,
        weighted=_weighted(message, f"{field}.weighting"),
        crop=message.crop,
        fixed_probe=message.fixed_probe,
        correct_positions=message.correct_positions,
        batch=message.batch,
        seed=message.seed,
        probe=_probe(message, f"{field}.probe"),
    )


def _check_range(value: int, most: int, field: str) -> None:
    if not 0 <= value <= most:
        raise InvalidArgumentError(f"{value} is not within 1 to {most} (0: the default)", field=field)


def _weighted(message: pb.ReconstructionPlan, field: str) -> bool | None:
    known = {
        pb.RECONSTRUCTION_WEIGHTING_UNSPECIFIED: None,
        pb.RECONSTRUCTION_WEIGHTING_UNIFORM: False,
        pb.RECONSTRUCTION_WEIGHTING_PROBE: True,
    }
    if message.weighting not in known:
        names = pb.ReconstructionWeighting.keys()
        raise InvalidArgumentError.unknown("weighting", str(message.weighting), names, field=field)
    return known[message.weighting]


def _probe(message: pb.ReconstructionPlan, field: str) -> NDArray[np.complex64] | None:
    if not message.HasField("probe"):
        return None
    probe = from_proto(message.probe, field)
    if probe.dtype != np.float32 or probe.ndim != 4 or probe.shape[1] != 2 or probe.shape[2] != probe.shape[3]:
        raise InvalidArgumentError(
            f"the probe is {probe.dtype} of shape {list(probe.shape)}; FP32 [modes, 2, size, size] is needed", field=field
        )
    if probe.shape[0] > MAX_MODES:
        raise InvalidArgumentError(f"the probe has {probe.shape[0]} modes; at most {MAX_MODES} are allowed", field=field)
    return from_channels(probe)
