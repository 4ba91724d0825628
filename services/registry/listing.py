"""Pages of rows: filter, order and page token become one indexed query each, however deep the page lies."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.orm import InstrumentedAttribute, Mapped, Session

from services.registry.filters import Comparison, parse_filter, parse_order
from services.registry.kinds import Kind, Value
from services.registry.tables import Label, Numbered
from services.registry.tokens import PageRequest, Position, decode, encode
from tessera.errors import InvalidArgumentError

_OPERATORS = {"=": "__eq__", "!=": "__ne__", "<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"}


_Column = sa.ColumnElement[Any] | Mapped[Any]
Row = TypeVar("Row", bound=Numbered)


@dataclass(frozen=True)
class Field:
    """A column that can be filtered and ordered by; `Listing` expects an index on (column, id)."""

    column: InstrumentedAttribute[Any]
    kind: Kind


@dataclass(frozen=True)
class LabelField:
    """A side table whose names follow a prefix (`metrics.top1`); `Listing` expects an index on (name, value, owner_id)."""

    table: type[Label]
    kind: Kind

    def having(self, name: str) -> sa.Select[int, Any]:
        """Return `owner_id` and `value` of all labels of this name."""
        return sa.select(self.table.owner_id, self.table.value).where(self.table.name == name)

    def owners(self, name: str, operator: str, value: Value) -> sa.Select[int]:
        """Return the owners whose label of this name compares with `value`."""
        return sa.select(self.table.owner_id).where(self.table.name == name, _compare(self.table.value, operator, value))

    def of(self, session: Session, owners: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Return name to value of all labels of many owners: one statement, and plain values, which take a third of the time of objects."""
        query = sa.select(self.table.owner_id, self.table.name, self.table.value).where(self.table.owner_id.in_(owners))
        found: dict[int, dict[str, Any]] = defaultdict(dict)
        for owner, name, value in session.execute(query):
            found[owner][name] = value
        return found


@dataclass(frozen=True)
class _Window:
    """Which rows of an ordered query: up to `count` of those after a position."""

    after: Position | None
    descending: bool
    count: int


class Listing(Generic[Row]):
    """One kind of list.

    Args:
        row: The class of its rows.
        fields: Name to column.
        labels: Prefix to side table.
    """

    def __init__(self, row: type[Row], fields: Mapping[str, Field], labels: Mapping[str, LabelField]) -> None:
        self._row = row
        self._fields = fields
        self._labels = labels

    def page(self, session: Session, base: sa.Select[Row], request: PageRequest, *, scope: str = "") -> tuple[list[Row], str]:
        """Return one page and the token of the next, which is empty after the last page.

        Rows that lack the label that the list is ordered by come last, in either direction.

        Args:
            session: To read with.
            base: Which rows there are before filtering.
            request: As it came from the caller.
            scope: What `base` depends on; a token works only with the same.

        Raises:
            InvalidArgumentError: Filter, order, token or size are wrong; unknown fields are answered with the known ones.
        """
        limit = request.limit()
        order = parse_order(request.order_by)
        query = base.where(*[self._where(comparison) for comparison in parse_filter(request.filter)])
        field, label = self._resolve(order.field, "order_by") if order.field else (None, "")
        window = _Window(decode(request, scope, field.kind.stored if field else int), order.descending, limit + 1)
        if field is None:
            found = self._by_id(session, query, window)
        elif isinstance(field, Field):
            found = self._by_value(session, query, (field.column, self._row.id), window)
        else:
            found = self._by_label(session, query, field.having(label), window)
        if len(found) <= limit:
            return [row for row, _ in found], ""
        last, value = found[limit - 1]
        return [row for row, _ in found[:limit]], encode(Position(value, last.id), request, scope)

    def _by_id(self, session: Session, query: sa.Select[Row], window: _Window) -> list[tuple[Row, Value | None]]:
        if window.after is not None:
            query = query.where(self._row.id < window.after.id if window.descending else self._row.id > window.after.id)
        query = query.order_by(self._row.id.desc() if window.descending else self._row.id).limit(window.count)
        return [(row, None) for row in session.scalars(query)]

    def _by_value(
        self, session: Session, query: sa.Select[Row], keys: tuple[_Column, _Column], window: _Window
    ) -> list[tuple[Row, Value | None]]:
        """Order by a value and then by row number, which have to be the columns of one index for this to be fast."""
        if window.after is not None:
            here, there = sa.tuple_(*keys), sa.tuple_(window.after.value, window.after.id)
            query = query.where(here < there if window.descending else here > there)
        query = query.order_by(*[key.desc() if window.descending else key for key in keys]).limit(window.count)
        return [(row, value) for row, value in session.execute(query.add_columns(keys[0]))]

    def _by_label(
        self, session: Session, query: sa.Select[Row], owners: sa.Select[int, Any], window: _Window
    ) -> list[tuple[Row, Value | None]]:
        """Take first the rows that have the label, by its index, then those that lack it."""
        found: list[tuple[Row, Value | None]] = []
        if window.after is None or window.after.value is not None:
            labels = owners.subquery()
            with_label = query.join(labels, labels.c.owner_id == self._row.id)
            found = self._by_value(session, with_label, (labels.c.value, labels.c.owner_id), window)
            window = replace(window, after=None, count=window.count - len(found))
        if window.count:
            found += self._by_id(session, query.where(self._row.id.not_in(sa.select(owners.subquery().c.owner_id))), window)
        return found

    def _where(self, comparison: Comparison) -> sa.ColumnElement[bool]:
        field, label = self._resolve(comparison.field, "filter")
        if not field.kind.ordered and comparison.operator not in {"=", "!="}:
            raise InvalidArgumentError(f"filter: {comparison.field} takes = and != only", field="filter")
        value = field.kind.read(comparison.value, comparison.field)
        if isinstance(field, Field):
            return _compare(field.column, comparison.operator, value)
        if comparison.operator == "!=":
            return self._row.id.not_in(field.owners(label, "=", value))
        return self._row.id.in_(field.owners(label, comparison.operator, value))

    def _resolve(self, name: str, what: str) -> tuple[Field | LabelField, str]:
        """Return the field that a name stands for, and the label's name if it is in a side table."""
        if name in self._fields:
            return self._fields[name], ""
        prefix, _, label = name.partition(".")
        if label and prefix in self._labels:
            return self._labels[prefix], label
        known = [*self._fields, *(f"{prefix}.*" for prefix in self._labels)]
        raise InvalidArgumentError.unknown(f"field in {what}", name, known, field=what)


def _compare(column: Mapped[Any], operator: str, value: Value) -> sa.ColumnElement[bool]:
    comparison: sa.ColumnElement[bool] = getattr(column, _OPERATORS[operator])(value)
    return comparison
