"""What the check of dashboards calls wrong."""

import pytest

from observability import check as module
from observability.asking import PrometheusError, Series, Span
from observability.check import check
from observability.questions import Question
from tests.fixtures.ports import free_port

SPAN = Span(minutes=1, rate_interval="8s")


class KnowsUp:
    """A Prometheus whose targets export a counter and a gauge, and where only `up` has a value."""

    def metrics(self) -> set[str]:
        return {"calls", "temperature"}

    def ask(self, expr: str, span: Span) -> list[Series]:
        if "/ refused" in expr:
            raise PrometheusError("bad_data: many-to-many matching not allowed")
        return [Series({"job": "registry"}, [1.0], [1.0])] if span.fill_in(expr) == "rate(up[8s])" else []


def problems(monkeypatch: pytest.MonkeyPatch, expr: str, none: str, *, where: str = "overview: Rate", all_have_data: bool = False) -> str:
    monkeypatch.setattr(module, "questions", lambda: [Question(where, expr, none)])
    (found,) = check(KnowsUp(), SPAN, all_have_data=all_have_data)  # type: ignore[arg-type]
    return found.problem


@pytest.mark.parametrize(
    ("expr", "none", "problem"),
    [
        ("rate(up[$__rate_interval])", "", ""),
        ("temperature", "", "no data"),
        ("temperature", "no errors", ""),
        ('sum by (job) (rate(calls_total{model=~"$model"}[$__rate_interval])) + misspelt_total', "", "nobody exports misspelt_total"),
        ("rate(up[5m]) + on (missing) slo:burn:1h", "no errors", ""),
        ("up + 1 / not:recorded", "no errors", "nobody exports not:recorded"),
    ],
)
def test_metrics_that_nobody_exports_and_panels_without_data_are_told(
    monkeypatch: pytest.MonkeyPatch, expr: str, none: str, problem: str
) -> None:
    assert problems(monkeypatch, expr, none) == problem


def test_what_tells_of_faults_can_be_asked_to_have_data_but_alerts_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert problems(monkeypatch, "temperature", "no errors", all_have_data=True) == "no data"
    assert problems(monkeypatch, "temperature", "it does not fire", where="alert: Hot", all_have_data=True) == ""


def test_the_reason_of_a_refusal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KnowsUp, "metrics", lambda _: {"refused"})
    assert problems(monkeypatch, "up / refused", "") == "bad_data: many-to-many matching not allowed"


def test_a_prometheus_that_is_away_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setattr("sys.argv", ["check", url])
    assert module.main() == 1
    assert f"error: {url} does not answer as a Prometheus does" in capsys.readouterr().err
