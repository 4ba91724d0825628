"""The tables of queued inference: the truth about requests. Times are microseconds since 1970 (UTC)."""

import enum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from tessera.tables import Int64, Json, Name, RowId, Text


class State(enum.IntEnum):
    """State of a request; the numbers are those of `InferenceState` on the wire."""

    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5
    EXPIRED = 6


OPEN = frozenset({State.QUEUED, State.RUNNING})
"""States in which a request is tried."""

ENDED = frozenset(State) - OPEN
"""States that a request never leaves."""


class Outcome(enum.IntEnum):
    """How an attempt ended."""

    SUCCEEDED = 1
    RETRYABLE = 2
    """The model failed; another try may do."""
    PERMANENT = 3
    """Every try would end like this one."""
    CANCELLED = 4
    RELEASED = 5
    """The server was stopped."""
    POSTPONED = 6
    """Something that it needs was not available."""
    EXPIRED = 7
    LOST = 8
    """The server was not heard of for the time of a lease."""


class Table(DeclarativeBase):
    """Base of all tables."""


class Inference(Table):
    """A request, and what is still to be done about it outside the database."""

    __tablename__ = "inferences"

    row: Mapped[RowId]  # grows in the order of submission
    id: Mapped[Name] = mapped_column(unique=True)
    idempotency_key: Mapped[str | None] = mapped_column(sa.String(256), unique=True)
    spec: Mapped[Json]  # the request, with its inputs as a blob
    model: Mapped[Name]
    priority: Mapped[int]
    sticky_key: Mapped[Name]
    wanted_runtime: Mapped[Name]
    inputs_sha256: Mapped[str] = mapped_column(sa.String(64))
    state: Mapped[int]
    reconstruction: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON(none_as_null=True))  # how far it is; None: no reconstruction
    rows: Mapped[Int64]
    rows_done: Mapped[Int64]
    error: Mapped[Text]
    cancel_requested: Mapped[bool]
    max_attempts: Mapped[int]
    version: Mapped[Int64]
    runtime: Mapped[Name]
    result_sha256: Mapped[str | None] = mapped_column(sa.String(64))
    result_size: Mapped[Int64]
    create_time: Mapped[Int64]
    start_time: Mapped[int | None] = mapped_column(sa.BigInteger)
    finish_time: Mapped[int | None] = mapped_column(sa.BigInteger)
    expire_time: Mapped[Int64]
    result_expire_time: Mapped[int | None] = mapped_column(sa.BigInteger)
    attempts: Mapped[list["Attempt"]] = relationship(order_by="Attempt.number", lazy="selectin", cascade="all, delete-orphan")

    lease_until: Mapped[int | None] = mapped_column(sa.BigInteger)  # of the running attempt
    postponed: Mapped[int]  # attempts in a row that could not do anything
    # The outbox: what the dispatcher has to do, or has done, outside.
    trace: Mapped[Json]  # trace context of whoever submitted it
    entry_id: Mapped[str | None] = mapped_column(sa.String(64))  # in the stream; None: not there
    dispatch_time: Mapped[Int64]  # not before
    dead_letter_due: Mapped[bool]
    inputs_held: Mapped[bool]  # by a lease in the registry
    result_due: Mapped[bool]  # to be held by a lease

    __table_args__ = (
        sa.Index("ix_inferences_state", "state", "priority", "row"),
        sa.Index("ix_inferences_model", "model", "row"),
        sa.Index("ix_inferences_entry_id", "entry_id"),
        sa.Index("ix_inferences_finish_time", "finish_time"),
        sa.Index("ix_inferences_dead_letter_due", "dead_letter_due"),
        sa.Index("ix_inferences_inputs_held", "inputs_held", "state"),
        sa.Index("ix_inferences_result_due", "result_due"),
    )


class Attempt(Table):
    """One try at a request."""

    __tablename__ = "attempts"

    row: Mapped[RowId]
    inference: Mapped[int] = mapped_column(sa.BigInteger, sa.ForeignKey("inferences.row"))
    number: Mapped[Int64]
    server: Mapped[Name]
    outcome: Mapped[int | None]  # None while it runs
    error: Mapped[Text]
    start_time: Mapped[Int64]
    finish_time: Mapped[int | None] = mapped_column(sa.BigInteger)

    __table_args__ = (sa.UniqueConstraint("inference", "number"),)
