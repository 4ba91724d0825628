"""What ends early again and again is started again ever later; what has run for long, at once."""

from types import SimpleNamespace

import pytest

from tessera.client.calls import FIRST_PAUSE_S, LONGEST_PAUSE_S
from tessera.restarts import SETTLED_S, Restarts


class Life:
    """Something that runs and ends, in a time of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.restarts = Restarts()
        self._now = 1000.0
        monkeypatch.setattr("tessera.restarts.time", SimpleNamespace(monotonic=lambda: self._now))

    def run(self, seconds: float) -> float:
        """Start it, let it end after so many seconds, and return how long it has to wait then."""
        self.restarts.started()
        self._now += seconds
        return self.restarts.ended()


@pytest.fixture
def life(monkeypatch: pytest.MonkeyPatch) -> Life:
    return Life(monkeypatch)


def test_what_ends_early_waits_longer_each_time_and_never_too_long(life: Life) -> None:
    pauses = [life.run(SETTLED_S / 2) for _ in range(50)]
    assert life.restarts.failures == 50
    assert pauses[0] <= FIRST_PAUSE_S < pauses[3] < pauses[6]
    assert all(LONGEST_PAUSE_S / 2 <= pause <= LONGEST_PAUSE_S for pause in pauses[6:])


def test_what_has_run_for_long_is_started_again_at_once(life: Life) -> None:
    for _ in range(9):
        life.run(0)
    assert life.run(SETTLED_S + 1) <= FIRST_PAUSE_S
    assert life.restarts.failures == 1
