"""Revisions: every change gets the next one, inside the transaction that makes it.

All writers first lock the one row of `counter`, so revision n is committed before n + 1 is given: no reader ever sees n + 1 without n,
and a watcher that has read up to n has missed nothing below.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services.registry.tables import Counter, Event
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import FailedPreconditionError
from tessera.sql import reading, writing
from tessera.telemetry import inject
from tessera.times import to_timestamp


@contextmanager
def changing(engine: Engine) -> Iterator[Session]:
    """Yield a writing session that holds the registry's one lock: what it reads stays true until it ends."""
    with writing(engine) as session:
        session.execute(sa.select(Counter.revision).with_for_update())
        yield session


def current_revision(session: Session) -> int:
    """Return the newest revision that this session can see; 0 if nothing has happened yet."""
    return session.execute(sa.select(Counter.revision)).scalar_one()


def next_revision(session: Session) -> int:
    """Take the next revision; only within `changing`."""
    with session.no_autoflush:  # the rows that get this revision are not complete without it
        return session.execute(sa.update(Counter).values(revision=Counter.revision + 1).returning(Counter.revision)).scalar_one()


def record(session: Session, model: str, event: pb.WatchResponse, *, revision: int, time: int) -> None:
    """Write down what happened at a revision, as Watch will tell it, with the trace of the call that made the change.

    Args:
        model: Name of the model that changed.
        event: With the one field that says what happened; the others are filled in here.
        revision: From `next_revision`.
        time: Microseconds.
    """
    event.revision = revision
    event.time.CopyFrom(to_timestamp(time))
    event.traceparent = inject().get("traceparent", "")
    session.add(Event(revision=revision, model=model, payload=event.SerializeToString()))


class Changes:
    """What has happened, for those who watch."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def after(self, since: int, model: str, limit: int) -> tuple[list[pb.WatchResponse], int]:
        """Return up to `limit` events above revision `since` in order, of one model or (empty) of all, and the newest revision of all.

        Raises:
            FailedPreconditionError: `since` lies in the future: the caller has watched another registry, or one that was since restored
                from a backup.
        """
        query = sa.select(Event.payload).where(Event.revision > since).order_by(Event.revision).limit(limit)
        if model:
            query = query.where(Event.model == model)
        with reading(self._engine) as session:
            newest = current_revision(session)
            if since > newest:
                message = f"since_revision: {since} has not happened here, the newest is {newest}; list everything and watch from there"
                raise FailedPreconditionError(message, field="since_revision")
            return [pb.WatchResponse.FromString(payload) for payload in session.scalars(query)], newest
