"""The kinds of values that filters compare: how each is written and what is kept of it."""

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from services.registry.checks import MAX_INT64
from tessera.errors import InvalidArgumentError
from tessera.names import shown
from tessera.times import to_microseconds

Value = str | int | float


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Args:
        parse: From the text of a filter to what the database keeps; ValueError if it is not of this kind.
        stored: The Python type of what the database keeps.
        hint: How a value is written, for errors.
        ordered: Whether < and > mean anything.
    """

    parse: Callable[[str], Value]
    stored: type[Value]
    hint: str
    ordered: bool = True

    def read(self, text: str, field: str) -> Value:
        """Return the value that `text` stands for. Raises InvalidArgumentError."""
        try:
            return self.parse(text)
        except ValueError:
            raise InvalidArgumentError(f"filter: {shown(text)} is no value of {field}; it takes {self.hint}", field="filter") from None


def _integer(text: str) -> int:
    value = int(text)
    if abs(value) > MAX_INT64:
        raise ValueError(text)
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _time(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return to_microseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def one_of(members: type[enum.IntEnum]) -> Kind:
    """Return the kind whose values are the names of an enum."""

    def parse(text: str) -> int:
        if text.upper() not in members.__members__:
            raise ValueError(text)
        return members[text.upper()].value

    return Kind(parse, int, "one of " + ", ".join(members.__members__), ordered=False)


TEXT = Kind(str, str, "text in double quotes")
INTEGER = Kind(_integer, int, "a whole number")
NUMBER = Kind(_number, float, "a finite number")
TIME = Kind(_time, int, 'a time such as "2026-11-20T08:00:00Z"')
