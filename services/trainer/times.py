"""Times as the trainer keeps them: whole microseconds since 1970 (UTC)."""

import time
from collections.abc import Callable

from google.protobuf.timestamp_pb2 import Timestamp

Clock = Callable[[], int]
"""Answers the present in microseconds; tests bring their own."""


def now() -> int:
    """Return the present in microseconds."""
    return time.time_ns() // 1000


def microseconds(seconds: float) -> int:
    """Return a span of time as it is added to a time."""
    return round(seconds * 1e6)


def to_timestamp(moment: int | None) -> Timestamp | None:
    """Return a time as it goes over the wire; None if it is not set."""
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromMicroseconds(moment)
    return timestamp
