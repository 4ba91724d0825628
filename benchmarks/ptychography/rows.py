"""What the benchmark writes down."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tessera.cli import output
from tessera.cli.reconstructing import Reconstructed

COLUMNS = ("SCAN", "ENGINE", "FOURIER ERROR", "PASSES", "SECONDS", "FRAMES/S", "PSNR dB AMPLITUDE, PHASE", "SSIM", "FRC50")


@dataclass(frozen=True)
class Row:
    """One way to reconstruct one scan.

    Args:
        scan: Which scan.
        engine: What reconstructed it, and where.
        done: What came of it.
        pictures: Files that show it.
        figures: Of its quality, where they can be had: against the truth, or of half scans.
    """

    scan: str
    engine: str
    done: Reconstructed
    pictures: list[Path]
    figures: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON; seconds and frames a second are a caller's: sending, computing and stitching."""
        return {
            "scan": self.scan,
            "engine": self.engine,
            "fourier_error": self.done.errors[-1] if self.done.errors else None,
            "iterations": self.done.iterations,
            "seconds": round(self.done.seconds, 3),
            "frames": len(self.done.scan),
            "frames_per_s": round(self.done.frames_per_s, 1),
            "pictures": [str(path) for path in self.pictures],
            **{name: round(value, 4) for name, value in self.figures.items()},
            "errors": self.done.errors,
        }

    def cells(self) -> tuple[object, ...]:
        """Return it for a table."""
        found = self.figures
        return (
            self.scan,
            self.engine,
            f"{self.done.errors[-1]:.4f}" if self.done.errors else "-",
            self.done.iterations,
            f"{self.done.seconds:.2f}",
            f"{self.done.frames_per_s:.0f}",
            f"{found['amplitude_psnr']:.1f}, {found['phase_psnr']:.1f}" if "amplitude_psnr" in found else "-",
            f"{found['amplitude_ssim']:.3f}, {found['phase_ssim']:.3f}" if "amplitude_ssim" in found else "-",
            f"{found['frc50']:.3f}" if "frc50" in found else "-",
        )


def print_rows(rows: Sequence[Row]) -> None:
    """Print them as a table."""
    output.print_table(COLUMNS, [row.cells() for row in rows])
