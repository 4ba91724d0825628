"""The dashboards: one module each says what it shows; `python -m observability.dashboards` writes what Grafana reads."""

from observability.dashboards.overview import OVERVIEW
from observability.dashboards.runtimes import RUNTIMES
from observability.dashboards.training import TRAINING

DASHBOARDS = (OVERVIEW, TRAINING, RUNTIMES)
