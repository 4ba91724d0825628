"""Asks a Prometheus over HTTP."""

import math
import time
from dataclasses import dataclass
from typing import Any

import urllib3

TIMEOUT_S = 30.0


class PrometheusError(Exception):
    """Prometheus cannot be reached, or cannot answer; the message says why."""


@dataclass(frozen=True)
class Series:
    """One line of an answer.

    Attributes:
        labels: Its labels, the name among them if it has one.
        times: Unix seconds.
        values: One for each time; NaN where there is none.
    """

    labels: dict[str, str]
    times: list[float]
    values: list[float]


@dataclass(frozen=True)
class Span:
    """The time that is asked about.

    Attributes:
        minutes: Until now.
        rate_interval: What Grafana would put in place of `$__rate_interval`, at least four scrapes: "1m".
        points: How many values each series gets at most.
    """

    minutes: float = 30.0
    rate_interval: str = "1m"
    points: int = 240

    @property
    def step_s(self) -> float:
        """Seconds between two values."""
        return max(1.0, self.minutes * 60 / self.points)

    def fill_in(self, expr: str) -> str:
        """Return a query of a dashboard as Prometheus takes it, for everything that its variables offer."""
        return expr.replace("$__rate_interval", self.rate_interval).replace("$model", ".*").replace("$job", ".*")


class Prometheus:
    """A server.

    Args:
        url: Where it answers: `http://127.0.0.1:9090`.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._http = urllib3.PoolManager(timeout=TIMEOUT_S, retries=False)

    def ask(self, expr: str, span: Span) -> list[Series]:
        """Return what a query gives over a span, without series that are never a finite number.

        Raises:
            PrometheusError: It does not answer, or the query is wrong.
        """
        # Queries that are asked one after the other have their values at the same times.
        end = time.time() // span.step_s * span.step_s
        fields = {"query": span.fill_in(expr), "start": str(end - span.minutes * 60), "end": str(end), "step": str(span.step_s)}
        found = []
        for one in self._get("query_range", fields)["result"]:
            times, values = [float(at) for at, _ in one["values"]], [float(value) for _, value in one["values"]]
            if any(map(math.isfinite, values)):
                found.append(Series(one["metric"], times, values))
        return found

    def metrics(self) -> set[str]:
        """Return the names of all metrics that its targets have told of, also of those that have no value yet. Raises PrometheusError."""
        return set(self._get("metadata", {}))

    def _get(self, what: str, fields: dict[str, str]) -> Any:
        try:
            response = self._http.request("GET", f"{self._url}/api/v1/{what}", fields=fields)
            answer = response.json()
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            raise PrometheusError(f"{self._url} does not answer as a Prometheus does: {error}") from error
        if answer.get("status") != "success":
            raise PrometheusError(f"{answer.get('errorType')}: {answer.get('error')}")
        return answer["data"]
