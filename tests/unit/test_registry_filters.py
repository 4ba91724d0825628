"""The language of filters, orders and page tokens."""

import pytest

from services.registry.filters import Comparison, Order, parse_filter, parse_order
from services.registry.kinds import INTEGER, NUMBER, TEXT, TIME
from services.registry.tokens import PageRequest, Position, decode, encode
from tessera.errors import InvalidArgumentError


@pytest.mark.parametrize(
    ("text", "comparisons"),
    [
        ("", []),
        ("  ", []),
        ('family = "puzzle_cells"', [Comparison("family", "=", "puzzle_cells")]),
        ("metrics.top1>=0.99", [Comparison("metrics.top1", ">=", "0.99")]),
        ("state = READY and version != 3", [Comparison("state", "=", "READY"), Comparison("version", "!=", "3")]),
        ('tags.a/b-c = "x \\"AND\\" y\\\\"', [Comparison("tags.a/b-c", "=", 'x "AND" y\\')]),
        ('tags.site = "" AND size_bytes < 10', [Comparison("tags.site", "=", ""), Comparison("size_bytes", "<", "10")]),
    ],
)
def test_a_filter_is_read_as_its_comparisons(text: str, comparisons: list[Comparison]) -> None:
    assert parse_filter(text) == comparisons


@pytest.mark.parametrize(
    "text", ["family", "= 3", "family = ", 'family = "open', "a = 1 OR b = 2", "a = 1 AND", "a = 1 b = 2", "\0", "x" * 3000]
)
def test_what_is_no_filter_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_filter(text)
    assert caught.value.field == "filter"


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("", Order("")),
        ("name", Order("name")),
        ("metrics.top1 desc", Order("metrics.top1", descending=True)),
        (" name  ASC ", Order("name")),
    ],
)
def test_an_order_is_a_field_and_a_direction(text: str, order: Order) -> None:
    assert parse_order(text) == order


@pytest.mark.parametrize("text", ["name down", "name, version", "name desc desc", "1"])
def test_what_is_no_order_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_order(text)
    assert caught.value.field == "order_by"


@pytest.mark.parametrize(
    ("kind", "text"), [(INTEGER, "1.5"), (INTEGER, "9" * 30), (NUMBER, "nan"), (NUMBER, "inf"), (NUMBER, "much"), (TIME, "yesterday")]
)
def test_a_value_of_the_wrong_kind_is_refused_and_the_right_kind_named(kind: object, text: str) -> None:
    with pytest.raises(InvalidArgumentError, match="it takes"):
        kind.read(text, "field")  # type: ignore[attr-defined]


def test_a_time_without_zone_is_utc() -> None:
    assert TIME.read("2026-01-01T00:00:00", "t") == TIME.read("2026-01-01T01:00:00+01:00", "t") == 1767225600_000_000


def test_a_token_leads_back_to_its_position_in_the_same_list_only() -> None:
    request = PageRequest(filter='family = "a"', order_by="version")
    token = encode(Position(17, 4), request, "cells")
    again = PageRequest(token=token, filter='family = "a" ', order_by="version", size=7)
    assert decode(again, "cells", int) == Position(17, 4)
    for other, scope in [
        (PageRequest(token=token, filter='family = "b"', order_by="version"), "cells"),
        (PageRequest(token=token, filter='family = "a"', order_by="version desc"), "cells"),
        (again, "dots"),
    ]:
        with pytest.raises(InvalidArgumentError) as caught:
            decode(other, scope, int)
        assert caught.value.field == "page_token"


@pytest.mark.parametrize("token", ["x", "====", "bnVsbA==", "W10=", "é", "WzEsMiwzXQ==", "W" * 100_000])
def test_a_forged_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgumentError, match="page_token"):
        decode(PageRequest(token=token), "", int)


def test_a_token_whose_value_is_of_another_type_is_refused() -> None:
    token = encode(Position("text", 4), PageRequest(), "")
    with pytest.raises(InvalidArgumentError):
        decode(PageRequest(token=token), "", int)
    assert decode(PageRequest(token=token), "", TEXT.stored) == Position("text", 4)


@pytest.mark.parametrize("size", [-1, 1001])
def test_a_page_has_1_to_1000_rows(size: int) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        PageRequest(size=size).limit()
    assert caught.value.field == "page_size"
    assert PageRequest().limit() == 100
