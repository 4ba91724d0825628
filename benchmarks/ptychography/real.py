"""A scan that was recorded: how long each engine takes to a Fourier error, what a network makes of it, and both together."""

import asyncio
from pathlib import Path

from benchmarks.ptychography.bench import ENGINE, Bench, Model
from benchmarks.ptychography.here import engine, plain_epie, reconstruct_here
from tessera.cli import output
from tessera.cli.demo.ptycho import RECIPE
from tessera.cli.reconstructing import correlate_half_scans
from tessera.client.ptychography import reconstruction_plan
from tessera.tasks.ptychography import pictures
from tessera.tasks.ptychography.scan import Scan

SCAN = "real"
ENGINES = ("rpie", "lsqml")
PASSES = 60
"""Most that an engine may make on its way to the target."""
NETWORK = "resnet"
LEARNING = {"epochs": 3, "overlap": 2}
"""Of the network. It learns from the frames of the scan itself, which needs no truth."""


async def measure(bench: Bench, scan: Scan, file: Path, target: float) -> None:
    """Add the rows of a recorded scan with a probe.

    Args:
        bench: Where to.
        scan: The scan.
        file: Its file.
        target: Fourier error at which an engine stops.
    """
    first = len(bench.rows)
    size = {"size": scan.size}
    done = await asyncio.to_thread(reconstruct_here, scan, "plain ePIE", plain_epie(PASSES, target))
    bench.add(SCAN, "plain ePIE, numpy, one process", done, target=target)
    engines: dict[str, Model] = {}
    for name in ENGINES:
        done = await asyncio.to_thread(reconstruct_here, scan, name, engine(name, scan.size, PASSES, target))
        bench.add(SCAN, f"{name}, one process", done, target=target)
        engines[name] = await bench.model(f"{name}-{scan.size}", name, {"scan": file}, size, ENGINE)
        for runtime in engines[name].runtimes:
            done = await bench.reconstruct(scan, engines[name], runtime=runtime, iterations=PASSES, target_fourier_error=target)
            bench.add(SCAN, f"{name}, served by {runtime}", done, target=target)
    network = await bench.model(f"network-{scan.size}", NETWORK, {"scan": file}, size, RECIPE | LEARNING)
    for runtime in network.runtimes:
        bench.add(SCAN, f"network, served by {runtime}", await bench.reconstruct(scan, network, runtime=runtime))
    for name, refining in engines.items():
        done = await bench.reconstruct(scan, network, refine=refining, iterations=PASSES, target_fourier_error=target)
        figures = {}
        if name == ENGINES[0]:
            output.note("half scans, for a resolution without a truth")
            plan = reconstruction_plan(
                network.name, refine_with=refining.name, iterations=PASSES, target_fourier_error=target, probe=scan.probe
            )
            halves = await correlate_half_scans(bench.client, scan, plan)
            figures = {"half_scan_frc50": halves.frc50, "half_scan_frc_half_bit": halves.frc_half_bit}
        bench.add(SCAN, f"network + {name}, served", done, figures, target=target)
    curves = {row.engine: row.done.errors for row in bench.rows[first:] if len(row.done.errors) > 1}
    pictures.draw_errors(curves, target).save(bench.pictures / f"{SCAN}-errors.png")
