"""Turns our plain data into Grafana's JSON."""

import json
from itertools import count

from grafana_foundation_sdk.builders import common, prometheus, timeseries
from grafana_foundation_sdk.builders import dashboard as grafana
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models

from observability.panels import Annotation, Dashboard, Panel, Query, Variable

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH, HEIGHT = 24, 8
"""Of a row of panels, and of each of them, in Grafana's grid."""


def to_json(dashboard: Dashboard) -> str:
    """Return the file that Grafana reads."""
    built = (
        grafana.Dashboard(dashboard.title)
        .uid(f"tessera-{dashboard.name}")
        .description(dashboard.description)
        .tags(["tessera"])
        .link(grafana.DashboardLink("Tessera").type(models.DashboardLinkType.DASHBOARDS).tags(["tessera"]).keep_time(True))
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .with_variable(grafana.DatasourceVariable("datasource").label("data source").type("prometheus"))
    )
    for variable in dashboard.variables:
        built.with_variable(_variable(variable))
    for annotation in dashboard.annotations:
        built.annotation(_Annotation(annotation))
    numbers = count(1)
    for row in dashboard.rows:
        built.with_row(grafana.Row(row.title).id(next(numbers)))
        width = WIDTH // (4 if len(row.panels) % 4 == 0 else min(len(row.panels), 3))
        for panel in row.panels:
            built.with_panel(_panel(panel).id(next(numbers)).span(width))
    return json.dumps(built.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _variable(variable: Variable) -> grafana.QueryVariable:
    return (
        grafana.QueryVariable(variable.name)
        .datasource(SOURCE)
        .query(f"label_values({variable.metric}, {variable.name})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(text=["All"], value=["$__all"]))
    )


class _AnnotationOfPrometheus(models.AnnotationQuery):
    """Says what stands at the line, which only annotations from Prometheus have and the library does not know."""

    text = ""

    def to_json(self) -> dict[str, object]:
        return super().to_json() | {"titleFormat": self.text, "step": "10s"}


class _Annotation(Builder[models.AnnotationQuery]):
    def __init__(self, annotation: Annotation) -> None:
        self._annotation = annotation

    def build(self) -> models.AnnotationQuery:
        built = _AnnotationOfPrometheus(
            name=self._annotation.name, datasource=SOURCE, enable=True, icon_color=self._annotation.colour, expr=self._annotation.expr
        )
        built.text = self._annotation.text
        return built


def _panel(panel: Panel) -> timeseries.Panel:
    built = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .datasource(SOURCE)
        .unit(panel.unit)
        .min(0)
        .height(HEIGHT)
        .fill_opacity(40 if panel.stacked else 5)
        .show_points(common_models.VisibilityMode.NEVER)
        .stacking(
            common.StackingConfig().group("A").mode(common_models.StackingMode.NORMAL if panel.stacked else common_models.StackingMode.NONE)
        )
        .tooltip(common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI).sort(common_models.SortOrder.DESCENDING))
        .legend(
            common.VizLegendOptions()
            .display_mode(common_models.LegendDisplayMode.LIST)
            .placement(common_models.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )
    if panel.none:
        built.no_value(panel.none)
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        built.with_target(_target(query, letter))
        if query.line:
            built.override_by_query(
                letter,
                [
                    models.DynamicConfigValue(id_val="custom.stacking", value={"group": "A", "mode": "none"}),
                    models.DynamicConfigValue(id_val="custom.fillOpacity", value=0),
                ],
            )
    return built


def _target(query: Query, letter: str) -> prometheus.Dataquery:
    """Exemplars are asked for with buckets alone, which carry them."""
    return prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(letter).range().exemplar("_bucket" in query.expr)
