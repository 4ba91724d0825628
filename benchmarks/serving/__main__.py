"""What serving costs: our service beside the bare runtime, a bare gRPC server and TorchServe, on the same network and inputs.

    python -m benchmarks.serving [--seconds 1] [--rounds 2] [--json FILE] [--plot FILE] [--rows NAME]

The rows take turns (A B C A B C), so that a change of the machine meets all of them; the load generator is a process of its own. Every
sixteenth answer is checked. Figures of a busy or a small machine differ by half from one run to the next: compare the rows of one run.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks.serving.jobs import Job, Load, Outcome
from benchmarks.serving.plot import draw
from benchmarks.serving.raw import RawCalls
from benchmarks.serving.report import tables
from benchmarks.serving.results import Result, rows
from benchmarks.serving.rows import CAPACITY, RAW, Row, overload, running

WARM_UP_S = 0.25
"""Before every measurement."""
PREWARM_S = 2.0
"""Before the first one."""
READY_S = 90.0


class Bench:
    """Measures rows; enter it to have a load generator."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._raw = RawCalls()
        self._results: dict[tuple[str, Load], Result] = {}
        command = [sys.executable, "-m", "benchmarks.serving.client"]
        self._client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def close(self) -> list[Result]:
        """End the load generator and return what was measured."""
        self._client.communicate()
        return list(self._results.values())

    def warm_up(self, row: Row) -> str:
        """Wait until a server answers rightly, and let it compile and grow what it does under load; returns why it does not, or ""."""
        deadline = time.monotonic() + READY_S
        while (outcome := self._run(row, Load("closed", 1), 0.2)).wrong or not outcome.seconds:
            if time.monotonic() > deadline or not outcome.errors.keys() <= {"UNAVAILABLE", "INTERNAL", "NOT_FOUND"}:
                return f"{outcome.errors}, {outcome.wrong} of {outcome.checked} answers wrong"
        self._run(row, Load("closed", 32), PREWARM_S)
        return ""

    def measure(self, row: Row, load: Load) -> None:
        """Measure a row once more."""
        key = (row.name, load if load.mode != "overload" else overload(0))
        self._results.setdefault(key, Result(row.name, load)).outcomes.append(self._run(row, load, self._seconds))

    def capacity(self, row: Row) -> float:
        """Return the requests a second of the last measurement of capacity."""
        outcome = self._results[row.name, CAPACITY].outcomes[-1]
        return len(outcome.seconds) / outcome.wall_s

    def _run(self, row: Row, load: Load, seconds: float) -> Outcome:
        if row.target is None:
            return self._raw.run(load, seconds)
        assert self._client.stdin and self._client.stdout
        self._client.stdin.write(json.dumps(asdict(Job(row.target, load, seconds, WARM_UP_S))) + "\n")
        self._client.stdin.flush()
        return Outcome(**json.loads(self._client.stdout.readline()))


def measure(chosen: list[Row], options: argparse.Namespace) -> list[Result]:
    """Measure all rows in turns."""
    bench = Bench(options.seconds)
    turns = options.rounds * (sum(len(row.loads(options.rates)) for row in chosen) + 2 * sum(row.overload for row in chosen))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=turns)
        for row in list(chosen):
            if problem := bench.warm_up(row):
                print(f"{row.name} is left out: {problem}", file=sys.stderr)
                chosen.remove(row)
        for _ in range(options.rounds):
            for number in range(max(len(row.loads(options.rates)) for row in chosen)):
                for row in (row for row in chosen if number < len(row.loads(options.rates))):
                    load = row.loads(options.rates)[number]
                    progress.update(task, advance=1, description=f"{row.name}, {load.mode} {load.clients}")
                    bench.measure(row, load)
            for row in (row for row in chosen if row.overload):
                progress.update(task, advance=2, description=f"{row.name}, overload")
                bench.measure(row, CAPACITY)
                bench.measure(row, overload(bench.capacity(row)))
    return bench.close()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each row is under each load in each round (default 1)")
    parser.add_argument("--rounds", type=int, default=2, help="how often (default 2)")
    parser.add_argument("--rates", type=float, nargs="*", default=[200.0, 600.0], help="of the open loops, requests a second (200 600)")
    parser.add_argument("--rows", default="", help="only rows whose names hold this text")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--plot", type=Path, help="PNG file to draw the closed loops into")
    options = parser.parse_args()
    if options.plot and not importlib.util.find_spec("matplotlib"):
        parser.error("--plot needs matplotlib, which is not installed: pip install matplotlib")
    with tempfile.TemporaryDirectory(prefix="tessera-benchmark-") as folder, running(Path(folder), options.rows) as chosen:
        results = measure(chosen, options)
    figures = rows(results, RAW)
    print(tables(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.plot:
        draw(figures, options.plot)
    if any(result.wrong for result in results):
        raise SystemExit("some answers were wrong")


if __name__ == "__main__":
    main()
