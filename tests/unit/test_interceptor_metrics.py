import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from tessera.errors import NotFoundError
from tessera.rpc.interceptors.base import CLOCK_SKEW_S, outcome
from tessera.rpc.interceptors.errors import ErrorInterceptor
from tessera.rpc.interceptors.metrics import MetricsInterceptor
from tests.fixtures.echo import KINDS, NAME, call, intercepted
from tests.fixtures.waiting import until


class Counts:
    """How much the metrics of a method have grown since this was made."""

    def __init__(self, method: str) -> None:
        self.labels = {"grpc_service": NAME, "grpc_method": method}
        self.before = self._read()

    def _read(self) -> dict[str, float]:
        samples = (sample for metric in REGISTRY.collect() for sample in metric.samples if self.labels.items() <= sample.labels.items())
        names = {"grpc_server_started_total", "grpc_server_handled_total", "grpc_server_handling_seconds_count"}
        return {sample.labels.get("grpc_code", sample.name): sample.value for sample in samples if sample.name in names}

    def grown(self) -> dict[str, float]:
        now = self._read()
        return {name: value - self.before.get(name, 0) for name, value in now.items() if value != self.before.get(name, 0)}


def counted(**codes: int) -> dict[str, float]:
    total = sum(codes.values())
    return {"grpc_server_started_total": total, "grpc_server_handling_seconds_count": total, **codes}


async def act(request: bytes, context: Any) -> bytes:
    match request:
        case b"missing":
            raise NotFoundError("not here")
        case b"bug":
            raise RuntimeError("oops")
        case b"wait":
            await asyncio.Event().wait()
    return request


@pytest.mark.parametrize("kind", KINDS)
async def test_calls_are_counted_by_code(kind: str) -> None:
    counts = Counts(kind)
    async with intercepted([MetricsInterceptor(), ErrorInterceptor()], act) as channel:
        for request in (b"ok", b"ok", b"missing", b"bug"):
            with suppress(grpc.aio.AioRpcError):
                await call(channel, kind, request)
        await until(lambda: counts.grown() == counted(OK=2, NOT_FOUND=1, INTERNAL=1))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_that_its_caller_cancels_is_counted_as_such(kind: str) -> None:
    counts = Counts(kind)
    async with intercepted([MetricsInterceptor(), ErrorInterceptor()], act) as channel:
        task = asyncio.create_task(call(channel, kind, b"wait"))
        await until(lambda: "grpc_server_started_total" in counts.grown())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: counts.grown() == counted(CANCELLED=1))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_whose_deadline_passes_is_counted_as_such(kind: str) -> None:
    counts = Counts(kind)
    async with intercepted([MetricsInterceptor(), ErrorInterceptor()], act) as channel:
        while "DEADLINE_EXCEEDED" not in counts.grown():  # on a busy machine a call may not reach the server in time, or much later
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(channel, kind, b"wait", timeout=0.3)
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

        def each_once() -> bool:
            grown = counts.grown()
            return grown == counted(**{code: int(grown[code]) for code in ("DEADLINE_EXCEEDED", "CANCELLED") if code in grown})

        await until(each_once)


class Cancelled:
    """The context of a call that is cancelled so many seconds before its deadline."""

    def __init__(self, remaining: float | None) -> None:
        self.time_remaining = lambda: remaining


@pytest.mark.parametrize(
    ("remaining", "code"),
    [(0.0, "DEADLINE_EXCEEDED"), (CLOCK_SKEW_S, "DEADLINE_EXCEEDED"), (2 * CLOCK_SKEW_S, "CANCELLED"), (None, "CANCELLED")],
)
def test_a_call_that_ends_about_when_its_deadline_passes_has_ended_by_it(remaining: float | None, code: str) -> None:
    context: Any = Cancelled(remaining)
    assert outcome(context, asyncio.CancelledError()).name == code


async def test_a_stream_that_its_reader_leaves_is_counted_once() -> None:
    counts = Counts("Spread")
    async with intercepted([MetricsInterceptor(), ErrorInterceptor()], act) as channel:
        stream = channel.unary_stream(f"/{NAME}/Spread")(b"wait")
        assert await stream.read() == b"first"
        stream.cancel()
        await until(lambda: counts.grown() == counted(CANCELLED=1))


async def test_the_buckets_reach_from_half_a_millisecond_to_a_minute() -> None:
    async with intercepted([MetricsInterceptor()]) as channel:
        await call(channel, "Unary")
    buckets = {
        float(sample.labels["le"])
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "grpc_server_handling_seconds_bucket" and sample.labels["grpc_method"] == "Unary"
    }
    assert min(buckets) == 0.0005
    assert sorted(buckets)[-2:] == [60.0, float("inf")]
