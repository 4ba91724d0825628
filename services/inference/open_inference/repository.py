"""The repository extension. The repository is the registry: aliases say what is loaded, and callers may keep versions besides."""

from typing import Any

from services.inference.pool import Pool
from services.inference.served import Slot, State
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.openinference.v2.open_inference_pb2 import (
    ModelRepositoryParameter,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
)
from tessera.errors import InvalidArgumentError
from tessera.names import shown

Entry = RepositoryIndexResponse.ModelIndex

STATES = {State.READY: "READY", State.LOADING: "LOADING", State.DRAINING: "UNLOADING", State.FAILED: "UNAVAILABLE"}
"""Names of the protocol."""


def check_repository(name: str) -> None:
    """Raise InvalidArgumentError for a repository other than the registry."""
    if name:
        raise InvalidArgumentError(
            f"there is no repository {shown(name)}; leave it empty: all models are in the registry", field="repository_name"
        )


def index(pool: Pool, *, only_ready: bool) -> list[Entry]:
    """Return every version on this server and every model of the registry that has none here, sorted."""
    entries = [_entry(slot) for slot, _ in pool.slots() if slot.state is State.READY or not only_ready]
    if only_ready:
        return entries
    absent = pool.models.difference(slot.model for slot, _ in pool.slots())
    entries += [Entry(name=name, state="UNAVAILABLE", reason="no alias names a version, and none was asked for") for name in absent]
    return sorted(entries, key=lambda entry: entry.name)  # stable: versions stay in their order


def to_load(request: RepositoryModelLoadRequest) -> ModelSelector:
    """Return the version that shall be loaded; InvalidArgumentError for parameters that do not name one."""
    values = _values(request.parameters, ("version", "alias"))
    if len(values) > 1:
        raise InvalidArgumentError("version and alias are both set; one says which version", field="parameters")
    if "version" in values:
        return ModelSelector(model=request.model_name, version=_number(values["version"]))
    if "alias" in values:
        return ModelSelector(model=request.model_name, alias=_alias(values["alias"]))
    return ModelSelector(model=request.model_name)


def to_unload(request: RepositoryModelUnloadRequest) -> int | None:
    """Return the version that shall be unloaded, None for all of the model; InvalidArgumentError for other parameters."""
    values = _values(request.parameters, ("version", "unload_dependents"))
    return _number(values["version"]) if "version" in values else None


def _entry(slot: Slot) -> Entry:
    reason = slot.error.message if slot.error else ""
    return Entry(name=slot.model, version=str(slot.version), state=STATES[slot.state], reason=reason)


def _values(parameters: Any, known: tuple[str, ...]) -> dict[str, ModelRepositoryParameter]:
    for name in parameters:
        if name not in known:
            raise InvalidArgumentError.unknown("parameter", name, known, field="parameters")
    return dict(parameters)


def _number(parameter: ModelRepositoryParameter) -> int:
    """Return a version, which clients that only know texts (Triton's) send as one."""
    kind = parameter.WhichOneof("parameter_choice")
    if kind == "int64_param":
        return parameter.int64_param
    text = parameter.string_param
    if not (text.isascii() and text.isdecimal() and len(text) <= 18):
        raise InvalidArgumentError(f"version is {shown(text)}; a number is needed", field="parameters.version")
    return int(text)


def _alias(parameter: ModelRepositoryParameter) -> str:
    if parameter.WhichOneof("parameter_choice") != "string_param":
        raise InvalidArgumentError("alias is no text; set string_param", field="parameters.alias")
    return parameter.string_param
