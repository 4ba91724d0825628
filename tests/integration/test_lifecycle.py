"""Real processes: readiness, signals, the order in which things stop."""

import asyncio
import signal
import urllib.request
from pathlib import Path

import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from tessera.errors import UnavailableError
from tessera.rpc.auth import hash_token
from tessera.rpc.channel import open_channel
from tessera.rpc.status import rpc_errors
from tessera.settings import ClientSettings
from tessera.stack.checks import check_metrics
from tests.fixtures.echo import FIRST, KINDS, NAME, call
from tests.fixtures.echo_program import EchoProcess, started
from tests.fixtures.waiting import WAIT_S, until


def send(echo: EchoProcess, number: signal.Signals) -> None:
    echo.process.send_signal(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_calls_end_and_stops_everything_in_reverse(tmp_path: Path, number: signal.Signals) -> None:
    async with started(tmp_path) as echo:
        port = (await echo.ready())["port"]
        async with open_channel(f"127.0.0.1:{port}") as channel:
            health = HealthStub(channel).Watch(HealthCheckRequest(service=NAME))
            while (await health.read()).status != HealthCheckResponse.SERVING:
                pass
            held = [asyncio.create_task(call(channel, kind, b"hold")) for kind in KINDS]
            spread = channel.unary_stream(f"/{NAME}/Spread")(b"hold")
            assert await spread.read() == FIRST
            await until(lambda: echo.events().count("take-call") == 5)
            send(echo, number)
            assert (await health.read()).status == HealthCheckResponse.NOT_SERVING
            with pytest.raises(UnavailableError, match="stopping"), rpc_errors():
                await health.read()
            assert not {"answer-call", "stop-cache"} & set(echo.events())
            (tmp_path / "release").touch()
            assert await spread.read() == b"hold"
            for task in held:
                assert (await task)[-1] == b"hold"
        assert await echo.ended() == 0
        assert echo.events() == ["start-store", "start-cache", *["take-call"] * 5, *["answer-call"] * 5, "stop-cache", "stop-store"]
        assert echo.logs()[-1]["event"] == "stopped"


async def test_health_follows_readiness(tmp_path: Path) -> None:
    (tmp_path / "unready").touch()
    async with started(tmp_path) as echo:
        port = (await echo.ready())["port"]
        async with open_channel(f"127.0.0.1:{port}") as channel:
            health = HealthStub(channel).Watch(HealthCheckRequest())
            assert (await health.read()).status == HealthCheckResponse.NOT_SERVING
            await until(echo.logged("not serving"))
            (tmp_path / "unready").unlink()
            assert (await health.read()).status == HealthCheckResponse.SERVING
            (tmp_path / "unready").touch()
            assert (await health.read()).status == HealthCheckResponse.NOT_SERVING
        reasons = [line["reason"] for line in echo.logs() if line["event"] == "not serving"]
        assert reasons == ["store: the store is away"] * 2
        send(echo, signal.SIGTERM)
        assert await echo.ended() == 0


async def test_a_call_that_outlives_the_grace_is_given_up(tmp_path: Path) -> None:
    async with started(tmp_path, "--shutdown-grace-s", "0.2") as echo:
        port = (await echo.ready())["port"]
        async with open_channel(f"127.0.0.1:{port}") as channel:
            spread = channel.unary_stream(f"/{NAME}/Spread")(b"hold")
            assert await spread.read() == FIRST
            send(echo, signal.SIGTERM)
            with pytest.raises(UnavailableError), rpc_errors():
                await spread.read()
        assert await echo.ended() == 0
        assert echo.events()[-2:] == ["stop-cache", "stop-store"]


async def test_a_second_signal_aborts(tmp_path: Path) -> None:
    async with started(tmp_path) as echo:
        port = (await echo.ready())["port"]
        async with open_channel(f"127.0.0.1:{port}") as channel:
            spread = channel.unary_stream(f"/{NAME}/Spread")(b"hold")
            assert await spread.read() == FIRST
            send(echo, signal.SIGTERM)
            await until(echo.logged("stopping"))
            send(echo, signal.SIGTERM)
            assert await echo.ended() == 128 + signal.SIGTERM
            with pytest.raises(UnavailableError), rpc_errors():
                await spread.read()
        assert "stop-store" not in echo.events()


async def test_a_signal_during_the_start_stops_what_has_started(tmp_path: Path) -> None:
    (tmp_path / "hang").touch()
    async with started(tmp_path) as echo:
        await until(lambda: _handles_term(echo))
        send(echo, signal.SIGTERM)
        assert await echo.ended() == 0
        assert "ready" not in [line["event"] for line in echo.logs()]


def _handles_term(echo: EchoProcess) -> bool:
    """Tell whether the process catches SIGTERM by now."""
    status = Path(f"/proc/{echo.process.pid}/status").read_text()
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


async def test_a_part_that_cannot_start_ends_the_process_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    async with started(tmp_path) as echo:
        assert await echo.ended() == 1
        assert echo.events() == ["start-store", "stop-store"]
        (line,) = [line for line in echo.logs() if line["level"] == "error"]
        assert (line["event"], line["reason"]) == ("cannot start", "the cache is broken")
        assert "Traceback" not in (tmp_path / "log").read_text()


async def test_a_part_that_cannot_stop_does_not_keep_the_others_from_stopping(tmp_path: Path) -> None:
    (tmp_path / "crash").touch()
    async with started(tmp_path) as echo:
        await echo.ready()
        send(echo, signal.SIGTERM)
        assert await echo.ended() == 0
        assert echo.events()[-2:] == ["stop-cache", "stop-store"]
        assert echo.logged("did not stop cleanly")()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "set tokens_file, or listen on 127.0.0.1, or set allow_insecure"),
        (["--port", "http"], "port: Input should be a valid integer"),
    ],
)
async def test_wrong_settings_are_refused_with_what_to_do(tmp_path: Path, options: list[str], message: str) -> None:
    async with started(tmp_path, *options) as echo:
        assert await echo.ended() == 2
        text = (tmp_path / "log").read_text()
        assert message in text
        assert "Traceback" not in text


