"""What the pool says of itself while no version can be loaded for a reason that may pass."""

import asyncio

import pytest
from structlog.testing import capture_logs

from tessera.errors import UnavailableError
from tests.fixtures.waiting import until
from tests.unit.pool_fakes import World


async def test_a_server_that_could_answer_nothing_is_not_ready_until_it_can() -> None:
    world = World()
    world.loader.failures["m", 1] = [UnavailableError("the store is away") for _ in range(2)]
    with capture_logs() as logs:
        await world.pool.start()
        world.catalogue.set("m", "champion", 1)
        await until(lambda: world.states() == {("m", 1): "FAILED"})
        with pytest.raises(UnavailableError, match="no version answers; m version 1: the store is away"):
            await world.pool.check()
        world.loader.gates["m", 1] = asyncio.Event()
        await until(lambda: world.states() == {("m", 1): "LOADING"})
        with pytest.raises(UnavailableError, match="no version answers; m version 1: the store is away"):
            await world.pool.check()  # while it is tried again, too
        world.loader.gates["m", 1].set()
        await until(lambda: world.answering() == {("m", "champion"): 1})
        await world.pool.check()
    refused = [line["reason"] for line in logs if line["event"] == "version refused"]
    assert refused == ["the store is away"], "once, not with every try"
    await world.pool.stop()
