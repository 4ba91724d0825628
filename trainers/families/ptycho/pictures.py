"""Pictures of what a network makes of frames that it has not learnt from, and how the family's pictures are written."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from tessera.tasks.ptychography import pictures
from tessera.tasks.ptychography.metrics import aligned
from tessera.tasks.ptychography.signatures import from_channels
from trainers.families.ptycho.data import Frames
from trainers.families.ptycho.evaluate import Reconstruction
from trainers.families.ptycho.networks import PatchNetwork


def draw(network: PatchNetwork, frames: Frames, seen: Reconstruction, directory: Path, stem: str) -> list[Path]:
    """Draw amplitude, phase, probe and positions and, where there is a truth, both side by side and their FRC; return the files."""
    drawings = {
        "amplitude": pictures.draw_amplitude(seen.object, seen.weight),
        "phase": pictures.draw_phase(seen.object, seen.weight),
        "probe": pictures.draw_probe(from_channels(network.probe.detach().cpu().numpy())),
        "positions": pictures.draw_positions(frames.scan.positions),
    }
    if seen.truth is not None and seen.found is not None and (comparison := seen.comparison) is not None:
        found, truth = aligned(seen.found, seen.truth)
        drawings["truth"] = pictures.draw_objects({"truth": truth, "network": found})
        drawings["frc"] = pictures.draw_correlations({"network against truth": comparison.correlation})
    return save(drawings, directory, stem)


def save(drawings: Mapping[str, Image.Image], directory: Path, stem: str) -> list[Path]:
    """Write drawings by name as PNG files whose names begin with `stem`, and return them."""
    paths = []
    for name, drawing in drawings.items():
        paths.append(directory / f"{stem}_{name}.png")
        drawing.save(paths[-1])
    return paths
