"""The trainer's tables: the truth about jobs. Times are microseconds since 1970 (UTC), so that both databases compare them alike."""

import enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from tessera.tables import Int64, Json, Name, RowId, Text


class State(enum.IntEnum):
    """State of a job; the numbers are those of `JobState` on the wire, where ENDING is not known."""

    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5
    ENDING = 100
    """To end without a version, unless the registry has one of its experiment; shown as RUNNING until that is known."""


OPEN = frozenset({State.QUEUED, State.RUNNING})
"""States in which a job is tried."""

ENDED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})
"""States that a job never leaves."""


class Outcome(enum.IntEnum):
    """How an attempt ended; the numbers are those of `AttemptOutcome` on the wire, where LOST cannot be reported."""

    SUCCEEDED = 1
    RETRYABLE = 2
    PERMANENT = 3
    CANCELLED = 4
    RELEASED = 5
    LOST = 100


class Table(DeclarativeBase):
    """Base of all tables."""


class Job(Table):
    """A job, and what is still to be done about it outside the database."""

    __tablename__ = "jobs"

    row: Mapped[RowId]  # grows in the order of submission
    id: Mapped[Name] = mapped_column(unique=True)
    idempotency_key: Mapped[str | None] = mapped_column(sa.String(256), unique=True)
    spec: Mapped[Json]
    family: Mapped[Name]
    model: Mapped[Name]
    state: Mapped[int]
    progress: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))
    error: Mapped[Text]
    version: Mapped[Int64]
    experiment_id: Mapped[Name]
    cancel_requested: Mapped[bool]
    max_attempts: Mapped[int]
    create_time: Mapped[Int64]
    start_time: Mapped[int | None] = mapped_column(sa.BigInteger)
    finish_time: Mapped[int | None] = mapped_column(sa.BigInteger)
    attempts: Mapped[list["Attempt"]] = relationship(order_by="Attempt.number", lazy="selectin", cascade="all, delete-orphan")

    lease_until: Mapped[int | None] = mapped_column(sa.BigInteger)  # of the running attempt
    # The outbox: what the dispatcher has to do, or has done, outside.
    trace: Mapped[Json]  # trace context of whoever submitted it
    entry_id: Mapped[str | None] = mapped_column(sa.String(64))  # in the stream; None: not there
    dispatch_time: Mapped[Int64]  # not before
    dead_letter_due: Mapped[bool]
    inputs_due_time: Mapped[int | None] = mapped_column(sa.BigInteger)  # when to renew the hold on its inputs; None: not held

    __table_args__ = (
        sa.Index("ix_jobs_state", "state", "row"),
        sa.Index("ix_jobs_model", "model", "row"),
        sa.Index("ix_jobs_entry_id", "entry_id"),
        sa.Index("ix_jobs_dead_letter_due", "dead_letter_due"),
        sa.Index("ix_jobs_inputs_due_time", "inputs_due_time"),
    )


class Attempt(Table):
    """One try at a job."""

    __tablename__ = "attempts"

    row: Mapped[RowId]
    job: Mapped[int] = mapped_column(sa.BigInteger, sa.ForeignKey("jobs.row"))
    number: Mapped[Int64]
    worker: Mapped[Name]
    delivery_count: Mapped[Int64]
    resumed_from_epoch: Mapped[Int64]
    outcome: Mapped[int | None]  # None while it runs
    error: Mapped[Text]
    start_time: Mapped[Int64]
    finish_time: Mapped[int | None] = mapped_column(sa.BigInteger)

    __table_args__ = (sa.UniqueConstraint("job", "number"),)


class Family(Table):
    """A family as a worker announced it last."""

    __tablename__ = "families"

    name: Mapped[Name] = mapped_column(primary_key=True)
    definition: Mapped[Json]
    worker: Mapped[Name]
    seen_time: Mapped[Int64]
