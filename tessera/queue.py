"""A queue of work over one Redis Stream and one consumer group, with leases.

An entry is delivered to one consumer, which must renew it; an entry whose lease has passed is delivered to another consumer. Delivery is
therefore at least once: whoever does the work makes its effect happen once by a fencing token, and the truth about the work lives in
SQL, not here. Acknowledging an entry also deletes it, because a stream does not trim itself.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from opentelemetry.trace import SpanKind
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from tessera import telemetry
from tessera.errors import InvalidArgumentError, UnavailableError

LEASE_LOST = Counter("job_lease_lost", "Leases on jobs that passed before the work had ended")
"""Counted by whoever notices: the worker that lost its entry, the one that takes it over, the trainer that gives an attempt up."""

# Checked and renewed in one step: between two commands another consumer could take the entry over.
_RENEW = """
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)
if #pending == 0 or pending[1][2] ~= ARGV[3] then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[2], 'JUSTID')
return 1
"""
_DEAD_LETTERS_KEPT = 10_000
_CHECK_KEY = "tessera:check"

T = TypeVar("T")


@dataclass(frozen=True)
class Delivery:
    """An entry that a consumer holds."""

    id: str
    """The entry's id within the stream."""
    fields: Mapping[str, str]
    """What was added, with the trace context of whoever added it (`tessera.telemetry.extract`)."""
    consumer: str
    """Who holds it."""
    delivery_count: int
    """1 for the first delivery."""


class WorkQueue:
    """One stream, its consumer group and its stream of dead letters (`<stream>:dead`).

    Every method raises `UnavailableError` while Redis cannot be reached.

    Args:
        redis: Client that decodes responses.
        stream: Key of the stream.
        group: Name of the consumer group, made when missing.
        lease_s: An entry that was not renewed for this long is delivered to another consumer, seconds.
    """

    def __init__(self, redis: Redis, stream: str, group: str, *, lease_s: float) -> None:
        self.stream = stream
        self.dead_stream = f"{stream}:dead"
        self._redis: Any = redis  # its annotations mix the synchronous client's answers with this one's
        self._group = group
        self._lease_ms = int(lease_s * 1000)
        self._renew = self._redis.register_script(_RENEW)

    async def add(self, fields: Mapping[str, str]) -> str:
        """Add an entry together with the current trace context; returns its id."""
        attributes = {"messaging.system": "redis", "messaging.destination.name": self.stream}
        with telemetry.tracer.start_as_current_span("queue publish", kind=SpanKind.PRODUCER, attributes=attributes):
            return str(await self._reached(lambda: self._redis.xadd(self.stream, {**fields, **telemetry.inject()})))

    async def take(self, consumer: str, block_s: float) -> Delivery | None:
        """Take an entry: first one whose lease has passed, else a new one, waiting up to `block_s` seconds (> 0) for it."""
        return await self._with_group(lambda: self._reclaim(consumer)) or await self._with_group(lambda: self._read(consumer, block_s))

    async def renew(self, delivery: Delivery) -> bool:
        """Begin the lease anew; False if the entry is gone or another consumer holds it."""
        arguments = [self._group, delivery.id, delivery.consumer]
        return bool(await self._with_group(lambda: self._renew(keys=[self.stream], args=arguments)))

    async def ack(self, entry_id: str) -> None:
        """Remove an entry for good, whoever holds it; nothing happens if it is gone."""

        async def remove() -> None:
            async with self._redis.pipeline(transaction=True) as pipe:
                await pipe.xack(self.stream, self._group, entry_id).xdel(self.stream, entry_id).execute()

        await self._reached(remove)

    async def dead_letter(self, fields: Mapping[str, str], reason: str) -> None:
        """Put work that will not be tried again where a person finds it."""
        entry = {**fields, "reason": reason}
        await self._reached(lambda: self._redis.xadd(self.dead_stream, entry, maxlen=_DEAD_LETTERS_KEPT, approximate=True))

    async def contains(self, entry_id: str) -> bool:
        """Tell whether an entry is still in the stream, waiting or held."""
        return bool(await self._reached(lambda: self._redis.xrange(self.stream, entry_id, entry_id)))

    async def depth(self) -> int:
        """Return how many entries wait for their first delivery."""

        async def count() -> int:
            length = await self._redis.xlen(self.stream)
            pending = await self._redis.xpending(self.stream, self._group)
            return max(0, int(length) - int(pending["pending"]))

        return await self._with_group(count)

    async def _reclaim(self, consumer: str) -> Delivery | None:
        claimed = await self._redis.xautoclaim(self.stream, self._group, consumer, self._lease_ms, "0-0", count=1)
        for entry_id, fields in claimed[1]:
            if entry_id is None:  # deleted but never acknowledged: Redis 6 answers nothing in its place
                continue
            LEASE_LOST.inc()
            return Delivery(entry_id, fields, consumer, await self._delivery_count(entry_id))
        return None

    async def _read(self, consumer: str, block_s: float) -> Delivery | None:
        streams = await self._redis.xreadgroup(self._group, consumer, {self.stream: ">"}, count=1, block=int(block_s * 1000))
        for _, entries in streams:
            for entry_id, fields in entries:
                return Delivery(entry_id, fields, consumer, 1)
        return None

    async def _delivery_count(self, entry_id: str) -> int:
        pending = await self._redis.xpending_range(self.stream, self._group, entry_id, entry_id, 1)
        return int(pending[0]["times_delivered"]) if pending else 1

    async def _with_group(self, call: Callable[[], Awaitable[T]]) -> T:
        """Run `call`; if the group is missing (a new stream, a flushed Redis), make it and run `call` again."""
        try:
            return await self._reached(call)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
        await self._reached(self._create_group)
        return await self._reached(call)

    async def _create_group(self) -> None:
        try:
            await self._redis.xgroup_create(self.stream, self._group, id="0", mkstream=True)
        except ResponseError as error:  # somebody else was faster
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _reached(self, call: Callable[[], Awaitable[T]]) -> T:
        return await _reached(self.stream, call)


