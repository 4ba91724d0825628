"""What a version of an engine is made of: it is run on the scan of its job, drawn, and exported with a golden step."""

import hashlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography import pictures
from tessera.tasks.ptychography.files import read_scan
from tessera.tasks.ptychography.iterating import Estimate, Options, iterate_here
from tessera.tasks.ptychography.normalisation import FRAMES
from tessera.tasks.ptychography.physics import illumination
from tessera.tasks.ptychography.scan import Scan
from tessera.tasks.ptychography.signatures import engine_signature
from trainers.artifact import compute
from trainers.families.ptycho.config import PtychoHyperparameters
from trainers.families.ptycho.engines.config import EngineConfig
from trainers.families.ptycho.engines.engine import Engine
from trainers.families.ptycho.pictures import save
from trainers.family import Arrays, Export, Subject
from trainers.progress import Report


class EngineSubject(Subject):
    """An engine and a scan to show what it can do.

    Args:
        files: Of the job, by name; of `validation` an engine has no use.
        config: Of the engine.
        settings: Of the job; `epochs` are passes over the scan, `seed` is that of the frames' order.

    Raises:
        InvalidArgumentError: The file is no scan, it has no probe, or its frames are not of the config's size.
    """

    def __init__(self, files: Mapping[str, Path], config: EngineConfig, settings: PtychoHyperparameters) -> None:
        self.scan = read_scan(files["scan"], field="spec.inputs.scan")
        if self.scan.size != config.size:
            message = f"the frames are {self.scan.size} x {self.scan.size} pixels, but size is {config.size}; they must be equal"
            raise InvalidArgumentError(message, field="spec.model_config.size")
        with files["scan"].open("rb") as file:
            self.dataset_digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._config, self._settings = config, settings
        self._estimate = begin(self.scan)

    def measure(self, network: Engine, report: Report) -> dict[str, float]:
        """Return `fourier_error` of the last pass, `fourier_error_before` the first, and `iterations`, the passes."""
        passes = self._settings.epochs

        def tell(error: float) -> None:
            done = len(self._estimate.errors) - 1
            report.progress(epoch=done, epochs=passes, step=0, steps=0, loss=error)

        options = Options(iterations=passes, batch=self._config.batch, seed=self._settings.seed)
        step = partial(compute_step, network)
        errors = iterate_here(self._estimate, self.scan.amplitudes, step, options, told=tell)
        return {"fourier_error": errors[-1], "fourier_error_before": errors[0], "iterations": float(len(errors) - 1)}

    def draw(self, network: Engine, directory: Path, stem: str) -> list[Path]:
        """Draw amplitude, phase, probe and positions as they stand, and the course of the Fourier error."""
        estimate = self._estimate
        seen = illumination(estimate.probe, estimate.corners, estimate.object.shape)
        drawings = {
            "amplitude": pictures.draw_amplitude(estimate.object, seen),
            "phase": pictures.draw_phase(estimate.object, seen),
            "probe": pictures.draw_probe(estimate.probe),
            "positions": pictures.draw_positions(self.scan.positions),
            "errors": pictures.draw_errors({"engine": estimate.errors}),
        }
        return save(drawings, directory, stem)

    def export(self, network: Engine) -> Export:
        """Return what the exported version carries: two modes and three frames as golden step, and steps of other extents to check."""
        size = self._config.size

        def other_extents() -> Iterator[Arrays]:
            yield example_step(size, modes=1, frames=1, rows=size + 5, columns=size + 12)
            yield example_step(size, modes=3, frames=7, rows=size + 20, columns=size + 6)

        return Export(
            signature=engine_signature(size),
            golden=example_step(size, modes=2, frames=3, rows=size + 10, columns=size + 14),
            check=other_extents,
            runtimes=("torchserve",),
            mappings={"kind": "engine", "batch": self._config.batch},
        )


def begin(scan: Scan) -> Estimate:
    """Return what an engine begins with on a scan; InvalidArgumentError if the scan has no probe, or no light."""
    if scan.probe is None:
        message = "the scan has no probe; an engine improves one, so it needs at least a guess of it"
        raise InvalidArgumentError(message, field="spec.inputs.scan")
    return Estimate.begin(scan.positions, scan.probe, scan.amplitudes[:FRAMES])


def compute_step(engine: Engine, inputs: Arrays) -> Arrays:
    """Return the outputs of one step by name, computed in this process."""
    return compute(engine, inputs, engine_signature(inputs["amplitudes"].shape[-1]))


def example_step(size: int, *, modes: int, frames: int, rows: int, columns: int) -> Arrays:
    """Return the inputs of a step, by name: the numbers are random, of about the size of real ones, and always the same."""
    random = np.random.default_rng(0)
    span = np.array([columns - size - 3, rows - size - 3])
    arrays = {
        "object": 0.5 + 0.5 * random.random((1, 2, rows, columns)),
        "probe": random.normal(size=(1, modes, 2, size, size)),
        "amplitudes": 2 * random.random((1, frames, size, size)),
        "corners": 1 + span * random.random((1, frames, 2)),
        "steps": np.ones((1, 3)),
    }
    return {name: array.astype(np.float32) for name, array in arrays.items()}
