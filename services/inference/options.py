"""How a caller wishes a request to be treated: its deadline, and what gRPC metadata says beside the message."""

import math
import time
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import grpc

from tessera.client.wishes import PRIORITY_KEY, RUNTIME_KEY, STICKY_KEY
from tessera.errors import InvalidArgumentError
from tessera.names import shown
from tessera.rpc.interceptors.base import CLOCK_SKEW_S

MAX_STICKY_KEY = 256


class Priority(IntEnum):
    """Who is computed first when requests wait; the lower number wins."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class CallOptions:
    """The wishes of one call.

    Args:
        deadline: When the answer loses its value, on the clock of `time.monotonic`; infinity for never.
        priority: Its turn in the queue.
        sticky_key: Calls with an equal key are answered by the same version during a rollout; empty: any may.
        runtime: Name of the runtime that shall compute; empty: the one that the version's manifest prefers.
    """

    deadline: float = math.inf
    priority: Priority = Priority.NORMAL
    sticky_key: str = ""
    runtime: str = ""

    def ended_by_deadline(self, now: float) -> bool:
        """Tell whether a call that is cancelled now is so because of its deadline, not by its caller."""
        return now >= self.deadline - CLOCK_SKEW_S


def call_options(context: grpc.aio.ServicerContext[Any, Any]) -> CallOptions:
    """Return the wishes of a call: its gRPC deadline, and the metadata `tessera-priority` (high, normal, low), `tessera-sticky-key` (any
    text of at most 256 characters) and `tessera-runtime` (for example `onnxruntime`).

    Raises:
        InvalidArgumentError: An unknown priority, or a key that is too long.
    """
    remaining = context.time_remaining()
    deadline = math.inf if remaining is None else time.monotonic() + remaining
    wishes = {key: value for key, value in context.invocation_metadata() or () if key.startswith("tessera-")}
    if not wishes:
        return CallOptions(deadline)
    return CallOptions(
        deadline, parse_priority(_text(wishes, PRIORITY_KEY)), check_sticky_key(_text(wishes, STICKY_KEY)), _text(wishes, RUNTIME_KEY)
    )


def parse_priority(name: str, field: str = PRIORITY_KEY) -> Priority:
    """Return the priority of this name, NORMAL for an empty one; InvalidArgumentError if there is none."""
    try:
        return Priority[name.upper()] if name else Priority.NORMAL
    except KeyError:
        raise InvalidArgumentError.unknown("priority", name, (priority.name.lower() for priority in Priority), field=field) from None


def check_sticky_key(key: str, field: str = STICKY_KEY) -> str:
    """Return the key; InvalidArgumentError if it is longer than 256 characters."""
    if len(key) > MAX_STICKY_KEY:
        raise InvalidArgumentError(f"{shown(key)} has {len(key)} characters; at most {MAX_STICKY_KEY} are allowed", field=field)
    return key


def _text(wishes: dict[str, str | bytes], key: str) -> str:
    value = wishes.get(key, "")
    return value if isinstance(value, str) else value.decode(errors="replace")
