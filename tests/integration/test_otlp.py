"""Spans reach a collector: a receiver of OTLP over gRPC takes what real processes send."""

import signal
from pathlib import Path

import grpc
import pytest

from tessera.rpc.channel import open_channel
from tests.fixtures.collector import Collector, collecting
from tests.fixtures.echo import NAME, call
from tests.fixtures.inference import poll
from tests.fixtures.ports import free_port
from tests.fixtures.waiting import until
from tests.integration.test_lifecycle import send, started


async def test_a_process_sends_its_spans_before_it_ends(
    collector: tuple[Collector, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")  # seconds, so that a busy machine loses no span
    servicer, endpoint = collector
    async with started(tmp_path, "--otlp-endpoint", endpoint) as echo:
        port = (await echo.ready())["port"]
        parent = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await call(channel, "Unary", metadata=(parent,))
            await call(channel, "Spread", metadata=(parent,))
        send(echo, signal.SIGTERM)
        assert await echo.ended() == 0
    spans = servicer.spans["echo"]
    assert sorted(span.name for span in spans) == [f"{NAME}/Spread", f"{NAME}/Unary"]
    assert {span.trace_id.hex() for span in spans} == {"0af7651916cd43dd8448eb211c80319c"}
    assert {span.parent_span_id.hex() for span in spans} == {"b7ad6b7169203331"}


async def test_a_collector_that_is_away_fails_no_call_fills_no_log_and_gets_spans_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # milliseconds; five seconds otherwise
    port = free_port()
    async with started(tmp_path, "--otlp-endpoint", f"http://127.0.0.1:{port}") as echo:
        async with open_channel(f"127.0.0.1:{(await echo.ready())['port']}") as channel:

            def lines(event: str) -> int:
                return sum(line["event"].startswith(event) for line in echo.logs())

            await call(channel, "Unary")
            await until(lambda: lines("traces cannot be sent"))

            async def arrived() -> bool:
                await call(channel, "Unary")
                return "echo" in servicer.spans and lines("traces are sent again") > 0

            with collecting(port) as (servicer, _):
                await poll(arrived)
                assert lines("traces cannot be sent") == lines("traces are sent again") == 1
        send(echo, signal.SIGTERM)
        assert await echo.ended() == 0
    assert "opentelemetry" not in (tmp_path / "log").read_text(), "what the libraries say is in the one line"


async def test_a_collector_that_is_away_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with started(tmp_path, "--otlp-endpoint", "http://127.0.0.1:1") as echo:
        port = (await echo.ready())["port"]
        async with open_channel(f"127.0.0.1:{port}") as channel:
            await call(channel, "Unary")
        send(echo, signal.SIGTERM)
        assert await echo.ended() == 0
