"""Numbers on /metrics that are more than a count: versions of aliases, times of epochs."""

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from services.inference.metrics import AliasGauge
from trainers.metrics import EpochTimes


def epochs_of(family: str) -> tuple[float, float]:
    """Return how many epochs were measured, and their seconds together."""
    labels = {"family": family}
    count, seconds = (REGISTRY.get_sample_value(f"worker_epoch_seconds_{part}", labels) or 0.0 for part in ("count", "sum"))
    return count, seconds


def test_aliases_that_are_gone_are_forgotten() -> None:
    gauge = AliasGauge("inference_test_alias_version", "For this test")

    def shown() -> dict[str, float]:
        samples = [sample for family in REGISTRY.collect() for sample in family.samples if sample.name == "inference_test_alias_version"]
        return {f"{sample.labels['model']}@{sample.labels['alias']}": sample.value for sample in samples}

    gauge.show({("puzzle", "champion"): 1, ("puzzle", "candidate"): 2})
    assert shown() == {"puzzle@champion": 1, "puzzle@candidate": 2}
    gauge.show({("puzzle", "champion"): 2})
    assert shown() == {"puzzle@champion": 2}


@pytest.fixture
def clock() -> Iterator[float]:
    """Seconds 100, 110, 120 and so on."""
    return (100.0 + 10 * step for step in range(100))


def test_an_epoch_lasts_from_the_end_of_the_one_before(clock: Iterator[float]) -> None:
    times = EpochTimes("first", lambda: next(clock))
    times.train()  # at 100
    times.train()
    times.finished(1)
    times.finished(2)
    assert epochs_of("first") == (2, 20.0)


def test_epochs_of_an_earlier_attempt_are_not_measured_again(clock: Iterator[float]) -> None:
    times = EpochTimes("resumed", lambda: next(clock))
    times.finished(1)  # before anything is trained; at 100
    times.resumed(2)
    times.train()  # at 110
    times.finished(1)
    times.finished(2)
    assert epochs_of("resumed") == (0, 0.0)
    times.finished(3)  # at 140
    assert epochs_of("resumed") == (1, 30.0)
