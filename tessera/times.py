"""Times as the services keep them: whole microseconds since 1970 (UTC), alike in every database; and as they go over the wire."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tessera.errors import InvalidArgumentError

Clock = Callable[[], int]
"""Answers the present in microseconds; tests bring their own."""


def now() -> int:
    """Return the present in microseconds."""
    return time.time_ns() // 1000


def microseconds(seconds: float) -> int:
    """Return a span of time as it is added to a time."""
    return round(seconds * 1e6)


def to_timestamp(moment: int) -> Timestamp:
    """Return a time in microseconds as it goes over the wire."""
    timestamp = Timestamp()
    timestamp.FromMicroseconds(moment)
    return timestamp


def to_datetime(moment: int) -> datetime:
    """Return a time in microseconds as one with time zone."""
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=moment)


def to_microseconds(moment: datetime) -> int:
    """Return a time with time zone as whole microseconds."""
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


def to_duration(seconds: float) -> Duration:
    """Return a span of time as it goes over the wire."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def timedelta_of(duration: Duration, field: str) -> timedelta:
    """Return a span of time that came over the wire. Raises InvalidArgumentError if no span of time is as long."""
    try:
        duration.ToJsonString()  # refuses what a Duration must not be: longer than 10,000 years, or of parts with different signs
        return duration.ToTimedelta()
    except (OverflowError, ValueError) as error:
        raise InvalidArgumentError(f"{field}: {error}", field=field) from error
