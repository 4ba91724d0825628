"""The health check of containers, as the process that a container runs, against real servers."""

import asyncio
import os
import socket
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from tessera.rpc.auth import hash_token
from tessera.rpc.server import GrpcServer
from tessera.settings import ServerSettings
from tests.fixtures.certificates import Authority
from tests.fixtures.echo import Echo, serving
from tests.fixtures.waiting import WAIT_S


async def probe(target: str, **environment: str) -> tuple[int | None, str]:
    """Return the exit code and what was printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tessera.probe", target),
        env={**os.environ, "http_proxy": "http://127.0.0.1:1", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    return process.returncode, printed.decode()


def one_line(printed: str, *words: str) -> bool:
    return printed.count("\n") == 1 and all(word in printed for word in words)


async def test_a_server_is_well_while_its_health_says_so() -> None:
    server = GrpcServer(ServerSettings(), [Echo().service()])
    await server.start()
    try:
        address = f"127.0.0.1:{server.port}"
        code, printed = await probe(address)
        assert (code, printed) == (1, f"{address} says NOT_SERVING\n")
        server.set_serving(True)
        assert await probe(address) == (0, "")
    finally:
        await server.stop(0)
    code, printed = await probe(address)
    assert code == 1 and one_line(printed, "UNAVAILABLE", "Connection refused"), printed


async def test_a_server_with_tls_and_tokens_is_asked_without_a_token(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("server")
    (tmp_path / "tokens").write_text(f"{hash_token('secret')} operator somebody\n")
    settings = ServerSettings(tls_cert=pair.cert, tls_key=pair.key, tokens_file=tmp_path / "tokens")
    async with serving(settings=settings) as address:
        assert await probe(address, TESSERA_PROBE_TLS_CA=str(authority.cert)) == (0, "")
        code, printed = await probe(address, TESSERA_PROBE_TLS_CA=str(Authority(tmp_path, "other").cert))
        assert code == 1 and one_line(printed, "CERTIFICATE_VERIFY_FAILED"), printed
        code, printed = await probe(address, TESSERA_PROBE_TLS_CA=str(tmp_path / "missing.pem"))
        assert code == 1 and one_line(printed, "cannot read", "missing.pem"), printed


async def test_a_server_that_wants_certificates_is_asked_with_one(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    server, own = authority.issue("server"), authority.issue("probe")
    async with serving(settings=ServerSettings(tls_cert=server.cert, tls_key=server.key, tls_client_ca=authority.cert)) as address:
        names = {"TESSERA_PROBE_TLS_CA": authority.cert, "TESSERA_PROBE_TLS_CERT": own.cert, "TESSERA_PROBE_TLS_KEY": own.key}
        assert await probe(address, **{name: str(path) for name, path in names.items()}) == (0, "")


async def test_a_process_without_a_server_is_well_while_its_metrics_say_so() -> None:
    registry = CollectorRegistry()
    ready = Gauge("process_ready", "1 while ready", registry=registry)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    url = f"http://127.0.0.1:{server.server_port}/metrics"
    try:
        code, printed = await probe(url)
        assert code == 1 and one_line(printed, "does not say process_ready 1"), printed
        ready.set(1)
        assert await probe(url) == (0, "")
    finally:
        server.shutdown()
        server.server_close()
        await asyncio.to_thread(thread.join)
    code, printed = await probe(url)
    assert code == 1 and one_line(printed, "Connection refused"), printed


async def test_a_server_that_is_stuck_is_given_up_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as stuck:  # takes the connection and says nothing
        port = stuck.getsockname()[1]
        targets = (f"127.0.0.1:{port}", f"http://127.0.0.1:{port}/metrics")
        for code, printed in await asyncio.wait_for(asyncio.gather(*map(probe, targets)), WAIT_S):
            assert code == 1 and one_line(printed, "does not answer"), printed
