"""From the outcomes of several rounds to the figures of a row."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.serving.jobs import Load, Outcome

DISTURBED_CORES = 0.3
"""If something else on the machine took more than this, the figures say less."""


@dataclass
class Result:
    """What one row showed under one load.

    Args:
        name: Of the row.
        load: What it was put under; the rate of an overload differs from round to round.
        outcomes: One a round.
    """

    name: str
    load: Load
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def rps(self) -> float:
        """Answers a second, the median of the rounds."""
        return statistics.median(len(one.seconds) / one.wall_s for one in self.outcomes)

    @property
    def wrong(self) -> int:
        """Answers that were not right."""
        return sum(one.wrong for one in self.outcomes)

    def percentile_ms(self, percent: float) -> float | None:
        """Return a percentile of all latencies, None without any."""
        seconds = [second for one in self.outcomes for second in one.seconds]
        return round(float(np.percentile(seconds, percent)) * 1000, 3) if seconds else None

    def row(self, raw_p50_ms: float | None) -> dict[str, Any]:
        """Return the figures, for a table and for JSON.

        Args:
            raw_p50_ms: Latency of the bare call, to tell what a server adds; only where one request is under way at a time.
        """
        errors = sum((Counter(one.errors) for one in self.outcomes), Counter())
        answered = max(1, sum(len(one.seconds) for one in self.outcomes))
        wall_s = sum(one.wall_s for one in self.outcomes)
        p50_ms = self.percentile_ms(50)
        added_ms = (
            round(p50_ms - raw_p50_ms, 3) if p50_ms and raw_p50_ms and self.load.mode == "closed" and self.load.clients == 1 else None
        )
        return {
            "name": self.name,
            "mode": self.load.mode,
            "clients": self.load.clients,
            "rate": round(self.load.rate, 1),
            "items": self.load.items,
            "rps": round(self.rps, 1),
            "items_per_s": round(self.rps * self.load.items, 1),
            "p50_ms": p50_ms,
            "p99_ms": self.percentile_ms(99),
            "p999_ms": self.percentile_ms(99.9),
            "errors": errors.total(),
            "errors_by_code": dict(errors),
            "server_cpu_ms": round(sum(one.server_cpu_s for one in self.outcomes) / answered * 1000, 4),
            "client_cpu_ms": round(sum(one.client_cpu_s for one in self.outcomes) / answered * 1000, 4),
            "other_cores": round(sum(one.other_cpu_s for one in self.outcomes) / wall_s, 2),
            "added_ms": added_ms,
            "phases_ms": self._phases_ms(),
            "checked": sum(one.checked for one in self.outcomes),
            "wrong": self.wrong,
            "rounds": [round(len(one.seconds) / one.wall_s, 1) for one in self.outcomes],
        }

    def _phases_ms(self) -> dict[str, float]:
        told = [one.phases_ms for one in self.outcomes if one.phases_ms]
        return {phase: round(statistics.mean(one[phase] for one in told), 4) for phase in (told[0] if told else ())}


def rows(results: Sequence[Result], raw: str) -> list[dict[str, Any]]:
    """Return the figures of all results; `raw` is the name of the row of bare calls. An overload is set against its row's capacity."""
    bare = [one for one in results if one.name == raw and one.load == Load("closed", 1)]
    raw_p50_ms = bare[0].percentile_ms(50) if bare else None
    capacities = {one.name: one.rps for one in results if one.load.mode == "capacity"}
    return [
        one.row(None if one.name == raw else raw_p50_ms) | (_overload(one, capacities[one.name]) if one.load.mode == "overload" else {})
        for one in results
    ]


def _overload(result: Result, capacity: float) -> dict[str, Any]:
    errors = sum((Counter(one.errors) for one in result.outcomes), Counter())
    answered = sum(len(one.seconds) for one in result.outcomes)
    offered = answered + errors.total()
    refused = errors["RESOURCE_EXHAUSTED"]
    return {
        "capacity_rps": round(capacity, 1),
        "goodput_of_capacity": round(result.rps / capacity, 3),
        "refused": round(refused / offered, 4),
        "accepted_in_time": round(answered / max(1, offered - refused), 4),
    }
