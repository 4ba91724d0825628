"""What the ptychography demo shows in the end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tessera.cli import output
from tessera.cli.reconstructing import Reconstructed
from tessera.errors import DataLossError
from tessera.tasks.ptychography.metrics import Comparison

TOLERANCE_DB = 0.1
"""Runtimes add up in another order, no more."""


@dataclass(frozen=True)
class Row:
    """One way to reconstruct the scan.

    Args:
        name: Of the way.
        done: What came of it.
        comparison: Against the truth.
    """

    name: str
    done: Reconstructed
    comparison: Comparison

    @classmethod
    def of(cls, name: str, done: Reconstructed) -> Self:
        """Measure a reconstruction of a scan that has a truth."""
        return cls(name, done, done.comparison())


@dataclass(frozen=True)
class Report:
    """What came of the demo.

    Args:
        architecture: Network.
        model: Model of the network.
        version: Its version.
        parameters: Of the network.
        epochs: Trained.
        train_seconds: From the claim of the job to its registration.
        measured: Metrics that training measured in eval mode.
        frames: Of the scan.
        rows: The ways to reconstruct it; the network alone is the first.
        pictures: Where the pictures lie.
    """

    architecture: str
    model: str
    version: int
    parameters: int
    epochs: int
    train_seconds: float
    measured: dict[str, float]
    frames: int
    rows: list[Row]
    pictures: list[Path]

    def check_agreement(self) -> None:
        """Make sure that the served network's object is as good as training measured on the same scan.

        Raises:
            DataLossError: It is not.
        """
        served = self.rows[0].comparison.figures()
        for name in ("amplitude_psnr", "phase_psnr"):
            if abs(served[name] - self.measured[name]) > TOLERANCE_DB:
                raise DataLossError(
                    f"the server's {name} is {served[name]:.3f} dB, training measured {self.measured[name]:.3f} dB: the two do not scale "
                    "frames or put patches together alike"
                )

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain data; `seconds` and `frames_per_s` are as the caller sees them, sending and stitching included."""
        return {
            "architecture": self.architecture,
            "model": self.model,
            "version": self.version,
            "parameters": self.parameters,
            "epochs": self.epochs,
            "train_seconds": round(self.train_seconds, 2),
            "measured_in_training": self.measured,
            "frames": self.frames,
            "rows": [{"name": row.name, **row.done.figures(), **row.comparison.figures()} for row in self.rows],
            "pictures": [str(picture) for picture in self.pictures],
        }

    def show(self) -> None:
        """Print the figures as tables, and where the pictures lie."""
        output.print_fields(
            {
                "model": f"{self.model} version {self.version}: ptycho, {self.architecture}",
                "parameters": f"{self.parameters:,}",
                "trained": f"{self.epochs} epochs in {output.duration_text(self.train_seconds)}, on another half of the photograph",
                "in training": output.metrics_text(self.measured),
                "scan": f"{self.frames} frames, over gRPC",
            }
        )
        output.stdout().print()
        output.print_table(
            ("RECONSTRUCTED BY", "PSNR AMPLITUDE, PHASE, dB", "SSIM", "FRC50", "FOURIER ERROR", "PASSES", "SECONDS", "FRAMES/S"),
            [_cells(row) for row in self.rows],
        )
        output.stdout().print()
        for picture in self.pictures:
            output.stdout().print(str(picture), soft_wrap=True, highlight=False)


def _cells(row: Row) -> tuple[object, ...]:
    found, done = row.comparison, row.done
    return (
        row.name,
        f"{found.amplitude_psnr:.1f}, {found.phase_psnr:.1f}",
        f"{found.amplitude_ssim:.3f}, {found.phase_ssim:.3f}",
        f"{found.correlation.frc50:.3f}",
        f"{done.errors[-1]:.4g}" if done.errors else "-",
        done.iterations,
        f"{done.seconds:.2f}",
        f"{done.frames_per_s:.0f}",
    )
