"""Rollouts: part of an alias's traffic goes to another version, until that is promoted or given up. Their history only grows."""

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services.registry.aliases import MAX_REASON, Aliases
from services.registry.changes import changing
from services.registry.find import find_model, find_ready
from services.registry.kinds import TEXT, TIME, one_of
from services.registry.listing import Field, Listing
from services.registry.messages import rollout_message
from services.registry.rollout_changes import active_rollout, write_change
from services.registry.rollout_checks import check_ending, check_interchangeable, check_percent, default_guard, merged_guard
from services.registry.tables import Model, Rollout, RolloutChange, RolloutState
from services.registry.tokens import PageRequest, Position, decode, encode
from services.registry.versions import read_manifest
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import ConflictError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from tessera.names import DEFAULT_ALIAS, check_alias, check_name
from tessera.sql import reading
from tessera.texts import check_text
from tessera.times import Clock, now

LISTING = Listing(
    Rollout,
    {
        "model": Field(Rollout.model, TEXT),
        "state": Field(Rollout.state, one_of(RolloutState)),
        "create_time": Field(Rollout.create_time, TIME),
    },
    {},
)


class Rollouts:
    """What can be done with rollouts.

    Args:
        engine: The database.
        aliases: Moves an alias when its rollout is promoted.
        clock: Answers the present.
    """

    def __init__(self, engine: Engine, aliases: Aliases, clock: Clock = now) -> None:
        self._engine = engine
        self._aliases = aliases
        self._clock = clock

    def start(self, request: pb.StartRolloutRequest, actor: str) -> pb.Rollout:
        """Begin a rollout.

        Raises:
            InvalidArgumentError: A field is outside its range, or the candidate is the version that the alias points at.
            NotFoundError: No such model, alias or version.
            FailedPreconditionError: The candidate is retired or takes other requests than the stable version, or the alias has an ACTIVE
                rollout.
            ConflictError: The alias points elsewhere than the caller believes.
        """
        alias = _alias(request.alias)
        check_text(request.reason, "reason", MAX_REASON)
        row = Rollout(
            model=check_name(request.model, "model"),
            alias=alias,
            candidate_version=request.candidate_version,
            weight_percent=check_percent(request.weight_percent, "weight_percent"),
            shadow_percent=check_percent(request.shadow_percent, "shadow_percent"),
            guard=merged_guard(default_guard(), request.guard).SerializeToString(),
            state=RolloutState.ACTIVE,
            actor=actor,
            reason=request.reason,
            create_time=self._clock(),
        )
        with changing(self._engine) as session:
            row.stable_version = self._stable(session, request, alias)
            versions = [find_ready(session, row.model, number) for number in (row.stable_version, row.candidate_version)]
            check_interchangeable(*(read_manifest(session, version) for version in versions))
            session.add(row)
            return write_change(session, row, self._clock())

    def update(self, request: pb.UpdateRolloutRequest, actor: str) -> pb.Rollout:
        """Change the ACTIVE rollout of an alias.

        Raises:
            InvalidArgumentError: A field is outside its range.
            NotFoundError: No such model.
            FailedPreconditionError: The alias has no ACTIVE rollout.
            ConflictError: It was changed since the caller saw it.
        """
        expected = request.expected_revision if request.HasField("expected_revision") else None
        check_text(request.reason, "reason", MAX_REASON)
        with changing(self._engine) as session:
            row = _find_active(session, request.model, _alias(request.alias), expected)
            if request.HasField("weight_percent"):
                row.weight_percent = check_percent(request.weight_percent, "weight_percent")
            if request.HasField("shadow_percent"):
                row.shadow_percent = check_percent(request.shadow_percent, "shadow_percent")
            row.guard = merged_guard(pb.RolloutGuard.FromString(row.guard), request.guard).SerializeToString()
            row.actor, row.reason = actor, request.reason
            return write_change(session, row, self._clock())

    def end(self, request: pb.EndRolloutRequest, actor: str) -> pb.EndRolloutResponse:
        """End the ACTIVE rollout of an alias; PROMOTED moves the alias to the candidate in the same transaction.

        Raises:
            InvalidArgumentError: No way to end a rollout, or ROLLED_BACK without the revision that was judged.
            NotFoundError: No such model.
            FailedPreconditionError: The alias has no ACTIVE rollout.
            ConflictError: It was changed since the caller saw it.
        """
        outcome = check_ending(request.outcome)
        expected = request.expected_revision if request.HasField("expected_revision") else None
        if outcome is RolloutState.ROLLED_BACK and expected is None:
            raise InvalidArgumentError("expected_revision: ROLLED_BACK needs the revision that was judged", field="expected_revision")
        check_text(request.reason, "reason", MAX_REASON)
        with changing(self._engine) as session:
            row = _find_active(session, request.model, _alias(request.alias), expected)
            if outcome is RolloutState.PROMOTED:
                reason = request.reason or "rollout promoted"
                change = self._aliases.move(session, row.model, row.alias, row.candidate_version, actor=actor, reason=reason)
                return pb.EndRolloutResponse(rollout=rollout_message(row), change=change)
            row.state, row.actor, row.reason = outcome, actor, request.reason
            return pb.EndRolloutResponse(rollout=write_change(session, row, self._clock()))

    def get(self, model: str, alias: str) -> pb.Rollout:
        """Return the ACTIVE rollout of an alias, else its last one. Raises NotFoundError if it never had one."""
        name = _alias(alias)
        with reading(self._engine) as session:
            find_model(session, model, "model")
            query = sa.select(Rollout).where(Rollout.model == model, Rollout.alias == name).order_by(Rollout.id.desc()).limit(1)
            row = session.scalar(query)
            if row is None:
                raise NotFoundError(f"the alias {name!r} of model {model!r} never had a rollout", field="alias")
            return rollout_message(row)

    def page(self, request: PageRequest) -> pb.ListRolloutsResponse:
        """Return a page of rollouts."""
        with reading(self._engine) as session:
            rows, token = LISTING.page(session, sa.select(Rollout), request)
            return pb.ListRolloutsResponse(rollouts=[rollout_message(row) for row in rows], next_page_token=token)

    def history(self, model: str, alias: str, request: PageRequest) -> pb.ListRolloutHistoryResponse:
        """Return a page of what the rollouts of one alias, or of all of a model (empty), became with each change; newest first."""
        query = sa.select(RolloutChange).where(RolloutChange.model == check_name(model, "model"))
        if alias:
            query = query.where(RolloutChange.alias == check_alias(alias, "alias"))
        scope, limit = f"{model} {alias}", request.limit()
        if after := decode(request, scope, int):
            query = query.where(RolloutChange.revision < after.id)
        with reading(self._engine) as session:
            if session.scalar(sa.select(Model.id).where(Model.name == model)) is None:
                raise NotFoundError(f"model {model!r} does not exist", field="model")
            rows = list(session.scalars(query.order_by(RolloutChange.revision.desc()).limit(limit + 1)))
        token = encode(Position(None, rows[limit - 1].revision), request, scope) if len(rows) > limit else ""
        changes = [pb.Rollout.FromString(row.payload) for row in rows[:limit]]
        return pb.ListRolloutHistoryResponse(changes=changes, next_page_token=token)

    def _stable(self, session: Session, request: pb.StartRolloutRequest, alias: str) -> int:
        """Return the version that gets the rest of the traffic."""
        owner = find_model(session, request.model, "model")
        if alias not in owner.aliases:
            raise NotFoundError(f"model {owner.name!r} has no alias {alias!r}; a rollout begins from a version that answers", field="alias")
        stable = owner.aliases[alias].number
        if request.HasField("expected_version") and request.expected_version != stable:
            message = f"alias {alias!r} of model {owner.name!r} points at version {stable}, not at {request.expected_version} as expected"
            raise ConflictError(message, field="expected_version")
        if request.candidate_version == stable:
            raise InvalidArgumentError(
                f"candidate_version: {alias!r} points at version {stable} already; try another", field="candidate_version"
            )
        if running := active_rollout(session, owner.name, alias):
            message = f"alias {alias!r} of model {owner.name!r} has a rollout of version {running.candidate_version} already; end it first"
            raise FailedPreconditionError(message, field="alias")
        return stable


def _alias(name: str) -> str:
    return check_alias(name or DEFAULT_ALIAS, "alias")


def _find_active(session: Session, model: str, alias: str, expected: int | None) -> Rollout:
    find_model(session, model, "model")
    row = active_rollout(session, model, alias)
    if row is None:
        raise FailedPreconditionError(f"alias {alias!r} of model {model!r} has no active rollout", field="alias")
    if expected is not None and expected != row.revision:
        message = f"the rollout of {alias!r} of model {model!r} was changed at revision {row.revision}, after {expected} as expected"
        raise ConflictError(message, field="expected_revision")
    return row