async def check_redis(redis: Redis) -> None:
    """Return if Redis answers and takes what is written.

    Raises:
        UnavailableError: It cannot be reached, refuses the password, or has no room.
    """
    await _reached(_CHECK_KEY, lambda: redis.set(_CHECK_KEY, 1))


async def _reached(key: str, call: Callable[[], Awaitable[T]]) -> T:
    """Run `call`, which is about this key, with what Redis cannot do now as `UnavailableError`."""
    try:
        return await call()
    except AuthenticationError as error:
        raise UnavailableError(f"Redis refuses the password of the Redis URL: {error}") from error
    except ResponseError as error:
        if "NOGROUP" in str(error):
            raise
        raise UnavailableError(f"Redis refused a command on {key}: {error}") from error
    except (RedisError, OSError) as error:
        raise UnavailableError(f"Redis cannot be reached for {key}: {error}") from error


def connect(url: str) -> Redis:
    """Return a Redis client for queues; it connects when first used. Close it with `aclose()`.

    Raises:
        InvalidArgumentError: The URL is no Redis URL, or has an option that there is not.
    """
    retry = Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=3)  # over a restart of Redis, whose old connections are broken
    try:
        redis = Redis.from_url(url, decode_responses=True, socket_connect_timeout=2.0, socket_timeout=10.0, retry=retry)
        # Does not dial yet; an unknown option would come out with the first command only.
        redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError) as error:  # whose text may hold a part of the password
        raise InvalidArgumentError("the Redis URL is malformed; it takes redis://host:port/0", field="redis_url") from error
    return redis


def training_queue(redis: Redis, family: str, *, lease_s: float) -> WorkQueue:
    """Return the queue of a family's training jobs; trainer and workers agree on it here.

    Each family has its own stream, so that a worker is never handed a job that it cannot train.
    """
    return WorkQueue(redis, f"tessera:jobs:{family}", "workers", lease_s=lease_s)
