"""Checks of what callers send: every error names the field, what was wrong and what would be right."""

import math
import re
from collections.abc import Iterable, Mapping

from tessera.api.registry.v1.registry_pb2 import ServingLimits
from tessera.errors import InvalidArgumentError
from tessera.names import shown
from tessera.texts import check_text

MAX_TAGS = 64
MAX_METRICS = 256
MAX_INT64 = (1 << 63) - 1
MOST_SERVING = {
    "max_batch": 1024,
    "instances": 64,
    "threads": 256,
    "queue_size": 65536,
    "max_concurrency": 1_000_000,
    "max_memory_bytes": MAX_INT64,
}
"""The largest value of each limit of `ServingLimits`."""

_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}")


def check_key(key: str, field: str) -> str:
    """Return `key` if it can name a tag or a metric, so that a filter can name it too."""
    if not _KEY.fullmatch(key):
        rule = "it takes 1 to 128 of A-Z, a-z, 0-9, '_', '.', '/' and '-', beginning with a letter, a digit or '_'"
        raise InvalidArgumentError(f"{field}: {shown(key)} is not a valid key; {rule}", field=field)
    return key


def check_tags(tags: Mapping[str, str], field: str = "tags") -> dict[str, str]:
    """Return a copy of `tags` if there are at most 64, with valid keys and values of at most 512 characters."""
    check_count(len(tags), MAX_TAGS, field)
    return {check_key(key, field): check_text(value, f"{field}.{key}", 512) for key, value in tags.items()}


def merge_tags(old: Mapping[str, str], new: Mapping[str, str], remove: Iterable[str]) -> dict[str, str]:
    """Return the tags after setting some and removing others; at most 64 may be left."""
    merged = dict(old) | check_tags(new, "set_tags")
    for key in remove:
        merged.pop(key, None)
    check_count(len(merged), MAX_TAGS, "set_tags")
    return merged


def check_metrics(metrics: Mapping[str, float], field: str = "metrics", *, finite: bool = True) -> dict[str, float]:
    """Return a copy of `metrics` if there are at most 256, with valid keys and (unless told otherwise) finite values."""
    check_count(len(metrics), MAX_METRICS, field)
    for key, value in metrics.items():
        check_key(key, field)
        if finite and not math.isfinite(value):
            raise InvalidArgumentError(f"{field}.{key}: {value} is not a finite number", field=f"{field}.{key}")
    return dict(metrics)


def check_serving(limits: ServingLimits, field: str = "serving") -> ServingLimits:
    """Return the limits of a model if each of them is 0, for a server's default, or in its range."""
    for name, most in MOST_SERVING.items():
        if not 0 <= getattr(limits, name) <= most:
            message = f"{field}.{name}: {getattr(limits, name)} is out of range; it takes 1 to {most}, or 0 for the server's default"
            raise InvalidArgumentError(message, field=f"{field}.{name}")
    return limits


def check_count(count: int, most: int, field: str) -> None:
    """Return if a map or list is not too long."""
    if count > most:
        raise InvalidArgumentError(f"{field}: {count} entries; at most {most} are kept", field=field)


def check_version_number(number: int, field: str = "version") -> int:
    """Return `number` if it can be a version."""
    if number < 1:
        raise InvalidArgumentError(f"{field}: {number} is not a version; versions are 1, 2, 3, ...", field=field)
    return number
