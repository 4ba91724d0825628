"""tessera.queue on a real redis-server: leases, take-over, acknowledgement, dead letters, a flushed and a restarted Redis."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from tessera.errors import UnavailableError
from tessera.queue import Delivery, WorkQueue, connect
from tests.fixtures.redis import RedisServer

LEASE_S = 3600.0
"""Longer than any test lasts: a lease passes when a test says so."""


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = connect(redis_server.url)
    yield client
    await client.aclose()


@pytest.fixture
def queue(redis: Redis) -> WorkQueue:
    return WorkQueue(redis, "work", "workers", lease_s=LEASE_S)


async def taken(queue: WorkQueue, consumer: str = "a") -> Delivery:
    delivery = await queue.take(consumer, block_s=5)
    assert delivery, "nothing was delivered"
    return delivery


async def let_pass(redis: Redis, delivery: Delivery, seconds: float = LEASE_S) -> None:
    """Make it so long ago that a delivery was made or renewed."""
    idle_ms = int(seconds * 1000)
    assert await redis.xclaim("work", "workers", delivery.consumer, 0, [delivery.id], idle=idle_ms, justid=True) == [delivery.id]


async def assert_empty(redis: Redis) -> None:
    assert await redis.xlen("work") == 0
    assert (await redis.xpending("work", "workers"))["pending"] == 0


async def test_an_entry_is_delivered_once_and_gone_after_its_acknowledgement(queue: WorkQueue, redis: Redis) -> None:
    entry_id = await queue.add({"job_id": "j1"})
    delivery = await taken(queue)
    assert (delivery.id, delivery.fields["job_id"], delivery.delivery_count) == (entry_id, "j1", 1)
    assert await queue.take("b", block_s=0.05) is None
    assert await queue.contains(entry_id)
    await queue.ack(entry_id)
    await queue.ack(entry_id)
    assert not await queue.contains(entry_id)
    await assert_empty(redis)


async def test_an_entry_whose_lease_passed_goes_to_another_consumer_and_the_first_cannot_renew_it(queue: WorkQueue, redis: Redis) -> None:
    await queue.add({"job_id": "j1"})
    first = await taken(queue, "a")
    await let_pass(redis, first)
    second = await taken(queue, "b")
    assert (second.id, second.consumer, second.delivery_count) == (first.id, "b", 2)
    assert not await queue.renew(first)
    assert await queue.renew(second)


async def test_a_renewed_entry_stays_with_its_consumer(queue: WorkQueue, redis: Redis) -> None:
    await queue.add({"job_id": "j1"})
    delivery = await taken(queue, "a")
    for _ in range(3):
        await let_pass(redis, delivery)
        assert await queue.renew(delivery)
        assert await queue.take("b", block_s=0.05) is None
    await let_pass(redis, delivery)
    assert (await taken(queue, "b")).id == delivery.id


async def test_depth_counts_what_waits_and_not_what_is_held(queue: WorkQueue) -> None:
    for number in range(3):
        await queue.add({"job_id": str(number)})
    assert await queue.depth() == 3
    await taken(queue)
    assert await queue.depth() == 2


async def test_dead_letters_keep_the_work_and_the_reason(queue: WorkQueue, redis: Redis) -> None:
    await queue.dead_letter({"job_id": "j1"}, "tried 3 times")
    [(_, entry)] = await redis.xrange(queue.dead_stream)
    assert entry == {"job_id": "j1", "reason": "tried 3 times"}


async def test_a_flushed_redis_loses_entries_but_the_queue_goes_on(queue: WorkQueue, redis: Redis) -> None:
    lost = await queue.add({"job_id": "j1"})
    delivery = await taken(queue)
    await redis.flushall()
    assert not await queue.renew(delivery)
    assert not await queue.contains(lost)
    await queue.ack(lost)
    await queue.add({"job_id": "j2"})
    assert (await taken(queue)).fields["job_id"] == "j2"


async def test_entries_and_leases_outlive_a_crash_of_redis(queue: WorkQueue, redis_server: RedisServer) -> None:
    await queue.add({"job_id": "held"})
    await queue.add({"job_id": "waiting"})
    held = await taken(queue)
    await asyncio.to_thread(redis_server.restart)
    assert await queue.renew(held)
    assert (await queue.take("b", block_s=0.05) or held).fields["job_id"] == "waiting"


async def test_everything_is_unavailable_while_redis_is_away(queue: WorkQueue, redis_server: RedisServer) -> None:
    await queue.add({"job_id": "j1"})
    delivery = await taken(queue)
    redis_server.kill()
    for call in (queue.add({}), queue.take("a", 0.05), queue.renew(delivery), queue.ack("1-0"), queue.contains("1-0"), queue.depth()):
        with pytest.raises(UnavailableError, match="Redis"):
            await call


async def test_two_consumers_that_start_together_share_one_group(queue: WorkQueue) -> None:
    assert await asyncio.gather(*(queue.take(name, block_s=0.05) for name in "abcd")) == [None] * 4
