"""The figures as tables for people."""

import os
from collections.abc import Iterable
from typing import Any

from benchmarks.serving.protocols import PHASES
from benchmarks.serving.results import DISTURBED_CORES

Row = dict[str, Any]

TITLES = {
    "closed": "Closed loop: each client sends its next request when its last one is answered",
    "open": "Open loop: requests at random times (Poisson), latency from the time at which each was due",
    "batch": "32 pieces in a request",
    "capacity": "Capacity for the overload below: 8 pieces in a request",
    "overload": "Overload: twice that capacity, open loop, each request with a deadline of 250 ms",
}


def tables(rows: list[Row]) -> str:
    """Return one table for each kind of load."""
    lines = [
        f"{os.cpu_count()} CPUs, shared by the load generator and the server; cpu ms: of the server, a request.",
        f"~: something else on the machine took {DISTURBED_CORES} cores or more.",
    ]
    for mode, title in TITLES.items():
        chosen = [row for row in rows if row["mode"] == mode]
        if chosen:
            lines += ["", title, _head(mode), *(_line(row) for row in sorted(chosen, key=_order))]
    lines += ["", "Where the time goes with 1 client, ms at p50 (phases: means told by the server)", _phase_head()]
    lines += [_phases(row) for row in rows if row["added_ms"] is not None]
    return "\n".join(lines)


def _order(row: Row) -> tuple[float, float]:
    return row["clients"] if row["mode"] != "overload" else 0, row["rate"] if row["mode"] == "open" else 0


def _head(mode: str) -> str:
    columns = f"{'':32}{'clients':>8}{'rate':>8}{'req/s':>9}{'items/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'p99.9':>9}{'errors':>8}{'cpu ms':>9}"
    return columns + (f"{'of capacity':>12}{'refused':>9}{'in time':>9}" if mode == "overload" else "")


def _line(row: Row) -> str:
    mark = "~" if row["other_cores"] >= DISTURBED_CORES else ""
    mark += " WRONG ANSWERS" if row["wrong"] else ""
    text = f"{row['name']:32}{row['clients']:8}{row['rate'] or '':>8}{row['rps']:9.0f}{row['items_per_s']:9.0f}"
    text += _numbers(row["p50_ms"], row["p99_ms"], row["p999_ms"]) + f"{row['errors']:8}{row['server_cpu_ms']:9.3f}"
    if row["mode"] == "overload":
        text += f"{row['goodput_of_capacity']:12.0%}{row['refused']:9.1%}{row['accepted_in_time']:9.2%}"
    return f"{text} {mark}".rstrip()


def _phase_head() -> str:
    return f"{'':32}{'p50':>9}{'added':>9}" + "".join(f"{phase:>9}" for phase in PHASES) + f"{'the rest':>10}"


def _phases(row: Row) -> str:
    phases = row["phases_ms"]
    text = f"{row['name']:32}" + _numbers(row["p50_ms"], row["added_ms"])
    if phases:
        text += _numbers(*(phases.get(phase) for phase in PHASES)) + f"{row['p50_ms'] - sum(phases.values()):10.2f}"
    return text


def _numbers(*numbers: float | None) -> str:
    return "".join(f"{'':>9}" if number is None else f"{number:9.2f}" for number in numbers)


def names(rows: Iterable[Row]) -> list[str]:
    """Return the names of the rows, each once, in their order."""
    return list(dict.fromkeys(row["name"] for row in rows))
