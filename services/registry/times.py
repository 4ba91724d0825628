"""Times as the registry keeps them: whole microseconds since 1970 (UTC)."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

Clock = Callable[[], int]
"""Answers the present in microseconds; tests bring their own."""


def now() -> int:
    """Return the present in microseconds."""
    return time.time_ns() // 1000


def to_timestamp(microseconds: int) -> Timestamp:
    """Return a time as it goes over the wire."""
    timestamp = Timestamp()
    timestamp.FromMicroseconds(microseconds)
    return timestamp


def to_datetime(microseconds: int) -> datetime:
    """Return a time with time zone."""
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)


def to_microseconds(moment: datetime) -> int:
    """Return a time with time zone as whole microseconds."""
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
