"""Attempts: the leases under which servers compute requests.

The number of an attempt is its fencing token: it grows with every claim, and who brings an older one is told to stop. An attempt whose
lease has passed is lost, and its request goes back into the queue.
"""

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from services.inference.queued.inferences import find_inference
from services.inference.queued.progress import Progress
from services.inference.queued.specs import Spec, as_json, spec_of
from services.inference.queued.tables import OPEN, Inference, Outcome, State
from services.inference.queued.transitions import begin_attempt, end_attempt, expire, newest_number
from tessera.blob_files import BlobRef
from tessera.errors import ConflictError, FailedPreconditionError, StaleFenceError
from tessera.queue import LEASE_LOST
from tessera.sql import reading, writing
from tessera.texts import clean_text
from tessera.times import Clock, microseconds, now, timedelta_of

LONGEST_ERROR = 4096
"""Of the reason of a failure no more is kept, characters."""


@dataclass(frozen=True)
class Claim:
    """An attempt that a server may make.

    Args:
        inference_id: Of the request.
        number: The attempt's number, its fencing token.
        spec: What to compute.
        priority: Its priority, as on the wire.
        sticky_key: For the choice of a version during a rollout.
        runtime: The runtime that was asked for; empty for none.
        expire_time: It is dropped if it is not computed by then, microseconds.
    """

    inference_id: str
    number: int
    spec: Spec
    priority: int
    sticky_key: str
    runtime: str
    expire_time: int


@dataclass(frozen=True)
class Result:
    """What an attempt brought."""

    blob: BlobRef
    version: int
    runtime: str


class Attempts:
    """The attempts at the requests in one database.

    Args:
        engine: The database.
        lease_s: An attempt that is not renewed for this long is lost, seconds.
        retry_delay_s: Pause before the first retry, seconds; doubles with every further one, up to a minute.
        clock: Answers the present; the clocks of all servers must agree to a fraction of the lease.
    """

    def __init__(self, engine: Engine, *, lease_s: float, retry_delay_s: float, clock: Clock = now) -> None:
        self.lease_s = lease_s
        self._engine = engine
        self._retry_delay_s = retry_delay_s
        self._clock = clock

    def claim(self, inference_id: str, server: str, entry_id: str) -> Claim:
        """Begin the next attempt at a request, of which an entry was delivered.

        Raises:
            NotFoundError: No such request; drop the entry.
            FailedPreconditionError: The request has ended, or this is not its entry any more; drop the entry.
            ConflictError: Another attempt at it is alive; leave the entry, it is needed if that one dies.
        """
        with writing(self._engine) as session:
            row = find_inference(session, inference_id, lock=True)
            if row.state == State.RUNNING and self._has_passed(row):
                self._lose(row)
            if row.state == State.QUEUED and row.expire_time <= self._clock():
                expire(row, now=self._clock())
            refusal = _refusal(row, entry_id, self._clock())
            if refusal is None:
                begin_attempt(row, server, now=self._clock(), lease_until=self._lease_end())
            claim = Claim(
                inference_id=row.id,
                number=newest_number(row),
                spec=spec_of(row),
                priority=row.priority,
                sticky_key=row.sticky_key,
                runtime=row.wanted_runtime,
                expire_time=row.expire_time,
            )
        if refusal is not None:  # raised out here, because what was found out shall be kept
            raise refusal
        return claim

    def report(self, claim: Claim, progress: Progress) -> bool:
        """Renew an attempt and keep its progress.

        Returns:
            Whether a person asked to stop.

        Raises:
            StaleFenceError: The attempt was given up, a later one has begun, or the request has ended.
        """
        with writing(self._engine) as session:
            row = find_inference(session, claim.inference_id, lock=True)
            _check_fence(row, claim.number)
            row.lease_until = self._lease_end()
            row.rows, row.rows_done = progress.rows, progress.rows_done
            if row.reconstruction is not None:
                row.reconstruction = as_json(progress.reconstruction)
            return row.cancel_requested

    def finish(self, claim: Claim, outcome: Outcome, *, error: str = "", result: Result | None = None) -> None:
        """End an attempt; with SUCCEEDED comes the result, which is kept for as long as the request says.

        Raises:
            StaleFenceError: The attempt was given up, a later one has begun, or the request has ended.
        """
        with writing(self._engine) as session:
            row = find_inference(session, claim.inference_id, lock=True)
            _check_fence(row, claim.number)
            if outcome is Outcome.SUCCEEDED and result is not None:
                row.rows_done = row.rows
                row.version, row.runtime = result.version, result.runtime
                row.result_sha256, row.result_size = result.blob.sha256, result.blob.size_bytes
                row.result_expire_time = self._clock() + microseconds(timedelta_of(claim.spec.result_ttl, "result_ttl").total_seconds())
                row.result_due = True
            end_attempt(row, outcome, clean_text(error, LONGEST_ERROR), now=self._clock(), retry_delay_s=self._retry_delay_s)

    def lose_passed(self) -> list[str]:
        """Give up every attempt whose lease has passed, and return the ids of their requests."""
        return self._sweep(sa.and_(Inference.state == State.RUNNING, Inference.lease_until <= self._clock()), self._lose)

    def expire_passed(self) -> list[str]:
        """Drop every queued request that was not computed in time, and return their ids."""
        return self._sweep(
            sa.and_(Inference.state == State.QUEUED, Inference.expire_time <= self._clock()), lambda row: expire(row, now=self._clock())
        )

    def _sweep(self, condition: sa.ColumnElement[bool], change: Callable[[Inference], None]) -> list[str]:
        with reading(self._engine) as session:
            found = list(session.scalars(sa.select(Inference.id).where(condition)))
        changed = []
        for inference_id in found:
            with writing(self._engine) as session:
                row = session.scalars(sa.select(Inference).where(Inference.id == inference_id, condition).with_for_update()).one_or_none()
                if row is not None:  # nobody else was faster
                    change(row)
                    changed.append(inference_id)
        return changed

    def _lose(self, row: Inference) -> None:
        LEASE_LOST.inc()
        error = f"server {row.attempts[-1].server} was not heard of for {self.lease_s:g} s"
        end_attempt(row, Outcome.LOST, error, now=self._clock(), retry_delay_s=self._retry_delay_s)

    def _has_passed(self, row: Inference) -> bool:
        return row.lease_until is not None and row.lease_until <= self._clock()

    def _lease_end(self) -> int:
        return self._clock() + microseconds(self.lease_s)


def _refusal(row: Inference, entry_id: str, time: int) -> Exception | None:
    """Return why a request cannot be claimed with this entry, None if it can."""
    if row.state not in OPEN:
        return FailedPreconditionError(f"request {row.id} is over: {State(row.state).name}")
    if row.entry_id not in (None, entry_id):
        return FailedPreconditionError(f"entry {entry_id} of request {row.id} is an old one; {row.entry_id} counts")
    if row.state == State.RUNNING:
        return ConflictError(f"attempt {newest_number(row)} at request {row.id} by server {row.attempts[-1].server} is alive")
    if row.dispatch_time > time:  # with an entry of its own later
        return FailedPreconditionError(f"request {row.id} waits for its next attempt")
    return None


def _check_fence(row: Inference, number: int) -> None:
    """Make sure that the attempt may go on."""
    if number != newest_number(row):
        raise StaleFenceError(f"attempt {number} at request {row.id} is over; attempt {newest_number(row)} has begun")
    if row.state != State.RUNNING:
        raise StaleFenceError(f"attempt {number} at request {row.id} is over; the request is {State(row.state).name}")
