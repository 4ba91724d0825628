"""What a person sees of a reconstruction: a bar, previews meanwhile, and pictures at the end."""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tessera.api.inference.v1 import ptychography_pb2 as pb
from tessera.cli import output
from tessera.errors import FailedPreconditionError, InvalidArgumentError

if TYPE_CHECKING:
    from PIL import Image
    from rich.progress import Progress, TaskID

    from tessera.cli.reconstructing import Reconstructed
    from tessera.tasks.ptychography.metrics import Correlation

LIBRARIES = ("matplotlib", "skimage")
DEFAULT_ITERATIONS = 50
"""Passes of an engine if the plan does not say how many."""


@dataclass
class Watcher:
    """Shows progress as a bar on stderr, and writes previews as files that an image viewer may follow.

    Args:
        title: What the bar stands for.
        iterations: Passes that an engine makes at most.
        previews: Directory for previews; None: they are not asked for.
    """

    title: str
    iterations: int = DEFAULT_ITERATIONS
    previews: Path | None = None
    _bar: "Progress | None" = field(default=None, init=False)
    _task: "TaskID | None" = field(default=None, init=False)

    @contextmanager
    def shown(self) -> "Iterator[Watcher]":
        """Show the bar as long as the block lasts."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"), TimeElapsedColumn())
        with Progress(*columns, console=output.stderr()) as self._bar:
            self._task = self._bar.add_task(self.title, total=None, detail="")
            yield self

    def progressed(self, progress: pb.ReconstructionProgress, frames: int) -> None:
        """Move the bar: frames that arrive, then frames that the network sees, then passes of the engine."""
        if progress.iteration:
            stage = (progress.iteration, self.iterations, f"pass {progress.iteration}, Fourier error {progress.fourier_error:.4g}")
        elif progress.frames_done:
            stage = (progress.frames_done, frames, f"{progress.frames_done} of {frames} frames seen")
        else:
            stage = (progress.frames, frames, f"{progress.frames} of {frames} frames sent")
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=stage[0], total=stage[1], detail=stage[2])

    def previewed(self, preview: pb.ReconstructionPreview) -> None:
        """Replace the files of the last preview."""
        if self.previews is None:
            return
        for name, image in (("amplitude", preview.amplitude), ("phase", preview.phase)):
            fresh = self.previews / f".preview_{name}.png"
            fresh.write_bytes(image)
            fresh.replace(self.previews / f"preview_{name}.png")  # at once: a viewer never sees half a picture


def draw(done: "Reconstructed", directory: Path, curves: "Mapping[str, Correlation]", target: float = 0.0) -> list[Path]:
    """Write the pictures of a reconstruction, and of the curves if there are any, and return their paths."""
    from tessera.tasks.ptychography import pictures

    shown = done.illuminated()
    drawn = {
        "amplitude": pictures.draw_amplitude(done.object[shown], done.tensors["weight"][shown]),
        "phase": pictures.draw_phase(done.object[shown], done.tensors["weight"][shown]),
        "positions": pictures.draw_positions(done.scan.positions, done.tensors["positions"]),
    }
    if done.probe is not None:
        drawn["probe"] = pictures.draw_probe(done.probe)
    if len(done.errors) > 1:
        drawn["errors"] = pictures.draw_errors({done.engine: done.errors}, target)
    if curves:
        drawn["frc"] = pictures.draw_correlations(curves)
    return [save(image, directory / f"{name}.png") for name, image in drawn.items()]


def save(image: "Image.Image", path: Path) -> Path:
    """Write a picture and return its path. Raises InvalidArgumentError if it cannot be written."""
    try:
        image.save(path)
    except OSError as error:
        raise InvalidArgumentError(f"{path}: cannot write the file: {error.strerror}") from error
    return path


def check_libraries() -> None:
    """Raise FailedPreconditionError if what metrics and pictures need is not installed."""
    if missing := [name for name in LIBRARIES if importlib.util.find_spec(name) is None]:
        raise FailedPreconditionError(f"{' and '.join(missing)} missing; install what is needed with `pip install 'tessera[ptychography]'`")
