"""What is still to be done outside the database, as the rows tell: the dispatcher does it, and says so here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.sql.elements import ColumnElement

from services.trainer.tables import ENDED, Job, State
from services.trainer.transitions import newest_number
from tessera.sql import reading, writing
from tessera.times import Clock, microseconds, now

BATCH = 500

HOLD_INTERVAL_S = 12 * 3600.0
"""The hold on the inputs of a job is renewed this often, seconds."""


@dataclass(frozen=True)
class Task:
    """A job about which something is to be done."""

    job_id: str
    family: str
    model: str
    alias: str
    """For the version that comes of it; empty for none."""
    inputs: list[str]
    """Digests of its inputs."""
    cancel_requested: bool
    attempt: int
    """Number of its newest attempt."""
    error: str
    entry_id: str
    """Its entry in the stream; empty if it has none."""
    trace: dict[str, str]


class Outbox:
    """The outbox of one database. Every `list_*` answers the oldest jobs, at most `BATCH`; doing a thing twice does no harm.

    Args:
        engine: The trainer's database.
        clock: Answers the present.
    """

    def __init__(self, engine: Engine, clock: Clock = now) -> None:
        self._engine = engine
        self._clock = clock

    def list_to_dispatch(self) -> list[Task]:
        """Return queued jobs that are due and have no entry in the stream."""
        return self._list(Job.state == State.QUEUED, Job.entry_id.is_(None), Job.dispatch_time <= self._clock())

    def set_dispatched(self, task: Task, entry_id: str) -> bool:
        """Note the entry of a job, which a worker may have claimed already; False if it has ended or has another entry meanwhile."""
        return self._update(task, Job.state.not_in(ENDED), Job.entry_id.is_(None), entry_id=entry_id)

    def list_dispatched(self) -> list[Task]:
        """Return all queued jobs that should have an entry in the stream."""
        return self._list(Job.state == State.QUEUED, Job.entry_id.is_not(None), limit=None)

    def list_to_withdraw(self) -> list[Task]:
        """Return ended jobs whose entry nobody has acknowledged as far as we know."""
        return self._list(Job.state.in_(ENDED), Job.entry_id.is_not(None))

    def clear_entry(self, task: Task) -> None:
        """Note that an entry is gone from the stream."""
        self._update(task, Job.entry_id == task.entry_id, entry_id=None)

    def list_dead_letters(self) -> list[Task]:
        """Return failed jobs that are not in the stream of dead letters yet."""
        return self._list(Job.dead_letter_due.is_(True))

    def set_buried(self, task: Task) -> None:
        """Note that a failed job is in the stream of dead letters."""
        self._update(task, dead_letter_due=False)

    def list_ending(self) -> list[Task]:
        """Return jobs that are to end without a version, unless the registry has one."""
        return self._list(Job.state == State.ENDING)

    def list_inputs_to_hold(self) -> list[Task]:
        """Return jobs that have not ended and whose hold on their inputs is to be renewed."""
        return self._list(Job.inputs_due_time <= self._clock(), Job.state.not_in(ENDED))

    def set_inputs_held(self, task: Task) -> None:
        """Note that the inputs of a job are held for a while."""
        self._update(task, Job.inputs_due_time.is_not(None), inputs_due_time=self._clock() + microseconds(HOLD_INTERVAL_S))

    def list_inputs_to_release(self) -> list[Task]:
        """Return ended jobs whose inputs are still held."""
        return self._list(Job.inputs_due_time.is_not(None), Job.state.in_(ENDED))

    def set_inputs_released(self, task: Task) -> None:
        """Note that the inputs of a job are held no more."""
        self._update(task, inputs_due_time=None)

    def _list(self, *conditions: ColumnElement[bool], limit: int | None = BATCH) -> list[Task]:
        with reading(self._engine) as session:
            rows: Sequence[Job] = session.scalars(sa.select(Job).where(*conditions).order_by(Job.row).limit(limit)).all()
            return [
                Task(
                    job_id=row.id,
                    family=row.family,
                    model=row.model,
                    alias=row.spec.get("alias", ""),
                    inputs=[file["sha256"] for file in row.spec.get("inputs", [])],
                    cancel_requested=row.cancel_requested,
                    attempt=newest_number(row),
                    error=row.error,
                    entry_id=row.entry_id or "",
                    trace=row.trace,
                )
                for row in rows
            ]

    def _update(self, task: Task, *conditions: ColumnElement[bool], **values: Any) -> bool:
        with writing(self._engine) as session:
            result = session.execute(sa.update(Job).where(Job.id == task.job_id, *conditions).values(**values).returning(Job.id))
            return result.first() is not None
