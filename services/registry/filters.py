"""The language of filters and orders: text to comparisons. What the fields are is not known here."""

import re
from dataclasses import dataclass

from tessera.errors import InvalidArgumentError
from tessera.names import shown

MAX_FILTER = 2048
"""Longest filter, characters."""

_FIELD = r"[A-Za-z_][A-Za-z0-9_./-]*"
_COMPARISON = re.compile(
    rf"""\s*(?P<field>{_FIELD})\s*(?P<operator>!=|<=|>=|=|<|>)\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[A-Za-z0-9_.+:/-]+))\s*""",
    re.DOTALL,
)
_AND = re.compile(r"AND\b", re.IGNORECASE)
_ORDER = re.compile(rf"(?P<field>{_FIELD})(?:\s+(?P<direction>asc|desc))?", re.IGNORECASE)
_EXAMPLE = 'family = "puzzle_cells" AND metrics.top1 >= 0.99'


@dataclass(frozen=True)
class Comparison:
    """One comparison of a filter.

    Args:
        field: As written, for example `metrics.top1`.
        operator: One of = != < <= > >=.
        value: As written, without quotes and escapes.
    """

    field: str
    operator: str
    value: str


@dataclass(frozen=True)
class Order:
    """By what a list is ordered.

    Args:
        field: As written; empty for the list's own order.
        descending: Largest first.
    """

    field: str
    descending: bool = False


def parse_filter(text: str) -> list[Comparison]:
    """Return the comparisons of a filter; all of them have to hold. Raises InvalidArgumentError."""
    if len(text) > MAX_FILTER or "\0" in text:
        raise InvalidArgumentError(f"filter: {len(text)} characters; it takes at most {MAX_FILTER}, none of them NUL", field="filter")
    comparisons: list[Comparison] = []
    position = 0
    while text[position:].strip():
        if comparisons:
            position = _expect(_AND, text, position, "AND").end()
        match = _expect(_COMPARISON, text, position, "a comparison")
        quoted = match["quoted"]
        value = re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL) if quoted is not None else match["bare"]
        comparisons.append(Comparison(match["field"], match["operator"], value))
        position = match.end()
    return comparisons


def parse_order(text: str) -> Order:
    """Return the order that `order_by` asks for. Raises InvalidArgumentError."""
    if not text.strip():
        return Order("")
    match = _ORDER.fullmatch(text.strip())
    if match is None:
        raise InvalidArgumentError(f'order_by: {shown(text)} is not "field" or "field desc"', field="order_by")
    return Order(match["field"], descending=(match["direction"] or "").lower() == "desc")


def _expect(pattern: re.Pattern[str], text: str, position: int, what: str) -> re.Match[str]:
    match = pattern.match(text, position)
    if match is None:
        at = f"expected {what} at character {position + 1}: {shown(text[position:])}"
        raise InvalidArgumentError(f"filter: {at}; a filter reads for example: {_EXAMPLE}", field="filter")
    return match
