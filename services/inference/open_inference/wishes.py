"""Which version a request of the protocol means, and how it wishes to be treated."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import grpc

from services.inference.options import CallOptions, Priority, call_options, check_sticky_key, parse_priority
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.openinference.v2.open_inference_pb2 import InferParameter, ModelInferRequest
from tessera.errors import InvalidArgumentError
from tessera.names import shown

LONGEST_NAME = 128
LARGEST_VERSION = (1 << 63) - 1
PRIORITIES = {0: Priority.NORMAL, 1: Priority.HIGH, 2: Priority.NORMAL, 3: Priority.LOW}
"""Triton's numbers: 1 is the highest, 0 the default."""


@lru_cache(1024)  # the same few for request after request; the result must not be changed
def selector(name: str, version: str, field: str) -> ModelSelector:
    """Return what a name and a version of the protocol mean: empty the alias `champion`, digits a version, anything else an alias.

    Args:
        name: Of the model.
        version: Of the request.
        field: Path of the version in the request, for errors.

    Raises:
        InvalidArgumentError: A name or alias beyond 128 characters, which must not be kept in the cache, or a number beyond 64 bits.
    """
    if len(name) > LONGEST_NAME or len(version) > LONGEST_NAME:
        too_long = field if len(version) > LONGEST_NAME else field.replace("version", "name")
        raise InvalidArgumentError(f"{shown(max(name, version, key=len))} is no name; at most {LONGEST_NAME} characters", field=too_long)
    if not version:
        return ModelSelector(model=name)
    if not (version.isascii() and version.isdecimal()):
        return ModelSelector(model=name, alias=version)
    if len(version) > len(str(LARGEST_VERSION)) or int(version) > LARGEST_VERSION:
        raise InvalidArgumentError(f"version {version[:64]}; at most {LARGEST_VERSION} is possible", field=field)
    return ModelSelector(model=name, version=int(version))


def infer_options(request: ModelInferRequest, context: grpc.aio.ServicerContext[Any, Any]) -> CallOptions:
    """Return the wishes of a call: those of its metadata, and stronger than these the parameters `priority`, `sticky_key` and `runtime`.

    Raises:
        InvalidArgumentError: One of them is of the wrong type or value.
    """
    options = call_options(context)
    parameters = request.parameters
    if not parameters:
        return options
    changes: dict[str, Any] = {}
    if "priority" in parameters:
        changes["priority"] = _priority(parameters["priority"])
    if "sticky_key" in parameters:
        changes["sticky_key"] = check_sticky_key(_text(parameters["sticky_key"], "sticky_key"), "parameters.sticky_key")
    if "runtime" in parameters:
        changes["runtime"] = _text(parameters["runtime"], "runtime")
    return replace(options, **changes) if changes else options


def _priority(parameter: InferParameter) -> Priority:
    field = "parameters.priority"
    kind = parameter.WhichOneof("parameter_choice")
    if kind == "string_param":
        return parse_priority(parameter.string_param, field)
    number = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else None
    if number not in PRIORITIES:
        raise InvalidArgumentError(f"priority is {number}; high, normal or low, or 0 to 3 is needed", field=field)
    return PRIORITIES[number]


def _text(parameter: InferParameter, name: str) -> str:
    if parameter.WhichOneof("parameter_choice") != "string_param":
        raise InvalidArgumentError(f"{name} is no text; set string_param", field=f"parameters.{name}")
    return parameter.string_param
