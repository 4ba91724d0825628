"""Every query that there is: of panels, annotations and rules."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from observability.dashboards import DASHBOARDS
from observability.panels import Dashboard

RULES = Path(__file__).parent / "prometheus" / "rules"


@dataclass(frozen=True)
class Question:
    """One query.

    Attributes:
        where: Where it stands: "overview: Rate".
        expr: PromQL, with the variables of its dashboard.
        none: What it means that there is no answer; empty where there must be one.
    """

    where: str
    expr: str
    none: str


def rules() -> list[dict[str, Any]]:
    """Return all rules, as Prometheus reads them."""
    files = (yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yml")))
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def questions() -> list[Question]:
    """Return every query."""
    asked = [question for dashboard in DASHBOARDS for question in _of(dashboard)]
    for rule in rules():
        if "record" in rule:
            asked.append(Question(f"rule: {rule['record']}", rule["expr"], ""))
        else:
            asked.append(Question(f"alert: {rule['alert']}", rule["expr"], "it does not fire"))
    return asked


def _of(dashboard: Dashboard) -> Iterator[Question]:
    for panel in dashboard.panels:
        for query in panel.queries:
            yield Question(f"{dashboard.name}: {panel.title}", query.expr, panel.none)
    for annotation in dashboard.annotations:
        yield Question(f"{dashboard.name}: {annotation.name}", annotation.expr, "nothing has happened")


def selectors(expr: str) -> list[promql_parser.VectorSelector]:
    """Return every selector of a query (`up{job="worker"}`). Raises ValueError if it is not PromQL."""
    found = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expr), visit)
    return found
