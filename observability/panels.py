"""What dashboards consist of, as plain data: Grafana's JSON, pictures and tests are all made from it.

Queries may name `$model`, `$job` (variables of their dashboard, regular expressions) and `$__rate_interval` (Grafana's own).
"""

from dataclasses import dataclass
from typing import Literal

Unit = Literal["short", "percentunit", "percent", "reqps", "s", "bytes"]
"""How Grafana writes a value: as it is, as a part of 1 or of 100, a second, in seconds, in bytes."""


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        expr: PromQL.
        legend: Name of its series; `{{label}}` stands for the value of a label.
        line: Draw it as a line of its own where the others are stacked.
    """

    expr: str
    legend: str
    line: bool = False


@dataclass(frozen=True)
class Panel:
    """One graph over time.

    Attributes:
        title: Above it.
        description: What it tells, and what to look for.
        unit: Of its values.
        queries: What it shows.
        stacked: Whether its series lie on top of each other.
        none: What it means that there is no data ("no errors"); empty for a panel that always has some.
    """

    title: str
    description: str
    unit: Unit
    queries: tuple[Query, ...]
    stacked: bool = False
    none: str = ""


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Annotation:
    """Something that happened, drawn as a line through all panels.

    Attributes:
        name: Of the kind of event.
        expr: PromQL; has a value while the event is to be shown.
        text: What stands at the line; `{{label}}` stands for the value of a label.
        colour: Of the line.
    """

    name: str
    expr: str
    text: str
    colour: str


@dataclass(frozen=True)
class Variable:
    """A choice at the top of a dashboard.

    Attributes:
        name: Of the label.
        metric: Whose values of that label are offered.
    """

    name: str
    metric: str


@dataclass(frozen=True)
class Dashboard:
    """A page of panels; its file and its address in Grafana are called after its name."""

    name: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    annotations: tuple[Annotation, ...]
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, from the top."""
        return tuple(panel for row in self.rows for panel in row.panels)
