"""What happens to rollouts inside other changes: how each change is written down, and what a move of the alias means for them."""

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.registry.changes import next_revision, record
from services.registry.messages import rollout_message
from services.registry.tables import AliasChange, Rollout, RolloutChange, RolloutState
from tessera.api.registry.v1 import registry_pb2 as pb


def active_rollout(session: Session, model: str, alias: str) -> Rollout | None:
    """Return the rollout of an alias that goes on, if there is one."""
    return session.scalar(sa.select(Rollout).where(Rollout.model == model, Rollout.alias == alias, Rollout.state == RolloutState.ACTIVE))


def rollouts_of(session: Session, model: str, version: int) -> list[str]:
    """Return the aliases whose rollouts have a version on trial."""
    query = sa.select(Rollout.alias).where(
        Rollout.model == model, Rollout.candidate_version == version, Rollout.state == RolloutState.ACTIVE
    )
    return list(session.scalars(query.order_by(Rollout.alias)))


def write_change(session: Session, row: Rollout, time: int) -> pb.Rollout:
    """Give a changed rollout its revision, and write it to the history and to what watchers see; only within `changing`."""
    row.change_time = time
    row.revision = next_revision(session)
    session.flush()
    message = rollout_message(row)
    session.add(RolloutChange(revision=row.revision, model=row.model, alias=row.alias, payload=message.SerializeToString()))
    record(session, row.model, pb.WatchResponse(rollout_changed=message), revision=row.revision, time=time)
    return message


def alias_moved(session: Session, change: AliasChange) -> None:
    """End the rollout of an alias that points elsewhere from now on; only within `changing`."""
    row = active_rollout(session, change.model, change.alias)
    if row is None or change.to_version == row.stable_version:
        return
    row.state = RolloutState.PROMOTED if change.to_version == row.candidate_version else RolloutState.SUPERSEDED
    row.actor, row.reason = change.actor, change.reason
    write_change(session, row, change.time)
