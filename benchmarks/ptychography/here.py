"""Engines in this process: what they cost without a server."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.ptychography.epie import epie
from services.inference.ptychography.result import Result
from tessera.api.inference.v1.serving_pb2 import AnsweredBy
from tessera.cli.reconstructing import Reconstructed
from tessera.tasks.ptychography.iterating import Estimate, Options, iterate_here
from tessera.tasks.ptychography.physics import illumination
from tessera.tasks.ptychography.scan import Scan
from trainers.families.ptycho import FAMILY
from trainers.families.ptycho.engines.subject import begin, compute_step

Improve = Callable[[Estimate, NDArray[np.float32]], list[float]]
"""Improves an estimate in place with amplitudes (M, N, N), and returns the Fourier error of every pass."""


def plain_epie(most: int, target: float) -> Improve:
    """Return the plain ePIE: at most so many passes, until the Fourier error is at most the target."""
    return lambda estimate, amplitudes: epie(estimate, amplitudes, most=most, target=target)


def engine(name: str, size: int, most: int, target: float) -> Improve:
    """Return an engine of the family for frames of `size` x `size` pixels: at most so many passes, until the target.

    Torch computes it with one thread, as a served version has by default; a second one is worth little for steps as small as these.
    """
    architecture = FAMILY.architectures.get(name)
    config = architecture.parse_config({"size": size})
    step = partial(compute_step, architecture.build(config).eval())
    options = Options(iterations=most, target=target, batch=config.model_dump()["batch"])

    def improve(estimate: Estimate, amplitudes: NDArray[np.float32]) -> list[float]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return iterate_here(estimate, amplitudes, step, options)
        finally:
            torch.set_num_threads(threads)

    return improve


def reconstruct_here(scan: Scan, name: str, improve: Improve) -> Reconstructed:
    """Return what an engine makes of a scan with a probe, beginning with an object that is 1 everywhere."""
    begun = time.perf_counter()
    estimate = begin(scan)
    errors = improve(estimate, scan.amplitudes)
    seconds = time.perf_counter() - begun
    x, y = (float(value) for value in estimate.origin)
    result = Result(
        object=estimate.object,
        weight=illumination(estimate.probe, estimate.corners, estimate.object.shape),
        probe=estimate.probe,
        positions=estimate.positions,
        errors=np.array(errors, np.float32),
        corner=(x, y),
        iterations=len(errors) - 1,
        answered_by=[AnsweredBy(model=name)],
    )
    return Reconstructed(scan, result.tensors(), result.corner, result.iterations, result.answered_by, seconds)
