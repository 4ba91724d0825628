"""Finding rows by name, with errors that say what was not found."""

import sqlalchemy as sa
from sqlalchemy.orm import Session

from services.registry.checks import check_version_number
from services.registry.tables import Fence, Model, State, Version
from tessera.api.common.v1 import common_pb2
from tessera.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, StaleFenceError
from tessera.names import DEFAULT_ALIAS, check_alias, check_name
from tessera.texts import check_text


def find_model(session: Session, name: str, field: str = "name") -> Model:
    """Return a model by name. Raises NotFoundError."""
    row = session.scalar(sa.select(Model).where(Model.name == check_name(name, field), ~Model.deleted))
    if row is None:
        raise NotFoundError(f"model {name!r} does not exist", field=field)
    return row


def find_version(session: Session, model: str, number: int) -> Version:
    """Return a version by number, whatever its state. Raises NotFoundError."""
    query = sa.select(Version).where(Version.model == check_name(model, "model"), Version.number == check_version_number(number))
    row = session.scalar(query)
    if row is None:
        find_model(session, model, "model")
        raise NotFoundError(f"version {number} of model {model!r} does not exist", field="version")
    return row


def find_ready(session: Session, model: str, number: int) -> Version:
    """Return a version that is READY. Raises NotFoundError, or FailedPreconditionError if it is retired."""
    row = find_version(session, model, number)
    if row.state != State.READY:
        raise FailedPreconditionError(f"version {number} of model {model!r} is retired", field="version")
    return row


def select_version(session: Session, selector: common_pb2.ModelSelector) -> Version:
    """Return the version that a selector names; by default the one that the alias "champion" points at. Raises NotFoundError."""
    if selector.WhichOneof("selector") == "version":
        return find_version(session, selector.model, selector.version)
    model = find_model(session, selector.model, "selector.model")
    name = check_alias(selector.alias, "selector.alias") if selector.WhichOneof("selector") == "alias" else DEFAULT_ALIAS
    if name not in model.aliases:
        known = ", ".join(sorted(model.aliases)) or "none"
        raise NotFoundError(f"model {model.name!r} has no alias {name!r}; known: {known}", field="selector.alias")
    return find_version(session, model.name, model.aliases[name].number)


def check_fence(session: Session, fence: common_pb2.Fence | None) -> bool:
    """Let the holder of the highest token under a key pass, and remember its token; only within `changing`.

    Returns:
        Whether the token is higher than all before it.

    Raises:
        StaleFenceError: A higher token was seen.
    """
    if fence is None:
        return False
    key = check_text(fence.key, "fence.key", 256, least=1)
    if fence.token < 1:
        raise InvalidArgumentError(f"fence.token: {fence.token} is not a token; tokens are 1, 2, 3, ...", field="fence.token")
    row = session.get(Fence, key) or Fence(key=key, token=0)
    if fence.token < row.token:
        raise StaleFenceError(f"attempt {fence.token} of {key!r} is over: attempt {row.token} has taken its place", field="fence.token")
    later = fence.token > row.token
    row.token = fence.token
    session.add(row)
    return later
