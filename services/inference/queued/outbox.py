"""What is still to be done outside the database, as the rows tell: the dispatcher does it, and says so here.

Several servers do so at once. Whatever is noted is noted only if the row still says what was read, so that one of them prevails.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.sql.elements import ColumnElement

from services.inference.queued.tables import ENDED, OPEN, Attempt, Inference, State
from services.inference.queued.transitions import newest_number
from tessera.sql import reading, writing
from tessera.times import Clock, microseconds, now

BATCH = 500


@dataclass(frozen=True)
class Task:
    """A request about which something is to be done."""

    inference_id: str
    priority: int
    inputs: str
    """Digest of its inputs."""
    result: str
    """Digest of its result; empty if it has none."""
    result_expire_time: int
    attempt: int
    """Number of its newest attempt."""
    error: str
    entry_id: str
    """Its entry in the stream; empty if it has none."""
    trace: dict[str, str]


class Outbox:
    """The outbox of one database. Every `list_*` answers the oldest requests, at most `BATCH`; doing a thing twice does no harm.

    Args:
        engine: The database.
        clock: Answers the present.
    """

    def __init__(self, engine: Engine, clock: Clock = now) -> None:
        self._engine = engine
        self._clock = clock

    def list_to_dispatch(self) -> list[Task]:
        """Return queued requests that are due and have no entry in the stream."""
        return self._list(Inference.state == State.QUEUED, Inference.entry_id.is_(None), Inference.dispatch_time <= self._clock())

    def set_dispatched(self, task: Task, entry_id: str) -> bool:
        """Note the entry of a request, which a server may have claimed already; False if it has ended or has another entry meanwhile."""
        same_try = Inference.dispatch_time <= self._clock()  # else it was tried meanwhile, and waits for its next entry
        return self._update(task, Inference.state.in_(OPEN), Inference.entry_id.is_(None), same_try, entry_id=entry_id)

    def list_dispatched(self) -> list[Task]:
        """Return queued requests that should have an entry in the stream: the oldest ones, whose turn is next."""
        return self._list(Inference.state == State.QUEUED, Inference.entry_id.is_not(None))

    def list_to_withdraw(self) -> list[Task]:
        """Return ended requests whose entry nobody has acknowledged as far as we know."""
        return self._list(Inference.state.in_(ENDED), Inference.entry_id.is_not(None))

    def clear_entry(self, task: Task) -> None:
        """Note that an entry is gone from the stream."""
        self._update(task, Inference.entry_id == task.entry_id, entry_id=None)

    def list_dead_letters(self) -> list[Task]:
        """Return failed requests that are not in the stream of dead letters yet."""
        return self._list(Inference.dead_letter_due.is_(True))

    def set_buried(self, task: Task) -> None:
        """Note that a failed request is in the stream of dead letters."""
        self._update(task, dead_letter_due=False)

    def list_inputs_to_release(self) -> list[Task]:
        """Return ended requests whose inputs are still held."""
        return self._list(Inference.inputs_held.is_(True), Inference.state.in_(ENDED))

    def set_inputs_released(self, task: Task) -> None:
        """Note that the inputs of a request are held no more."""
        self._update(task, inputs_held=False)

    def list_results_to_hold(self) -> list[Task]:
        """Return requests whose result is not held yet."""
        return self._list(Inference.result_due.is_(True))

    def set_result_held(self, task: Task) -> None:
        """Note that the result of a request is held until it expires."""
        self._update(task, result_due=False)

    def forget(self, keep_s: float) -> int:
        """Remove some of the requests that ended, and whose results expired, longer ago than `keep_s` seconds; return how many."""
        before = self._clock() - microseconds(keep_s)
        expired = sa.or_(Inference.result_expire_time.is_(None), Inference.result_expire_time < before)
        settled = (Inference.entry_id.is_(None), Inference.inputs_held.is_(False), Inference.dead_letter_due.is_(False))
        query = sa.select(Inference.row).where(Inference.finish_time < before, expired, *settled).limit(BATCH)
        with reading(self._engine) as session:
            rows = list(session.scalars(query))
        if rows:
            with writing(self._engine) as session:
                session.execute(sa.delete(Attempt).where(Attempt.inference.in_(rows)))
                session.execute(sa.delete(Inference).where(Inference.row.in_(rows)))
        return len(rows)

    def count_by_state(self) -> dict[State, int]:
        """Return how many requests are in each state; every state is listed."""
        counts = dict.fromkeys(State, 0)
        with reading(self._engine) as session:
            for state, count in session.execute(sa.select(Inference.state, sa.func.count()).group_by(Inference.state)):
                counts[State(state)] = count
        return counts

    def oldest(self) -> dict[int, float]:
        """Return for every priority that has requests waiting how long the oldest has waited, seconds."""
        oldest = sa.select(Inference.priority, sa.func.min(Inference.create_time)).where(Inference.state == State.QUEUED)
        with reading(self._engine) as session:
            found = session.execute(oldest.group_by(Inference.priority)).all()
        return {priority: (self._clock() - time) / 1e6 for priority, time in found}

    def _list(self, *conditions: ColumnElement[bool]) -> list[Task]:
        with reading(self._engine) as session:
            rows: Sequence[Inference] = session.scalars(sa.select(Inference).where(*conditions).order_by(Inference.row).limit(BATCH)).all()
            return [
                Task(
                    inference_id=row.id,
                    priority=row.priority,
                    inputs=row.inputs_sha256,
                    result=row.result_sha256 or "",
                    result_expire_time=row.result_expire_time or 0,
                    attempt=newest_number(row),
                    error=row.error,
                    entry_id=row.entry_id or "",
                    trace=row.trace,
                )
                for row in rows
            ]

    def _update(self, task: Task, *conditions: ColumnElement[bool], **values: Any) -> bool:
        with writing(self._engine) as session:
            result = session.execute(
                sa.update(Inference).where(Inference.id == task.inference_id, *conditions).values(**values).returning(Inference.id)
            )
            return result.first() is not None
