"""Draw the dashboards without Grafana, from the same queries: `python -m observability.pictures http://127.0.0.1:9090 pictures/`."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import dates, ticker
from matplotlib.figure import Figure

from observability.asking import Prometheus, PrometheusError, Series, Span
from observability.dashboards import DASHBOARDS
from observability.panels import Dashboard, Panel, Query, Unit

COLUMNS = 3
PANEL_INCHES = (6.0, 3.1)
MOST_NAMES = 8
"""More series than these are drawn, but not named."""
FORMATS: dict[Unit, Any] = {
    "short": ticker.EngFormatter(sep=""),
    "reqps": ticker.EngFormatter("/s", sep=" "),
    "s": ticker.EngFormatter("s"),
    "bytes": ticker.EngFormatter("B"),
    "percent": ticker.PercentFormatter(100),
    "percentunit": ticker.PercentFormatter(1),
}
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 8,
    "axes.titlesize": 9,
}


def draw(dashboard: Dashboard, prometheus: Prometheus, span: Span, path: Path) -> None:
    """Draw one dashboard into a PNG file.

    Raises:
        PrometheusError: It does not answer.
        OSError: The file cannot be written.
    """
    moves = [(one.times[0], annotation.text) for annotation in dashboard.annotations for one in prometheus.ask(annotation.expr, span)]
    heights = [-(-len(row.panels) // COLUMNS) for row in dashboard.rows]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(COLUMNS * PANEL_INCHES[0], sum(heights) * PANEL_INCHES[1]), layout="constrained")
        figure.suptitle(dashboard.title, fontsize=14)
        parts = np.atleast_1d(figure.subfigures(len(heights), 1, height_ratios=heights))
        for row, part, lines in zip(dashboard.rows, parts, heights, strict=True):
            part.suptitle(row.title, x=0.01, ha="left", fontweight="bold")
            columns = min(COLUMNS, len(row.panels))
            axes = part.subplots(lines, columns, squeeze=False).flat
            for panel, axis in zip(row.panels, axes, strict=False):
                _draw_panel(panel, prometheus, span, axis)
                for at, _ in moves:
                    axis.axvline(_date(at), color="purple", linestyle=":", linewidth=1)
            for axis in list(axes)[len(row.panels) :]:
                axis.axis("off")
        figure.savefig(path, dpi=90)


def _draw_panel(panel: Panel, prometheus: Prometheus, span: Span, axis: Any) -> None:
    axis.set_title(panel.title, loc="left")
    axis.yaxis.set_major_formatter(FORMATS[panel.unit])
    axis.xaxis.set_major_formatter(dates.ConciseDateFormatter(axis.xaxis.get_major_locator()))
    drawn = [(query, one) for query in panel.queries for one in prometheus.ask(query.expr, span)]
    if not drawn:
        axis.text(0.5, 0.5, panel.none or "no data", transform=axis.transAxes, ha="center", color="grey")
        return
    stacked = [(query, one) for query, one in drawn if panel.stacked and not query.line]
    if stacked:
        times = sorted({at for _, one in stacked for at in one.times})
        axis.stackplot(list(map(_date, times)), [_at(one, times) for _, one in stacked], labels=_names(stacked), alpha=0.7)
    for (query, one), name in zip(drawn, _names(drawn), strict=True):
        if not panel.stacked or query.line:
            axis.plot(list(map(_date, one.times)), one.values, label=name, color="black" if query.line else None, linewidth=1.2)
    axis.set_ylim(bottom=0)
    if len(drawn) <= MOST_NAMES:
        axis.legend(fontsize=6, loc="upper left", frameon=False)


def _at(series: Series, times: Sequence[float]) -> list[float]:
    """Return the values of a series at these times, 0 where it has none."""
    values = dict(zip(series.times, np.nan_to_num(series.values).tolist(), strict=True))
    return [values.get(at, 0.0) for at in times]


def _names(drawn: Sequence[tuple[Query, Series]]) -> list[str]:
    names = []
    for query, one in drawn:
        name = query.legend
        for label, value in one.labels.items():
            name = name.replace(f"{{{{{label}}}}}", value)
        names.append(name)
    return names


def _date(at: float) -> Any:
    return dates.date2num(datetime.fromtimestamp(at, UTC))


def main() -> int:
    """Draw every dashboard; return 1 if Prometheus does not answer."""
    parser = argparse.ArgumentParser(prog="python -m observability.pictures", description=__doc__.splitlines()[0])
    parser.add_argument("url", help="of Prometheus")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--minutes", type=float, default=15.0, help="how far to look back (15)")
    parser.add_argument("--rate-interval", default="1m", help="over which rates are taken, at least four scrapes (1m)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    prometheus, span = Prometheus(options.url), Span(options.minutes, options.rate_interval)
    try:
        for dashboard in DASHBOARDS:
            draw(dashboard, prometheus, span, options.folder / f"{dashboard.name}.png")
    except PrometheusError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
