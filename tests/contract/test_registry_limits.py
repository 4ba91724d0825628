"""How much of a server a model may take, on SQLite and on PostgreSQL."""

import pytest

from services.registry.checks import MOST_SERVING
from services.registry.tokens import PageRequest
from tessera.api.registry.v1.registry_pb2 import Model, ServingLimits
from tessera.errors import InvalidArgumentError
from tests.fixtures.registry import RegistryCore

LIMITS = ServingLimits(max_batch=8, instances=2, threads=3, queue_size=100, max_concurrency=50, max_memory_bytes=1 << 40)


def change(core: RegistryCore, serving: ServingLimits | None) -> Model:
    return core.registry.models.update("cells", None, {}, [], serving=serving)


def test_limits_are_kept_and_told_to_those_who_watch(core: RegistryCore) -> None:
    made = core.registry.models.create("cells", "", {})
    assert made.serving == ServingLimits()
    assert change(core, LIMITS) == core.registry.models.get("cells")
    assert core.registry.models.page(PageRequest()).models[0].serving == LIMITS
    events, _ = core.registry.changes.after(made.revision, "", 10)
    assert [event.model_changed.serving for event in events] == [LIMITS]


def test_other_changes_leave_the_limits_alone_and_empty_limits_remove_them(core: RegistryCore) -> None:
    core.registry.models.create("cells", "", {})
    change(core, LIMITS)
    assert core.registry.models.update("cells", "new", {"site": "lab"}, []).serving == LIMITS
    assert change(core, ServingLimits()).serving == ServingLimits()


def test_a_model_that_starts_anew_has_no_limits(core: RegistryCore) -> None:
    core.registry.models.create("cells", "", {})
    change(core, LIMITS)
    core.registry.models.delete("cells")
    assert core.registry.models.create("cells", "", {}).serving == ServingLimits()


@pytest.mark.parametrize(("name", "most"), MOST_SERVING.items())
def test_a_limit_has_a_range(core: RegistryCore, name: str, most: int) -> None:
    core.registry.models.create("cells", "", {})
    assert getattr(change(core, ServingLimits(**{name: most})).serving, name) == most
    for value in (-1, most + 1):
        if value < 1 << 63:  # more cannot be sent
            with pytest.raises(InvalidArgumentError, match=f"{value} is out of range; it takes 1 to {most}") as refused:
                change(core, ServingLimits(**{name: value}))
            assert refused.value.field == f"serving.{name}"
    assert getattr(core.registry.models.get("cells").serving, name) == most


def test_every_limit_is_checked() -> None:
    assert set(MOST_SERVING) == set(ServingLimits.DESCRIPTOR.fields_by_name)
