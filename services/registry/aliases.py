"""Aliases: names such as "champion" that point at versions, moved by compare-and-swap, with a history that only grows.

Moving an alias ends its rollout.
"""

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services.registry.changes import changing, next_revision, record
from services.registry.find import check_fence, find_model, find_ready
from services.registry.messages import alias_message
from services.registry.rollout_changes import alias_moved
from services.registry.tables import Alias, AliasChange, Model, Version
from services.registry.tokens import PageRequest, Position, decode, encode
from tessera.api.common.v1 import common_pb2
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import ConflictError, FailedPreconditionError, NotFoundError
from tessera.names import check_alias, check_name
from tessera.sql import reading
from tessera.texts import check_text
from tessera.times import Clock, now

MAX_REASON = 1024


class Aliases:
    """What can be done with aliases."""

    def __init__(self, engine: Engine, clock: Clock = now) -> None:
        self._engine = engine
        self._clock = clock

    def set(
        self,
        model: str,
        alias: str,
        number: int,
        *,
        expected: int | None,
        actor: str,
        reason: str,
        fence: common_pb2.Fence | None = None,
    ) -> pb.AliasChange:
        """Point an alias at a READY version.

        Args:
            model: Its name.
            alias: The alias; made if there is none.
            number: The version.
            expected: Where the caller believes it points, 0 for nowhere; None: move it from wherever it is.
            actor: Who asks.
            reason: Why, at most 1024 characters.
            fence: Refuses an attempt that is over, and a version that was not registered under the fence's key as idempotency key.

        Raises:
            NotFoundError: No such model or version.
            FailedPreconditionError: The version is retired, or not of the fence's key.
            ConflictError: The alias points elsewhere.
        """
        check_alias(alias, "alias")
        check_text(reason, "reason", MAX_REASON)
        with changing(self._engine) as session:
            check_fence(session, fence)
            owner = find_model(session, model, "model")
            target = find_ready(session, model, number)
            if fence and target.idempotency_key != fence.key:
                raise FailedPreconditionError(f"version {number} of {model!r} was not made by {fence.key!r}", field="fence.key")
            current = _compare(owner, alias, expected)
            return self._point(session, owner, target, AliasChange(alias=alias, from_version=current, actor=actor, reason=reason))

    def move(self, session: Session, model: str, alias: str, number: int, *, actor: str, reason: str) -> pb.AliasChange:
        """Point an alias that exists at a READY version, as part of a change within `changing`; arguments and errors as for `set`."""
        owner = find_model(session, model, "model")
        current = owner.aliases[alias].number
        change = AliasChange(alias=alias, from_version=current, actor=actor, reason=reason)
        return self._point(session, owner, find_ready(session, model, number), change)

    def delete(self, model: str, alias: str, *, expected: int | None, actor: str, reason: str) -> pb.AliasChange:
        """Remove an alias; its history stays. Arguments and errors as for `set`; NotFoundError also if there is no such alias."""
        check_alias(alias, "alias")
        check_text(reason, "reason", MAX_REASON)
        with changing(self._engine) as session:
            owner = find_model(session, model, "model")
            if alias not in owner.aliases:
                raise NotFoundError(f"model {model!r} has no alias {alias!r}", field="alias")
            current = _compare(owner, alias, expected)
            del owner.aliases[alias]
            change = AliasChange(alias=alias, from_version=current, to_version=0, actor=actor, reason=reason)
            return self._changed(session, owner, change)

    def history(self, model: str, alias: str, request: PageRequest) -> pb.ListAliasHistoryResponse:
        """Return a page of the changes of one alias, or of all of a model (empty), newest first. Deleted models keep theirs."""
        query = sa.select(AliasChange).where(AliasChange.model == check_name(model, "model"))
        if alias:
            query = query.where(AliasChange.alias == check_alias(alias, "alias"))
        scope, limit = f"{model} {alias}", request.limit()
        if after := decode(request, scope, int):
            query = query.where(AliasChange.revision < after.id)
        with reading(self._engine) as session:
            if session.scalar(sa.select(Model.id).where(Model.name == model)) is None:
                raise NotFoundError(f"model {model!r} does not exist", field="model")
            rows = list(session.scalars(query.order_by(AliasChange.revision.desc()).limit(limit + 1)))
        token = encode(Position(None, rows[limit - 1].revision), request, scope) if len(rows) > limit else ""
        return pb.ListAliasHistoryResponse(changes=[alias_message(row) for row in rows[:limit]], next_page_token=token)

    def _point(self, session: Session, owner: Model, target: Version, change: AliasChange) -> pb.AliasChange:
        if change.alias in owner.aliases:
            alias = owner.aliases[change.alias]
            alias.version_id, alias.number = target.id, target.number
        else:
            owner.aliases[change.alias] = Alias(name=change.alias, version_id=target.id, number=target.number)
        change.to_version = target.number
        return self._changed(session, owner, change)

    def _changed(self, session: Session, owner: Model, change: AliasChange) -> pb.AliasChange:
        change.model = owner.name
        change.time = self._clock()
        change.revision = owner.revision = next_revision(session)
        session.add(change)
        message = alias_message(change)
        record(session, owner.name, pb.WatchResponse(alias_changed=message), revision=change.revision, time=change.time)
        alias_moved(session, change)
        return message


def _compare(owner: Model, alias: str, expected: int | None) -> int:
    """Return where an alias points (0: nowhere). Raises ConflictError if somebody expected something else."""
    current = owner.aliases[alias].number if alias in owner.aliases else 0
    if expected is not None and expected != current:
        here, there = (f"version {number}" if number else "nothing" for number in (current, expected))
        message = f"alias {alias!r} of model {owner.name!r} points at {here}, not at {there} as expected"
        raise ConflictError(message, field="expected_version")
    return current
