"""Write the dashboards for Grafana: `python -m observability.dashboards`."""

from pathlib import Path

from observability.dashboards import DASHBOARDS
from observability.dashboards.grafana import to_json

FOLDER = Path(__file__).parents[1] / "grafana" / "dashboards"


def main() -> None:
    """Write one file for each dashboard."""
    for dashboard in DASHBOARDS:
        (FOLDER / f"{dashboard.name}.json").write_text(to_json(dashboard))


if __name__ == "__main__":
    main()
