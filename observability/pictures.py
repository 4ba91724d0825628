"""Draw the dashboards without Grafana, from the same queries: `python -m observability.pictures http://127.0.0.1:9090 pictures/`."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import dates, ticker
from matplotlib.figure import Figure
from numpy.typing import NDArray

from observability.asking import Prometheus, PrometheusError, Series, Span
from observability.dashboards import DASHBOARDS
from observability.panels import Dashboard, Panel, Query, Unit

COLUMNS = 3
PANEL_INCHES = (5.2, 2.6)
MOST_NAMES = 6
"""Of all series these many are named, the largest."""
TICKS_S = (10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400)
STYLE: dict[Any, Any] = {
    **{"axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False},
    **{"font.size": 8, "axes.titlesize": 9, "lines.linewidth": 1.3},
}


def draw(dashboard: Dashboard, prometheus: Prometheus, span: Span, path: Path) -> None:
    """Draw one dashboard into a PNG file.

    Raises:
        PrometheusError: It does not answer.
        OSError: The file cannot be written.
    """
    events = [(one.times[0], event.colour) for event in dashboard.annotations for one in prometheus.ask(event.expr, span)]
    lines = [-(-len(row.panels) // COLUMNS) for row in dashboard.rows]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(COLUMNS * PANEL_INCHES[0], sum(lines) * PANEL_INCHES[1]), layout="constrained")
        figure.suptitle(dashboard.title, fontsize=14)
        for row, part, count in zip(dashboard.rows, figure.subfigures(len(lines), 1, height_ratios=lines), lines, strict=True):
            part.suptitle(row.title, x=0.01, ha="left", fontweight="bold")
            axes = part.subplots(count, COLUMNS, squeeze=False).ravel()
            for panel, axis in zip(row.panels, axes, strict=False):
                _draw_panel(panel, prometheus, span, axis)
                for at, colour in events if axis.has_data() else []:
                    axis.axvline(_date(at), color=colour, linestyle=":", linewidth=1)
            for axis in axes[len(row.panels) :]:
                axis.axis("off")
        figure.savefig(path, dpi=80)


def _draw_panel(panel: Panel, prometheus: Prometheus, span: Span, axis: Any) -> None:
    axis.set_title(panel.title, loc="left")
    drawn = [(query, one) for query in panel.queries for one in prometheus.ask(query.expr, span)]
    if not drawn:
        axis.text(0.5, 0.5, panel.none or "no data", transform=axis.transAxes, ha="center", color="grey")
        axis.set(xticks=[], yticks=[])
        return
    drawn.sort(key=lambda pair: -float(np.nanmax(pair[1].values)))
    names = [_name(query, one) if place < MOST_NAMES else "" for place, (query, one) in enumerate(drawn)]
    first = min(one.times[0] for _, one in drawn)
    moments = np.arange(first, max(one.times[-1] for _, one in drawn) + 0.5 * span.step_s, span.step_s)
    times = list(map(_date, moments))
    below = np.zeros(len(times))
    for (query, one), name in zip(drawn, names, strict=True):
        values = _at(one, moments)
        if panel.stacked and not query.line:
            axis.fill_between(times, below, below + np.nan_to_num(values), label=name, alpha=0.7, linewidth=0)
            below = below + np.nan_to_num(values)
        else:
            axis.plot(times, values, label=name, color="black" if query.line else None)
    axis.margins(y=0.15)
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(_format(panel.unit))
    axis.xaxis.set_major_locator(ticker.MultipleLocator(_tick_s(span) / 86400))
    axis.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S" if span.minutes < 5 else "%H:%M"))
    now = datetime.now(UTC).timestamp()
    axis.set_xlim(_date(now - span.minutes * 60), _date(now))
    axis.legend(fontsize=6, loc="upper left", framealpha=0.6, edgecolor="none")


def _at(series: Series, moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values of a series at evenly spaced times, NaN where it has none."""
    values = np.full(len(moments), np.nan)
    step_s = moments[1] - moments[0] if len(moments) > 1 else 1.0
    values[np.rint((np.array(series.times) - moments[0]) / step_s).astype(int)] = series.values
    return values


def _name(query: Query, series: Series) -> str:
    name = query.legend
    for label in ("job", "instance", "model", "alias", *series.labels):
        name = name.replace(f"{{{{{label}}}}}", series.labels.get(label, ""))
    return name.strip()


def _format(unit: Unit) -> ticker.Formatter:
    formats = {
        "short": ticker.FormatStrFormatter("%g"),
        "reqps": ticker.FormatStrFormatter("%g/s"),
        "s": ticker.FuncFormatter(_seconds),
        "bytes": ticker.EngFormatter("B"),
        "percent": ticker.PercentFormatter(100),
        "percentunit": ticker.PercentFormatter(1),
    }
    return formats[unit]


def _tick_s(span: Span) -> int:
    """Return the seconds between two ticks, so that there are six at most."""
    return next((seconds for seconds in TICKS_S if span.minutes * 60 / seconds <= 6), TICKS_S[-1])


def _seconds(value: float, _position: int) -> str:
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if value >= 2 * size:
            return f"{value / size:.3g} {name}"
    return ticker.EngFormatter("s")(value)


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
