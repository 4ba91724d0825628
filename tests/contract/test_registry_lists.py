"""Lists: filters, orders and pages, on SQLite and on PostgreSQL."""

import itertools
from collections.abc import Callable

import pytest

from services.registry.tokens import PageRequest
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import InvalidArgumentError, NotFoundError
from tests.fixtures.artifacts import Artifact
from tests.fixtures.registry import RegistryCore

COUNT = 12
"""Versions of the small registry."""


@pytest.fixture
def small(core: RegistryCore) -> RegistryCore:
    """Three models with four versions each; every third version lacks the metric top1; values repeat."""
    for model in ("a-model", "a.model", "b"):
        core.registry.models.create(model, "", {"letter": model[0]})
    for index, model in enumerate(itertools.islice(itertools.cycle(("a-model", "a.model", "b")), COUNT)):
        metrics = {"loss": 1.0} if index % 3 == 2 else {"top1": (index % 4) / 4}
        manifest = Artifact(model, index % 2, metrics=metrics).store(core.store)
        core.registry.versions.create(model, manifest, tags={"parity": "even" if index % 2 == 0 else "odd"})
    return core


def all_pages(core: RegistryCore, size: int, order_by: str = "", text: str = "", model: str = "") -> list[pb.Version]:
    versions: list[pb.Version] = []
    token = ""
    while True:
        page = core.registry.versions.page(model, PageRequest(size, token, text, order_by))
        assert len(page.versions) <= size
        versions += page.versions
        token = page.next_page_token
        if not token:
            return versions
        assert len(page.versions) == size


def top1(version: pb.Version) -> float | None:
    return dict(version.metrics).get("top1")


KEYS: dict[str, Callable[[pb.Version], object]] = {
    "model": lambda version: version.model,
    "version": lambda version: version.version,
    "size_bytes": lambda version: version.size_bytes,
    "create_time": lambda version: version.create_time.ToNanoseconds(),
    "tags.parity": lambda version: version.tags["parity"],
    "metrics.top1": lambda version: top1(version) or 0.0,
}


@pytest.mark.parametrize("direction", ["", " desc"])
@pytest.mark.parametrize("field", KEYS)
def test_pages_of_any_size_put_together_are_the_whole_list_in_order(small: RegistryCore, field: str, direction: str) -> None:
    whole = all_pages(small, 100, field + direction)
    having = [version for version in whole if field != "metrics.top1" or top1(version) is not None]
    assert len(whole) == COUNT
    assert whole[: len(having)] == having, "versions without the metric come last"
    keys = [KEYS[field](version) for version in having]
    assert keys == sorted(keys, reverse=bool(direction))
    for size in (1, 2, 5, COUNT):
        assert all_pages(small, size, field + direction) == whole


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ('model = "b"', lambda v: v.model == "b"),
        ('model != "b" AND version >= 2', lambda v: v.model != "b" and v.version >= 2),
        ("metrics.top1 >= 0.5", lambda v: (top1(v) or 0) >= 0.5),
        ("metrics.top1 < 0.5", lambda v: top1(v) is not None and top1(v) < 0.5),
        ("metrics.top1 != 0.25", lambda v: top1(v) != 0.25),
        ('tags.parity = "odd" AND metrics.loss = 1', lambda v: v.tags["parity"] == "odd" and "loss" in v.metrics),
        ('tags.parity != "odd"', lambda v: v.tags["parity"] != "odd"),
        ("tags.nothing = 1", lambda _: False),
        ('create_time > "2020-01-01T00:00:00Z"', lambda _: True),
        ('family = "puzzle_cells" AND state = ready', lambda _: True),
    ],
)
def test_a_filter_keeps_what_it_says(small: RegistryCore, text: str, keep: Callable[[pb.Version], bool]) -> None:
    expected = [version for version in all_pages(small, 100) if keep(version)]
    for order in ("", "metrics.top1", "version desc"):
        found = all_pages(small, 2, order, text)
        assert sorted(found, key=lambda v: v.revision) == expected


def test_deleted_versions_show_only_when_asked_for(small: RegistryCore) -> None:
    small.registry.versions.delete("b", 2)
    assert len(all_pages(small, 100)) == COUNT - 1
    assert [(version.model, version.version) for version in all_pages(small, 100, text="state = DELETED")] == [("b", 2)]


def test_a_page_stays_right_while_versions_are_added(small: RegistryCore) -> None:
    page = small.registry.versions.page("", PageRequest(5, order_by="version desc"))
    small.registry.versions.create("b", Artifact("b", 3).store(small.store), tags={})
    rest = small.registry.versions.page("", PageRequest(100, page.next_page_token, order_by="version desc"))
    seen = [(version.model, version.version) for version in [*page.versions, *rest.versions]]
    assert len(set(seen)) == len(seen) == COUNT


def test_models_are_listed_with_the_revision_to_watch_from(small: RegistryCore) -> None:
    page = small.registry.models.page(PageRequest(2, order_by="name desc", filter='tags.letter >= "a"'))
    assert ([model.name for model in page.models], page.revision) == (["b", "a.model"], 3 + COUNT)
    rest = small.registry.models.page(PageRequest(2, page.next_page_token, order_by="name desc", filter='tags.letter >= "a"'))
    assert ([model.name for model in rest.models], rest.next_page_token) == (["a-model"], "")


@pytest.mark.parametrize(
    ("request_", "field", "text"),
    [
        (PageRequest(filter="weight > 3"), "filter", "known: .*family.*metrics.\\*.*tags.\\*"),
        (PageRequest(order_by="weight"), "order_by", "known: .*create_time"),
        (PageRequest(filter="metrics. > 3"), "filter", "known"),
        (PageRequest(filter="version = first"), "filter", "a whole number"),
        (PageRequest(filter="state = ASLEEP"), "filter", "READY, DELETED"),
        (PageRequest(filter="state > READY"), "filter", "= and != only"),
        (PageRequest(token="made up"), "page_token", "next_page_token"),
        (PageRequest(size=1001), "page_size", "1 to 1000"),
    ],
)
def test_a_wrong_list_request_is_answered_with_what_would_be_right(
    core: RegistryCore, request_: PageRequest, field: str, text: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=text) as caught:
        core.registry.versions.page("", request_)
    assert caught.value.field == field


def test_a_token_of_another_list_is_refused(small: RegistryCore) -> None:
    token = small.registry.versions.page("b", PageRequest(1)).next_page_token
    for model, request in [("a-model", PageRequest(1, token)), ("b", PageRequest(1, token, "version > 0"))]:
        with pytest.raises(InvalidArgumentError, match="page_token"):
            small.registry.versions.page(model, request)
    with pytest.raises(NotFoundError):
        small.registry.versions.page("nothing", PageRequest())
