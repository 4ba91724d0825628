"""The guides name every metric that there is, with its labels, and none that there is not."""

import json
import re
import subprocess
import sys

import pytest

from tests.contract.test_layout import ROOT

PROCESSES = ("services.registry.__main__", "services.trainer.__main__", "services.inference.__main__", "trainers.worker")
PROBE = """
import importlib, json
for name in {processes}:
    importlib.import_module(name)
import pkgutil, services.inference.typed as typed
for module in pkgutil.iter_modules(typed.__path__):  # loaded when the server starts
    importlib.import_module(f"{{typed.__name__}}.{{module.name}}")
from prometheus_client import REGISTRY
found = {{}}
for collector in list(REGISTRY._collector_to_names):
    if type(collector).__module__ in ("prometheus_client.metrics", "tessera.histogram"):
        for family in collector.collect():
            labels = getattr(collector, "_labels" if type(collector).__module__ == "tessera.histogram" else "_labelnames")
            found[family.name + ("_total" if family.type == "counter" else "")] = sorted(labels)
print(json.dumps(found))
"""
ROW = re.compile(r"^ *\| *((?:`[a-z_]+(?:\{[a-z_,]+\})?`(?:, )?)+) *\|", re.MULTILINE)
ENTRY = re.compile(r"`([a-z_]+)(?:\{([a-z_,]+)\})?`")
OURS = re.compile(r"\b(?:inference|grpc_server|trainer|worker|job|process|tls)_[a-z_]+\b")


@pytest.fixture(scope="module")
def metrics() -> dict[str, list[str]]:
    """Every metric of every process with its labels."""
    probe = subprocess.run([sys.executable, "-c", PROBE.format(processes=PROCESSES)], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(probe.stdout)
    return found


def test_every_metric_stands_in_a_guide_with_its_labels_and_no_other_does(metrics: dict[str, list[str]]) -> None:
    documented = {
        name: sorted(filter(None, labels.split(",")))
        for guide in (ROOT / "docs" / "guides").glob("*.md")
        for row in ROW.findall(guide.read_text())
        for name, labels in ENTRY.findall(row)
        if OURS.fullmatch(name)
    }
    assert documented == metrics


def test_every_query_asks_for_a_metric_that_there_is(metrics: dict[str, list[str]]) -> None:
    shown = {f"{name}{suffix}" for name in metrics for suffix in ("", "_bucket", "_count", "_sum")}
    text = (ROOT / "docs" / "guides" / "observability.md").read_text()
    asked = {name for query in re.findall(r"```(?:promql|sh)\n(.*?)```", text, re.DOTALL) for name in OURS.findall(query)}
    assert asked
    assert asked - shown == set()
