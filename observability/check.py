"""Ask a running Prometheus every query of every dashboard and rule: `python -m observability.check http://127.0.0.1:9090`.

Exits with 1 if a query is refused, names a metric that nobody exports, or has no data where there should be some.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from observability.asking import Prometheus, PrometheusError, Span
from observability.questions import Question, questions, rules, selectors

SUFFIXES = ("", "_total", "_bucket", "_sum", "_count")
"""What the samples of a metric add to its name."""


@dataclass(frozen=True)
class Checked:
    """What came of one query.

    Attributes:
        question: It.
        series: How many it found.
        problem: What is wrong; empty if nothing is.
    """

    question: Question
    series: int
    problem: str


def check(prometheus: Prometheus, span: Span, *, all_have_data: bool = False) -> list[Checked]:
    """Ask every query.

    Args:
        prometheus: Whom.
        span: About which time.
        all_have_data: Whether what tells of faults must have data too, alerts excepted.

    Raises:
        PrometheusError: It does not answer at all.
    """
    known = prometheus.metrics() | {rule["record"] for rule in rules() if "record" in rule} | {"up"}
    return [_check(prometheus, span, question, known, all_have_data) for question in questions()]


def _check(prometheus: Prometheus, span: Span, question: Question, known: set[str], all_have_data: bool) -> Checked:
    if unknown := sorted(_names(span.fill_in(question.expr)) - _samples(known)):
        return Checked(question, 0, f"nobody exports {', '.join(unknown)}")
    try:
        series = len(prometheus.ask(question.expr, span))
    except PrometheusError as error:
        return Checked(question, 0, str(error))
    must_have_data = not question.none or (all_have_data and not question.where.startswith("alert: "))
    return Checked(question, series, "no data" if must_have_data and not series else "")


def _names(expr: str) -> set[str]:
    return {selector.name or "" for selector in selectors(expr)}


def _samples(metrics: Iterable[str]) -> set[str]:
    return {metric + suffix for metric in metrics for suffix in SUFFIXES}


def main() -> int:
    """Print what came of every query; return 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m observability.check", description=__doc__.splitlines()[0])
    parser.add_argument("url", help="of Prometheus")
    parser.add_argument("--minutes", type=float, default=15.0, help="how far to look back (15)")
    parser.add_argument("--rate-interval", default="1m", help="over which rates are taken, at least four scrapes (1m)")
    parser.add_argument("--all", action="store_true", help="panels that tell of faults must have data too")
    options = parser.parse_args()
    try:
        found = check(Prometheus(options.url), Span(options.minutes, options.rate_interval), all_have_data=options.all)
    except PrometheusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for checked in found:
        what = checked.problem or (f"{checked.series} series" if checked.series else checked.question.none)
        print(f"{'FAILED' if checked.problem else 'ok':6}  {checked.question.where}: {what}")
    failed = sum(bool(checked.problem) for checked in found)
    print(f"{len(found)} queries, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
