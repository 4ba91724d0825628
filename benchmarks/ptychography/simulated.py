"""Scans that were simulated, with a truth: a network that learns from frames, its supervised twin, and engines, at equal data."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.ptychography.bench import ENGINE, Bench, Model
from benchmarks.ptychography.rows import Row
from tessera.cli.demo.ptycho import DIFFUSER, PHOTONS, RECIPE, SIZE, SPACING, simulated_halves
from tessera.tasks.ptychography import pictures
from tessera.tasks.ptychography.alignment import remove_plane
from tessera.tasks.ptychography.files import write_scan
from tessera.tasks.ptychography.metrics import aligned
from tessera.tasks.ptychography.scan import Scan
from tessera.tasks.ptychography.simulation import beam, object_from_picture, simulate

NETWORK = "resnet"
LEARNING = {
    "network": {"supervision": "physics", "overlap": 6, "epochs": 4},
    "twin": {"supervision": "supervised", "epochs": 24},
}
"""From frames alone, each with five neighbours, and from the true object: both see as many patches of the same frames."""
ENGINES = ("rpie", "lsqml")
PASSES = 30
LIKE, UNLIKE, LONG = "photo", "spokes", "photo, long"
"""The scans: the other half of the photograph that the networks learnt from; an object of another kind; the first again and again."""


async def measure(bench: Bench, picture: Image.Image, frames: int, long: int, folder: Path) -> None:
    """Add the rows of simulated scans.

    Args:
        bench: Where to.
        picture: A photograph; the networks learn from its left half.
        frames: Of each scan.
        long: Frames of the scan for the throughput.
        folder: For files of scans.
    """
    training, test = simulated_halves(picture, frames)
    files = {name: folder / f"{name}.safetensors" for name in ("scan", "validation")}
    for file, scan in zip(files.values(), (training, test), strict=True):
        write_scan(file, scan)
    networks = {
        name: await bench.model(f"{name}-{SIZE}", NETWORK, files, {"size": SIZE}, RECIPE | learning) for name, learning in LEARNING.items()
    }
    engines = {name: await bench.model(f"{name}-{SIZE}", name, {"scan": files["validation"]}, {"size": SIZE}, ENGINE) for name in ENGINES}
    for kind, scan in ((LIKE, test), (UNLIKE, spokes(frames))):
        await _compare(bench, kind, scan, networks, engines)
    repeats = -(-long // frames)
    long_scan = Scan(np.tile(test.amplitudes, (repeats, 1, 1))[:long], np.tile(test.positions, (repeats, 1))[:long], test.probe)
    for runtime in networks["network"].runtimes:
        done = await bench.reconstruct(long_scan, networks["network"], runtime=runtime)
        bench.add(LONG, f"network, served by {runtime}", done)


async def _compare(bench: Bench, kind: str, scan: Scan, networks: Mapping[str, Model], engines: Mapping[str, Model]) -> None:
    """Add the rows of one scan with a truth, and draw the objects side by side."""
    first = len(bench.rows)
    for name, network in networks.items():
        done = await bench.reconstruct(scan, network)
        bench.add(kind, f"{name}, served", done, done.comparison().figures())
    done = await bench.reconstruct(scan, networks["network"], refine=engines["rpie"], iterations=PASSES)
    bench.add(kind, "network + rpie, served", done, done.comparison().figures())
    for name, engine in engines.items():
        done = await bench.reconstruct(scan, engine, iterations=PASSES)
        bench.add(kind, f"{name}, served", done, done.comparison().figures())
    _draw(bench.rows[first:], bench.pictures / f"{kind}-objects.png")
    curves = {row.engine: row.done.comparison().correlation for row in bench.rows[first:]}
    pictures.draw_correlations(curves).save(bench.pictures / f"{kind}-frc.png")


def spokes(frames: int, *, seed: int = 2) -> Scan:
    """Return a scan of a Siemens star with 24 spokes: sharp edges, two values, nothing like a photograph."""
    side = SIZE + int(np.ceil(SPACING * np.sqrt(frames)))
    y, x = np.indices((side, side)) - side / 2
    bright = (np.sin(24 * np.arctan2(y, x)) > 0) & (np.hypot(x, y) < 0.45 * side)
    drawing = Image.fromarray(np.where(bright, 255, 64).astype(np.uint8))
    drawn, probe = object_from_picture(drawing, side, side), beam(SIZE, diffuser=DIFFUSER)
    return simulate(drawn, size=SIZE, frames=frames, layout="raster", photons=PHOTONS, seed=seed, probe=probe)


def _draw(rows: list[Row], file: Path) -> None:
    """Draw the truth and what came of it side by side."""
    pairs = {row.engine: aligned(*row.done.beside_truth()) for row in rows}
    least = np.min([found.shape for found, _ in pairs.values()], axis=0)
    objects = {"truth": next(iter(pairs.values()))[1]} | {name: found for name, (found, _) in pairs.items()}
    pictures.draw_objects({name: remove_plane(found[: least[0], : least[1]]) for name, found in objects.items()}).save(file)
