"""Requests as people see them: submitted once, looked at, listed, cancelled."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services.inference.queued.messages import inference_message
from services.inference.queued.specs import Spec, as_json, inputs_of, selector_of, spec_of
from services.inference.queued.tables import OPEN, Inference, State
from services.inference.queued.transitions import end_inference
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from tessera.names import check_name
from tessera.sql import reading, writing
from tessera.tables import page_limits
from tessera.texts import check_text
from tessera.times import Clock, now, timedelta_of, to_datetime, to_microseconds

LONGEST_ID = 256


@dataclass(frozen=True)
class Wishes:
    """What a caller asked for beside the message."""

    sticky_key: str = ""
    runtime: str = ""


def find_inference(session: Session, inference_id: str, *, lock: bool = False) -> Inference:
    """Return the row of a request; with `lock` nobody else changes it before the session ends.

    Raises:
        InvalidArgumentError: That is no id.
        NotFoundError: No such request.
    """
    query = sa.select(Inference).where(Inference.id == check_text(inference_id, "id", LONGEST_ID))
    row = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFoundError(f"there is no queued inference {inference_id!r}", field="id")
    return row


class Inferences:
    """The requests in one database.

    Args:
        engine: The database.
        clock: Answers the present.
    """

    def __init__(self, engine: Engine, clock: Clock = now) -> None:
        self._engine = engine
        self._clock = clock

    def find_submitted(self, spec: Spec) -> pb.Inference | None:
        """Return the request that was submitted under a spec's key, None if there is none or the key is empty.

        Raises:
            AlreadyExistsError: It was another one.
        """
        if not spec.idempotency_key:
            return None
        with reading(self._engine) as session:
            row = session.scalars(sa.select(Inference).where(Inference.idempotency_key == spec.idempotency_key)).one_or_none()
            if row is None:
                return None
            inference, known = inference_message(row, _position(session, row)), spec_of(row)
        if known != spec:
            raise AlreadyExistsError(
                f"the idempotency key {spec.idempotency_key!r} was used for request {inference.id} with other inputs or wishes; "
                "use a new key for a new request",
                field="idempotency_key",
            )
        return inference

    def submit(self, inference_id: str, spec: Spec, wishes: Wishes, *, trace: dict[str, str]) -> tuple[pb.Inference, bool]:
        """Queue a request.

        Args:
            inference_id: A new id, under which its inputs are held already.
            spec: Valid and complete, from `Intake`; its inputs are a blob.
            wishes: What came beside it.
            trace: Trace context that travels with the request to whoever computes it.

        Returns:
            The request, and whether it was made now.

        Raises:
            AlreadyExistsError: The key was used for another request.
        """
        time = self._clock()
        row = Inference(
            id=inference_id,
            idempotency_key=spec.idempotency_key or None,
            spec=as_json(spec),
            model=selector_of(spec).model,
            priority=spec.priority,
            sticky_key=wishes.sticky_key,
            wanted_runtime=wishes.runtime,
            inputs_sha256=inputs_of(spec).sha256,
            state=State.QUEUED,
            reconstruction=None if isinstance(spec, pb.SubmitInferenceRequest) else {},
            rows=0,
            rows_done=0,
            error="",
            cancel_requested=False,
            max_attempts=spec.max_attempts,
            version=0,
            runtime="",
            result_size=0,
            create_time=time,
            expire_time=to_microseconds(to_datetime(time) + timedelta_of(spec.expire_after, "expire_after")),
            postponed=0,
            trace=trace,
            dispatch_time=0,
            dead_letter_due=False,
            inputs_held=True,
            result_due=False,
        )
        try:
            with writing(self._engine) as session:
                session.add(row)
                session.flush()
                return inference_message(row, _position(session, row)), True
        except sa.exc.IntegrityError:  # the same key at the same time: the database let one through
            inference = self.find_submitted(spec)
            if inference is None:
                raise
            return inference, False

    def get(self, inference_id: str) -> pb.Inference:
        """Return a request with its attempts and its place in the queue. Raises NotFoundError."""
        with reading(self._engine) as session:
            row = find_inference(session, inference_id)
            return inference_message(row, _position(session, row))

    def get_succeeded(self, inference_id: str) -> pb.Inference:
        """Return a request whose result is still kept.

        Raises:
            NotFoundError: No such request, or its result has expired.
            FailedPreconditionError: It has not ended, or without a result.
        """
        inference = self.get(inference_id)
        state = State(inference.state)
        if state in OPEN:
            raise FailedPreconditionError(f"request {inference_id} is {state.name}: there is no result yet", field="id")
        if state is not State.SUCCEEDED:
            why = f": {inference.error}" if inference.error else ""
            raise FailedPreconditionError(f"request {inference_id} is {state.name} and has no result{why}", field="id")
        if inference.result_expire_time.ToMicroseconds() <= self._clock():
            expired = to_datetime(inference.result_expire_time.ToMicroseconds())
            raise NotFoundError(
                f"the result of request {inference_id} is gone: it was kept until {expired:%Y-%m-%d %H:%M:%S} UTC", field="id"
            )
        return inference

    def list(self, *, page_size: int = 0, page_token: str = "", state: int = 0, model: str = "") -> tuple[list[pb.Inference], str]:
        """Return a page of requests, newest first, and the token of the next page (empty on the last).

        Raises:
            InvalidArgumentError: The size is not 0 to 1000, the token is not one of ours, or the model has no valid name.
        """
        limit, before = page_limits(page_size, page_token, "ListInferences")
        query = sa.select(Inference).order_by(Inference.row.desc()).limit(limit + 1)
        if before is not None:
            query = query.where(Inference.row < before)
        if state:
            query = query.where(Inference.state == state)
        if model:
            query = query.where(Inference.model == check_name(model, "model"))
        with reading(self._engine) as session:
            rows = list(session.scalars(query))
            return [inference_message(row) for row in rows[:limit]], str(rows[limit - 1].row) if len(rows) > limit else ""

    def cancel(self, inference_id: str) -> pb.Inference:
        """Ask a request to stop and return it: a queued one ends, a running one will be told, one that has ended stays as it is.

        Raises:
            NotFoundError: No such request.
        """
        with writing(self._engine) as session:
            row = find_inference(session, inference_id, lock=True)
            if row.state in OPEN:
                row.cancel_requested = True
            if row.state == State.QUEUED:
                end_inference(row, State.CANCELLED, now=self._clock())
            return inference_message(row)


def _position(session: Session, row: Inference) -> int:
    """Return how many requests wait before a queued one."""
    if row.state != State.QUEUED:
        return 0
    before = (Inference.state == State.QUEUED, Inference.priority == row.priority, Inference.row < row.row)
    return session.scalar(sa.select(sa.func.count()).select_from(Inference).where(*before)) or 0
