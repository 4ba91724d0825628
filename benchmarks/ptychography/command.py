"""The benchmark's command line."""

import argparse
import asyncio
import json
import platform
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.ptychography import real, simulated
from benchmarks.ptychography.bench import Bench
from benchmarks.ptychography.rows import print_rows
from tessera.cli import output
from tessera.cli.connection import Connection
from tessera.cli.demo.command import REPOSITORY_PICTURE, stack_to_use
from tessera.cli.reconstruction_output import check_libraries
from tessera.cpus import available_cpus
from tessera.errors import InvalidArgumentError, TesseraError
from tessera.stack.home import Home
from tessera.stack.ports import Ports
from tessera.stack.signals import until_signal
from tessera.tasks.images import load_image
from tessera.tasks.ptychography.files import read_scan

TARGET = 0.0165


def main() -> None:
    """Measure, print a table, and write the figures."""
    options = _options()
    begun = time.perf_counter()
    try:
        check_libraries()
        bench = asyncio.run(until_signal(_run(options)))
    except TesseraError as error:
        raise SystemExit(f"ptycho: {error.message}") from None
    if bench is None:
        raise SystemExit(130)
    print_rows(bench.rows)
    minutes = (time.perf_counter() - begun) / 60
    output.note(f"{minutes:.1f} min; pictures in {options.pictures}")
    if options.json:
        figures = {"scan": str(options.scan), "target": options.target, **_machine(), "minutes": round(minutes, 1)}
        options.json.write_text(json.dumps(figures | {"rows": [row.as_dict() for row in bench.rows]}, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="ptycho", description="What ptychographic reconstructions cost, and how good they are.")
    parser.add_argument("--scan", type=Path, required=True, help="a recorded scan with its probe: .npz, .npz.bz2, CXI, HDF5, .safetensors")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file")
    parser.add_argument("--pictures", type=Path, metavar="DIR", default=Path("ptycho-benchmark"), help="default: %(default)s")
    parser.add_argument("--target", type=float, default=TARGET, help="Fourier error at which engines stop; default: %(default)s")
    parser.add_argument("--picture", type=Path, default=REPOSITORY_PICTURE, help="photograph for simulated scans")
    parser.add_argument("--frames", type=int, default=512, help="of each simulated scan; default: %(default)s")
    parser.add_argument("--long", type=int, default=4096, help="frames of the scan for the throughput; default: %(default)s")
    parser.add_argument("--epochs", type=int, help="of every training, for a quick try; default: those of its recipe")
    parser.add_argument("--only", choices=("real", "simulated"), help="measure these scans alone")
    parser.add_argument("--home", type=Path, help="keep the stack's data here and use its versions again; default: a temporary directory")
    parser.add_argument("--port-base", type=int, default=9300, help="of the stack; default: %(default)s")
    return parser.parse_args()


async def _run(options: argparse.Namespace) -> Bench:
    scan = read_scan(options.scan)
    if scan.probe is None:
        raise InvalidArgumentError("the scan has no probe; engines need one to begin with")
    options.pictures.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tessera-benchmark-")))
        home = Home(options.home or folder / "home")
        home.make()
        async with stack_to_use(Connection(home.path), home, Ports(options.port_base)) as used, used.client() as client:
            bench = Bench(client, options.pictures, options.epochs)
            if options.only != "simulated":
                await real.measure(bench, scan, options.scan, options.target)
            if options.only != "real":
                await simulated.measure(bench, load_image(options.picture), options.frames, options.long, folder)
    return bench


def _machine() -> dict[str, Any]:
    return {"date": f"{datetime.now(UTC):%Y-%m-%d}", "cpus": available_cpus(), "python": platform.python_version()}
