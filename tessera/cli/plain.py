"""Protobuf messages as plain data, for `--json`: numbers stay numbers, times are ISO 8601, durations are seconds."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp


def plain(value: object) -> Any:
    """Return what `json.dumps` can write.

    Messages become objects with every field; an unset message, and an unset field that can be told from its default, is null. Enum values
    lose the prefix that the style of protobuf asks for: JOB_STATE_RUNNING becomes RUNNING. Bytes that hold JSON become what they hold.
    """
    for kind, convert in CONVERSIONS:
        if isinstance(value, kind):
            return convert(value)
    return value


def _message(message: Message) -> dict[str, Any]:
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


CONVERSIONS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str),
    (Timestamp, Timestamp.ToJsonString),
    (Duration, lambda duration: duration.ToNanoseconds() / 1e9),
    (Struct, MessageToDict),
    (Message, _message),
    (bytes, lambda data: json.loads(data) if data else None),
    (Mapping, lambda mapping: {str(key): plain(item) for key, item in mapping.items()}),
    (Iterable, lambda items: [plain(item) for item in items]),
)
"""Tried in this order: the special messages come before messages, text and mappings before what can be iterated."""


def enum_name(message: Message, field: str) -> str:
    """Return the name of an enum field's value without the prefix."""
    return str(_message(message)[field])


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.enum_type is not None:
        return [_short(field.enum_type, item) for item in value] if field.is_repeated else _short(field.enum_type, value)
    if field.has_presence and not message.HasField(field.name):
        return None
    return plain(value)


def _short(enum: EnumDescriptor, number: int) -> str:
    values = enum.values_by_number
    prefix = values[0].name.removesuffix("UNSPECIFIED")
    return values[number].name.removeprefix(prefix) if number in values else str(number)
