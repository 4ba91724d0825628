"""The dashboards are those of the code, rules hold what they promise, and every alert says what to do."""

import json
import re
import subprocess

import pytest

from observability.dashboards import DASHBOARDS
from observability.dashboards.__main__ import FOLDER
from observability.dashboards.grafana import to_json
from observability.panels import Dashboard
from observability.questions import RULES, rules
from tests.contract.test_layout import ROOT
from tests.fixtures.prometheus import TOOLS

GUIDE = ROOT / "docs" / "guides" / "alerts.md"
ALERTS = [rule for rule in rules() if "alert" in rule]


def promtool(*arguments: str) -> None:
    done = subprocess.run([TOOLS / "promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.name)
def test_the_file_that_grafana_reads_is_made_from_the_code(dashboard: Dashboard) -> None:
    assert (FOLDER / f"{dashboard.name}.json").read_text() == to_json(dashboard), "run `make dashboards`"


def test_there_is_no_other_dashboard() -> None:
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(dashboard.name for dashboard in DASHBOARDS)


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.name)
def test_no_panel_covers_another_and_each_has_a_number_of_its_own(dashboard: Dashboard) -> None:
    panels = json.loads(to_json(dashboard))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_promtool_takes_the_configuration_and_the_rules() -> None:
    promtool("check", "config", str(RULES.parent / "prometheus.yml"))
    promtool("check", "rules", *map(str, sorted(RULES.glob("*.yml"))))


def test_the_rules_record_and_fire_when_they_should_and_not_otherwise() -> None:
    promtool("test", "rules", *map(str, sorted((RULES / "tests").glob("*.yml"))))


def test_every_alert_is_tried_out() -> None:
    tests = "".join(path.read_text() for path in (RULES / "tests").glob("*.yml"))
    assert {alert["alert"] for alert in ALERTS} == set(re.findall(r"alertname: (\w+)", tests))


def test_every_alert_says_what_it_means_and_leads_to_what_is_to_be_done() -> None:
    headings = {heading.lower() for heading in re.findall(r"^### (\w+)$", GUIDE.read_text(), re.MULTILINE)}
    for alert in ALERTS:
        notes = alert["annotations"]
        assert notes["summary"] and notes["description"], alert["alert"]
        assert alert["labels"]["severity"] in ("page", "ticket"), alert["alert"]
        assert notes["runbook_url"] == f"docs/guides/alerts.md#{alert['alert'].lower()}"
    assert headings == {alert["alert"].lower() for alert in ALERTS}
