"""All rollouts on one server, as the registry has them; what is found worse than allowed is ended there, for all servers."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any

import structlog

from services.inference.leases import VersionKey
from services.inference.rollouts.guard import Breach
from services.inference.rollouts.trial import Trial
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.client.calls import pause_s
from tessera.client.registry import RegistryClient
from tessera.errors import ConflictError, FailedPreconditionError, NotFoundError, TesseraError

log = structlog.get_logger()

AliasKey = tuple[str, str]
"""Model and alias."""


class Rollouts:
    """The rollouts that go on.

    When the guard of one is breached, this server sends nothing more to the candidate from that moment on, and tells the registry as soon
    as that can be reached; all other servers learn it from there.

    Args:
        registry: Where rollouts are kept; to end one, the server's token needs the role publisher.
        source: Where chance comes from.
        clock: Answers the present, seconds.
    """

    def __init__(self, registry: RegistryClient, source: random.Random | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._source = source or random.Random()  # noqa: S311 - not a secret
        self._clock = clock
        self._trials: dict[AliasKey, Trial] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Trial]:
        """Yield every rollout that goes on."""
        return iter(list(self._trials.values()))

    def of(self, key: AliasKey) -> Trial | None:
        """Return the rollout of an alias, if one goes on."""
        return self._trials.get(key)

    def candidates(self) -> set[VersionKey]:
        """Return the versions on trial."""
        return {(model, trial.rollout.candidate_version) for (model, _), trial in self._trials.items()}

    def replace(self, rollouts: Iterable[pb.Rollout]) -> set[AliasKey]:
        """Take over all rollouts that go on in the registry, and return the aliases that had one or have one."""
        active = {(rollout.model, rollout.alias): rollout for rollout in rollouts}
        keys = {*self._trials, *active}
        for key in self._trials.keys() - active.keys():
            self._trials.pop(key).end()
        for rollout in active.values():
            self.follow(rollout)
        return keys

    def follow(self, rollout: pb.Rollout) -> AliasKey:
        """Take over a rollout that was started, changed or ended, and return its alias."""
        key = (rollout.model, rollout.alias)
        trial = self._trials.get(key)
        if trial and (rollout.state != pb.ROLLOUT_STATE_ACTIVE or rollout.id != trial.rollout.id):
            self._trials.pop(key).end()
            trial = None
        if rollout.state != pb.ROLLOUT_STATE_ACTIVE:
            return key
        if trial is None:
            self._trials[key] = Trial(rollout, self._breached, self._spawn, self._source, self._clock)
        elif rollout.revision != trial.rollout.revision:
            trial.follow(rollout)
        return key

    async def stop(self) -> None:
        """End what runs in the background."""
        for key in list(self._trials):
            self._trials.pop(key).end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _breached(self, trial: Trial, breach: Breach) -> None:
        rollout = trial.rollout
        log.error(
            "a candidate is worse than allowed and gets no more requests",
            model=rollout.model,
            alias=rollout.alias,
            version=rollout.candidate_version,
            reason=breach.reason,
        )
        self._spawn(self._roll_back(trial, rollout, breach))

    async def _roll_back(self, trial: Trial, rollout: pb.Rollout, breach: Breach) -> None:
        """End a rollout in the registry; try for as long as it stands there as it was judged."""
        failures = 0
        while trial.rollout is rollout and self._trials.get((rollout.model, rollout.alias)) is trial:
            try:
                await self._registry.end_rollout(
                    rollout.model,
                    pb.ROLLOUT_STATE_ROLLED_BACK,
                    alias=rollout.alias,
                    reason=breach.reason,
                    expected_revision=rollout.revision,
                )
            except (ConflictError, FailedPreconditionError, NotFoundError):  # somebody else was faster; the event is on its way
                return
            except TesseraError as error:
                failures += 1
                if failures == 1:
                    log.error("cannot end a rollout in the registry, trying again", model=rollout.model, reason=error.message)
                await asyncio.sleep(pause_s(failures))
            else:
                log.warning("rolled back", model=rollout.model, alias=rollout.alias, version=rollout.candidate_version)
                return

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