async def test_a_tokens_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    async with started(tmp_path, "--tokens-file", str(tmp_path / "missing")) as echo:
        assert await echo.ended() == 1
        reason = next(line["reason"] for line in echo.logs() if line["event"] == "cannot start")
        assert f"cannot read {tmp_path}/missing: No such file" in reason


async def test_metrics_are_served_beside_the_calls(tmp_path: Path) -> None:
    async with started(tmp_path) as echo:
        ready = await echo.ready()
        async with open_channel(f"127.0.0.1:{ready['port']}") as channel:
            await call(channel, "Unary")
        url = f"http://127.0.0.1:{ready['metrics_port']}/metrics"
        page = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=WAIT_S).read().decode())
        labels = f'grpc_method="Unary",grpc_service="{NAME}"'
        assert f"grpc_server_started_total{{{labels}}} 1.0" in page
        assert f'grpc_server_handled_total{{grpc_code="OK",{labels}}} 1.0' in page
        assert f'grpc_server_handling_seconds_bucket{{{labels},le="0.0005"}}' in page
        taken = str(ready["metrics_port"])
        other = tmp_path / "other"
        other.mkdir()
        async with started(other, "--metrics-port", taken) as second:
            assert await second.ended() == 1
            assert any("cannot serve metrics" in line.get("reason", "") for line in second.logs())
        send(echo, signal.SIGTERM)
        assert await echo.ended() == 0


async def test_the_metrics_of_a_process_without_a_server_say_whether_it_is_ready(tmp_path: Path) -> None:
    (tmp_path / "unready").touch()
    async with started(tmp_path, "--worker") as echo:
        url = f"http://127.0.0.1:{(await echo.ready())['metrics_port']}/metrics"
        await until(echo.logged("not serving"))
        with pytest.raises(UnavailableError, match="answers, but the process is not ready"):
            await check_metrics(url)
        (tmp_path / "unready").unlink()
        await until(echo.logged("serving"))
        await check_metrics(url)
        (tmp_path / "unready").touch()
        await until(lambda: [line["event"] for line in echo.logs()].count("not serving") == 2)
        with pytest.raises(UnavailableError, match="answers, but the process is not ready"):
            await check_metrics(url)
    with pytest.raises(UnavailableError, match="no answer at"):
        await check_metrics(url)


async def test_a_process_without_a_server_stops_the_same_way(tmp_path: Path) -> None:
    async with started(tmp_path, "--worker", "--metrics-port", "none") as echo:
        ready = await echo.ready()
        assert (ready["port"], ready["metrics_port"]) == (None, None)
        send(echo, signal.SIGTERM)
        assert await echo.ended() == 0
        assert echo.events() == ["start-store", "start-cache", "stop-cache", "stop-store"]


async def test_no_log_line_holds_a_token(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"{hash_token('swordfish')} reader me\n")
    (tmp_path / "token").write_text("swordfish")
    async with started(tmp_path, "--tokens-file", str(tmp_path / "tokens")) as echo:
        port = (await echo.ready())["port"]
        async with open_channel(f"127.0.0.1:{port}", ClientSettings(token_file=tmp_path / "token")) as channel:
            await call(channel, "Unary")
        send(echo, signal.SIGTERM)
        assert await echo.ended() == 0
        assert "swordfish" not in (tmp_path / "log").read_text()
