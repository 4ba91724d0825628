"""Our histograms are shown as prometheus_client shows its own."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as Reference
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tessera.histogram import Histogram

parse: Any = text_string_to_metric_families  # without types
generate_openmetrics: Any = openmetrics.generate_latest
BOUNDS = (0.001, 0.5, 1, 2.5)
VALUES = (0.0, 0.001, 0.0011, 0.5, 0.7, 1.0, 2.5, 2.6, 1e9)
TRACE = "0af7651916cd43dd8448eb211c80319c"


def filled(kind: Any) -> CollectorRegistry:
    registry = CollectorRegistry()
    histogram = kind("seconds", "Time", ["model", "code"], buckets=BOUNDS, registry=registry)
    for labels in (("a", "OK"), ("b", 'odd "\\\n')):
        for value in VALUES:
            histogram.labels(*labels).observe(value)
    return registry


@pytest.mark.parametrize("generate", [generate_latest, generate_openmetrics])
def test_the_page_is_that_of_the_reference(generate: Any) -> None:
    def lines(page: bytes) -> list[str]:  # when a series began is left out: nobody asks for it
        return [line for line in page.decode().splitlines() if "_created" not in line]

    assert lines(generate(filled(Histogram))) == lines(generate(filled(Reference)))


def test_a_bucket_shows_its_last_example_where_the_format_has_room_for_it() -> None:
    registry = CollectorRegistry()
    series = Histogram("seconds", "Time", ["model"], BOUNDS, registry).labels("a")
    series.observe(0.6, "1" * 32)
    series.observe(0.7, TRACE)
    series.observe(0.8)
    series.observe(99)
    (family,) = parse(generate_openmetrics(registry).decode())
    examples = {sample.labels["le"]: sample.exemplar for sample in family.samples if sample.exemplar}
    assert list(examples) == ["1.0"]
    assert (examples["1.0"].labels, examples["1.0"].value) == ({"trace_id": TRACE}, 0.7)
    assert TRACE not in generate_latest(registry).decode()


def test_series_are_forgotten_by_their_labels() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "Time", ["model", "code"], BOUNDS, registry)
    for model in ("a", "b"):
        for code in ("OK", "a"):
            histogram.labels(model, code).observe(1)
    histogram.remove_by_labels({"model": "a"})
    assert {sample.labels["model"] for metric in registry.collect() for sample in metric.samples} == {"b"}
    assert registry.get_sample_value("seconds_count", {"model": "b", "code": "a"}) == 1


def test_a_name_is_taken_once() -> None:
    registry = CollectorRegistry()
    Histogram("seconds", "Time", [], BOUNDS, registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Histogram("seconds", "Time", [], BOUNDS, registry)
