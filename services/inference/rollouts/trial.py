"""One rollout on one server: who answers which call, and how both versions do."""

import random
import time
from collections.abc import Callable

from services.inference.calls import Ended, Watcher
from services.inference.rollouts.guard import Breach, judge
from services.inference.rollouts.metrics import HALTED, LATENCY, REQUESTS, ROLLBACKS, WEIGHT
from services.inference.rollouts.shadows import Shadows, Spawn
from services.inference.rollouts.splitting import drawn, position
from services.inference.rollouts.windows import FAULTS, Summary, Window
from services.inference.served import ServedModel
from tessera.api.registry.v1.registry_pb2 import Rollout

JUDGEMENTS = 20
"""How often the candidate is judged while it answers `min_requests`."""


class Arm:
    """One of the two versions of a rollout, and what it has answered.

    Args:
        rollout: The rollout.
        name: `stable` or `candidate`.
        clock: Answers the present, seconds.
    """

    def __init__(self, rollout: Rollout, name: str, clock: Callable[[], float]) -> None:
        self.window = Window(clock)
        labels = (rollout.model, rollout.alias, name)
        self._latency = LATENCY.labels(*labels)
        self._outcomes = {outcome: REQUESTS.labels(*labels, outcome) for outcome in ("ok", "failed", "rejected")}

    def count(self, call: Ended) -> None:
        """Count a call."""
        if call.code == "OK":
            self._outcomes["ok"].inc()
            self._latency.observe(call.seconds)
            self.window.add(call.seconds)
        elif call.code in FAULTS:
            self._outcomes["failed"].inc()
            self.window.add(None)
        else:
            self._outcomes["rejected"].inc()


class Trial:
    """One rollout on this server, from its first event to its end; all on the event loop.

    Args:
        rollout: As the registry has it.
        on_breach: Called once when the candidate is found worse than allowed; again only after the rollout was changed.
        spawn: Runs a coroutine in the background.
        source: Where chance comes from.
        clock: Answers the present, seconds.
    """

    def __init__(
        self,
        rollout: Rollout,
        on_breach: Callable[["Trial", Breach], None],
        spawn: Spawn,
        source: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rollout = rollout
        self.halted: Breach | None = None
        self.stable = Arm(rollout, "stable", clock)
        self.candidate = Arm(rollout, "candidate", clock)
        self.shadows = Shadows(rollout.model, rollout.alias, spawn)
        self._on_breach = on_breach
        self._source = source
        self._unjudged = 0
        self.follow(rollout)

    def follow(self, rollout: Rollout) -> None:
        """Take over a change. Whoever made it knows better: a candidate that was halted here gets another chance, and is judged again."""
        self.rollout = rollout
        self.halted = None
        WEIGHT.labels(rollout.model, rollout.alias).set(rollout.weight_percent)
        HALTED.labels(rollout.model, rollout.alias).set(0)

    def end(self) -> None:
        """Take leave of /metrics."""
        for gauge in (WEIGHT, HALTED):
            gauge.remove_by_labels({"model": self.rollout.model, "alias": self.rollout.alias})

    def chooses_candidate(self, sticky_key: str) -> bool:
        """Tell whether the candidate shall answer a call, if it can."""
        if self.halted:
            return False
        if sticky_key:
            return position(self.rollout.model, self.rollout.alias, sticky_key) < self.rollout.weight_percent
        return drawn(self.rollout.weight_percent, self._source)

    def watch_stable(self, candidate: Callable[[], ServedModel | None]) -> Watcher:
        """Return what shall watch a call that the stable version answers.

        Args:
            candidate: Returns the candidate if it is ready. Asked when the call ends: it may have been unloaded since the call began.
        """
        if self.halted or not drawn(self.rollout.shadow_percent, self._source):
            return self.stable.count

        def watch(call: Ended) -> None:
            self.stable.count(call)
            if call.code == "OK" and (ready := candidate()):
                self.shadows.begin(ready, call)

        return watch

    def watch_candidate(self, call: Ended) -> None:
        """Count a call that the candidate answered, and judge it now and then."""
        self.candidate.count(call)
        self._unjudged += 1
        if self.halted or self._unjudged < self.rollout.guard.min_requests / JUDGEMENTS:
            return
        self._unjudged = 0
        if breach := judge(self.rollout.guard, *self.summaries()):
            self.halted = breach
            HALTED.labels(self.rollout.model, self.rollout.alias).set(1)
            ROLLBACKS.labels(self.rollout.model, self.rollout.alias, breach.cause).inc()
            self._on_breach(self, breach)

    def summaries(self) -> tuple[Summary, Summary]:
        """Return what the stable version and the candidate did within the guard's window."""
        window_s = self.rollout.guard.window.ToTimedelta().total_seconds()
        return self.stable.window.summary(window_s), self.candidate.window.summary(window_s)
