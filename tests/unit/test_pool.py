"""The pool's decisions, with a loader and a catalogue that a test holds in its hand; tests/integration has the real ones."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tessera.errors import FailedPreconditionError, NotFoundError, TesseraError, UnavailableError
from tests.fixtures.waiting import until
from tests.unit.pool_fakes import World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.pool.start()
    yield made
    await made.pool.stop()
    assert not +made.leases.held
    assert all(loaded.released for loaded in made.loader.memory.values())


async def test_a_version_that_was_overtaken_while_it_loaded_is_let_go_of(world: World) -> None:
    gate = world.loader.gates["m", 1] = asyncio.Event()
    world.catalogue.set("m", "champion", 1)
    await until(lambda: world.loader.loads == [("m", 1)])
    world.catalogue.set("m", "champion", 2)
    await until(lambda: world.answering() == {("m", "champion"): 2})
    gate.set()
    await until(lambda: world.states() == {("m", 2): "READY"})
    assert world.loader.memory["m", 1].closed


async def test_a_slow_load_does_not_hold_up_another_model(world: World) -> None:
    world.loader.gates["m", 1] = asyncio.Event()
    world.catalogue.set("m", "champion", 1)
    world.catalogue.set("n", "champion", 1)
    await until(lambda: world.answering() == {("n", "champion"): 1})
    world.loader.gates["m", 1].set()
    await until(lambda: ("m", "champion") in world.answering())


async def test_what_could_not_be_reached_is_tried_again_until_it_can(world: World) -> None:
    world.loader.failures["m", 1] = [UnavailableError("away"), UnavailableError("still away")]
    world.catalogue.set("m", "champion", 1)
    await until(lambda: world.answering() == {("m", "champion"): 1})
    assert world.loader.loads == [("m", 1)] * 3


async def test_what_cannot_be_served_is_not_tried_again_until_its_alias_is_set_again(world: World) -> None:
    world.loader.failures["m", 1] = [FailedPreconditionError("wrong")]
    world.catalogue.set("m", "champion", 1)
    await until(lambda: world.states() == {("m", 1): "FAILED"})
    for _ in range(3):
        with pytest.raises(FailedPreconditionError, match="m version 1 cannot be served: wrong"):
            await world.find("m")
    assert world.loader.loads == [("m", 1)]
    world.catalogue.set("m", "champion", 1)
    await until(lambda: world.answering() == {("m", "champion"): 1})


async def test_an_unforeseen_error_while_loading_is_a_failure_like_any_other(world: World) -> None:
    world.loader.failures["m", 1] = [ZeroDivisionError("division by zero")]
    world.catalogue.set("m", "champion", 1)
    await until(lambda: world.states() == {("m", 1): "FAILED"})
    with pytest.raises(TesseraError, match="ZeroDivisionError"):
        await world.find("m")
    assert not +world.leases.held


async def test_it_is_ready_when_all_that_was_named_is_loaded_or_has_failed() -> None:
    world = World()
    with pytest.raises(UnavailableError, match="registry has not been read"):
        await world.pool.check()
    gate = world.loader.gates["m", 1] = asyncio.Event()
    world.loader.failures["n", 1] = [FailedPreconditionError("wrong")]
    await world.pool.start()
    for model in ("m", "n"):
        world.catalogue.set(model, "champion", 1)
    await until(lambda: world.states() == {("m", 1): "LOADING", ("n", 1): "FAILED"})
    with pytest.raises(UnavailableError, match="loading m version 1"):
        await world.pool.check()
    gate.set()
    await until(lambda: ("m", "champion") in world.answering())
    await world.pool.check()
    world.loader.gates["m", 2] = asyncio.Event()
    world.catalogue.set("m", "champion", 2)
    await until(lambda: ("m", 2) in world.states())
    await world.pool.check()  # a later load does not make it unready: the old version answers
    await world.pool.stop()


async def test_a_version_under_two_aliases_stays_until_both_have_gone(world: World) -> None:
    world.catalogue.set("m", "champion", 1)
    world.catalogue.set("m", "candidate", 1)
    await until(lambda: len(world.answering()) == 2)
    world.catalogue.set("m", "champion", None)
    await until(lambda: world.answering() == {("m", "candidate"): 1})
    with pytest.raises(NotFoundError, match=r"no alias 'champion'; aliases: candidate \(version 1\)"):
        await world.find("m")
    world.catalogue.set("m", "candidate", None)
    await until(lambda: world.states() == {})
    assert world.loader.loads == [("m", 1)]


async def test_a_version_is_not_unloaded_under_its_users(world: World) -> None:
    world.catalogue.set("m", "champion", 1)
    await until(lambda: world.answering() == {("m", "champion"): 1})
    with await world.find("m") as served:
        world.catalogue.set("m", "champion", None)
        await until(lambda: world.states() == {("m", 1): "DRAINING"})
        assert served.in_flight == 1
        assert not world.loader.memory["m", 1].closed
        world.catalogue.set("m", "champion", 1)  # back again while it drains: loaded anew
        await until(lambda: world.answering() == {("m", "champion"): 1})
        assert (await world.find("m")) is not served
    await until(lambda: len(world.pool.slots()) == 1)
    assert world.states() == {("m", 1): "READY"}
    assert world.leases.held["m", 1] == 1


async def test_a_caller_that_gives_up_does_not_stop_the_load_for_others(world: World) -> None:
    gate = world.loader.gates["m", 7] = asyncio.Event()
    impatient = asyncio.create_task(world.find("m", version=7))
    patient = asyncio.create_task(world.find("m", version=7))
    await until(lambda: world.loader.loads == [("m", 7)])
    impatient.cancel()
    gate.set()
    assert (await patient).version == 7
    assert world.loader.loads == [("m", 7)]


async def test_an_alias_that_moves_to_a_version_loaded_on_demand_answers_at_once(world: World) -> None:
    await world.find("m", version=3)
    world.catalogue.set("m", "champion", 3)
    await until(lambda: world.answering() == {("m", "champion"): 3})
    assert world.loader.loads == [("m", 3)]
    for version in (4, 5):
        await world.find("m", version=version)
    await until(lambda: world.states() == {("m", 3): "READY", ("m", 5): "READY"})


async def test_before_the_registry_was_read_requests_are_told_to_come_back() -> None:
    world = World()
    with pytest.raises(UnavailableError) as refused:
        await world.find("m")
    assert refused.value.retry_after_s


async def test_an_alias_that_is_set_while_its_version_loads_on_demand_answers_when_that_is_ready(world: World) -> None:
    gate = world.loader.gates["m", 3] = asyncio.Event()
    asked = asyncio.create_task(world.find("m", version=3))
    await until(lambda: world.loader.loads == [("m", 3)])
    for alias in ("champion", "candidate"):
        world.catalogue.set("m", alias, 3)
    waiting = asyncio.create_task(world.find("m"))
    gate.set()
    assert await asked is await waiting
    assert world.answering() == {("m", "champion"): 3, ("m", "candidate"): 3}
    assert world.loader.loads == [("m", 3)]


async def test_an_alias_that_is_deleted_while_its_version_loads_leaves_nothing(world: World) -> None:
    gate = world.loader.gates["m", 1] = asyncio.Event()
    world.catalogue.set("m", "champion", 1)
    await until(lambda: world.loader.loads == [("m", 1)])
    waiting = asyncio.create_task(world.find("m"))
    await asyncio.sleep(0)
    world.catalogue.set("m", "champion", None)
    gate.set()
    with pytest.raises(NotFoundError, match="no alias 'champion'"):
        await waiting
    await until(lambda: world.states() == {})
    assert world.loader.memory["m", 1].released


async def test_who_waits_for_an_alias_gets_the_version_that_it_names_in_the_end(world: World) -> None:
    gate = world.loader.gates["m", 1] = asyncio.Event()
    world.loader.failures["m", 1] = [FailedPreconditionError("wrong")]
    world.catalogue.set("m", "champion", 1)
    await until(lambda: world.loader.loads == [("m", 1)])
    waiting = asyncio.create_task(world.find("m"))
    await asyncio.sleep(0)
    world.catalogue.set("m", "champion", 2)
    gate.set()
    assert (await waiting).version == 2


async def test_one_who_asked_long_ago_gets_its_version_although_others_were_asked_for_since(world: World) -> None:
    gate = world.loader.gates["m", 1] = asyncio.Event()
    patient = asyncio.create_task(world.find("m", version=1))
    await until(lambda: world.loader.loads == [("m", 1)])
    await world.find("m", version=2)
    await world.find("m", version=2)
    gate.set()
    assert (await patient).version == 1
    assert world.loader.loads == [("m", 1), ("m", 2)]


async def test_a_version_that_is_tried_again_and_again_does_not_keep_the_server_from_being_ready() -> None:
    world = World()
    world.loader.failures["m", 1] = [UnavailableError("away")]
    await world.pool.start()
    world.catalogue.set("m", "champion", 1)
    await until(lambda: world.states() == {("m", 1): "FAILED"})
    world.loader.gates["m", 1] = asyncio.Event()
    world.catalogue.set("n", "champion", 1)
    await until(lambda: world.answering() == {("n", "champion"): 1} and world.loader.loads.count(("m", 1)) == 2)
    assert world.states()["m", 1] == "LOADING"
    await world.pool.check()
    await world.pool.stop()


async def test_many_versions_that_fail_do_not_hold_up_the_one_that_does_not(world: World) -> None:
    for number in range(1, 30):
        world.loader.failures["m", number] = [FailedPreconditionError("wrong")]
        world.catalogue.set("m", f"alias-{number}", number)
    world.catalogue.set("n", "champion", 1)
    await until(lambda: world.answering() == {("n", "champion"): 1})
    await until(lambda: Counter(world.states().values()) == {"FAILED": 29, "READY": 1})
    await world.pool.check()


async def test_stopping_while_versions_load_waits_for_nothing_and_holds_nothing() -> None:
    world = World()
    for number in (1, 2, 3):  # one more than are loaded at once
        world.loader.gates["m", number] = asyncio.Event()
    await world.pool.start()
    world.catalogue.set("m", "champion", 1)
    asked = [asyncio.create_task(world.find("m", version=number)) for number in (2, 3)]
    await until(lambda: len(world.loader.loads) == 2)
    for task in asked:  # as the server does before the pool is stopped
        task.cancel()
    async with asyncio.timeout(30):
        await world.pool.stop()
    assert world.states() == {}
    assert not +world.leases.held


async def test_a_version_that_cannot_be_unloaded_properly_is_let_go_of_all_the_same(world: World) -> None:
    world.catalogue.set("m", "champion", 1)
    await until(lambda: world.answering() == {("m", "champion"): 1})
    world.loader.memory["m", 1].failure = RuntimeError("the process has gone")
    world.catalogue.set("m", "champion", None)
    await until(lambda: world.states() == {})
    assert not +world.leases.held


async def test_the_cache_is_pruned_at_the_start_after_an_unload_and_after_a_failure(world: World) -> None:
    assert world.loader.prunes == 1
    world.loader.failures["n", 1] = [FailedPreconditionError("wrong")]
    world.catalogue.set("n", "champion", 1)
    await until(lambda: world.loader.prunes == 2)
    world.catalogue.set("m", "champion", 1)
    await until(lambda: world.answering() == {("m", "champion"): 1})
    assert world.loader.prunes == 2
    world.catalogue.set("m", "champion", None)
    await until(lambda: world.loader.prunes == 3)
