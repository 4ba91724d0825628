"""Certificates and tokens that are replaced while a process runs: it goes on with the new ones, without a restart."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from pydantic import SecretStr

from tessera.errors import TesseraError, UnauthenticatedError, UnavailableError
from tessera.rpc.auth import hash_token
from tessera.rpc.channel import open_channel
from tessera.rpc.status import rpc_errors
from tessera.settings import ClientSettings
from tests.fixtures.certificates import Authority, Pair
from tests.fixtures.echo import FIRST, NAME, call
from tests.fixtures.echo_program import started
from tests.fixtures.ports import free_port
from tests.fixtures.waiting import WAIT_S, until

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def with_tls(pair: Pair) -> tuple[str, ...]:
    return ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key))


async def eventually(attempt: Callable[[], Awaitable[bool]]) -> None:
    """Try again and again until it works."""
    async with asyncio.timeout(WAIT_S):
        while not await attempt():
            await asyncio.sleep(0.05)


async def shown(port: int) -> bytes:
    """Return the certificate (PEM) that a new connection is shown."""
    anything = ssl.create_default_context()
    anything.check_hostname, anything.verify_mode = False, ssl.CERT_NONE
    anything.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=anything)
    certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return ssl.DER_cert_to_PEM_cert(certificate).encode()


async def ask(port: int, settings: ClientSettings, request: bytes = b"ping") -> list[bytes]:
    """Call on a connection of its own."""
    async with open_channel(f"127.0.0.1:{port}", settings) as channel:
        with rpc_errors():
            return await call(channel, "Unary", request, timeout=WAIT_S)


async def test_health_follows_a_certificate_that_expires_and_is_renewed(tmp_path: Path, authority: Authority) -> None:
    trusting = ClientSettings(tls_ca=authority.cert)
    async with started(tmp_path, *with_tls(authority.issue("server"))) as echo:
        port = (await echo.ready())["port"]
        async with open_channel(f"127.0.0.1:{port}", trusting) as channel:
            health = HealthStub(channel).Watch(HealthCheckRequest(), timeout=3 * WAIT_S)
            while (await health.read()).status != SERVING:
                pass
            authority.issue("server", ends=datetime.now(UTC) - timedelta(hours=1))
            assert (await health.read()).status == NOT_SERVING
            assert echo.logged("not serving", "server.crt expired at")()
            with pytest.raises(UnavailableError, match="its certificate has expired"):
                await ask(port, trusting)
            renewed = authority.issue("server")
            assert (await health.read()).status == SERVING
        assert echo.logged("certificate read again")()
        assert await shown(port) == renewed.cert.read_bytes()
        assert await ask(port, trusting) == [b"ping"]
        assert not echo.logged("the certificate expires soon")()


async def test_a_certificate_that_expired_before_the_start_is_waited_for(tmp_path: Path, authority: Authority) -> None:
    expired = authority.issue("server", ends=datetime.now(UTC) - timedelta(hours=1))
    async with started(tmp_path, *with_tls(expired)) as echo:
        port = (await echo.ready())["port"]
        await until(echo.logged("not serving", "certificate: "))
        authority.issue("server", ends=datetime.now(UTC) + timedelta(hours=1))
        await until(echo.logged("serving"))
        assert await ask(port, ClientSettings(tls_ca=authority.cert)) == [b"ping"]
        assert echo.logged("the certificate expires soon")()


async def test_a_new_certificate_that_cannot_be_used_leaves_the_old_one(tmp_path: Path, authority: Authority) -> None:
    pair = authority.issue("server")
    old, trusting = pair.cert.read_bytes(), ClientSettings(tls_ca=authority.cert)
    async with started(tmp_path, *with_tls(pair)) as echo:
        port = (await echo.ready())["port"]
        for broken, reason in ((old[:300], "tls_cert holds no certificate"), (b"", "tls_cert holds no certificate")):
            pair.cert.write_bytes(broken)
            await until(echo.logged("the new certificate cannot be used, the old stays", reason))
            assert await ask(port, trusting) == [b"ping"]
        new_key = Authority(tmp_path, "other").issue("other").key.read_bytes()
        pair.cert.write_bytes(old)
        pair.key.write_bytes(new_key)
        await until(echo.logged("the new certificate cannot be used, the old stays", "tls_key is not the key"))
        pair.key.unlink()
        await until(echo.logged("the new certificate cannot be used, the old stays", "cannot read"))
        assert await shown(port) == old
        assert not echo.logged("not serving")()
        whole = authority.issue("server")
        await until(echo.logged("certificate read again"))
        assert await shown(port) == whole.cert.read_bytes()


async def test_tokens_are_given_changed_and_taken_back_without_a_restart(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"

    def grant(**roles: str) -> None:
        tokens.write_text("".join(f"{hash_token(token)} {role} {token}@lab\n" for token, role in roles.items()))

    async def refused(token: str) -> str:
        try:
            await ask(port, ClientSettings(token=SecretStr(token)))
        except UnauthenticatedError as error:
            return error.message
        return ""

    async def becomes(token: str, message: str) -> None:
        async def as_expected() -> bool:
            return await refused(token) == message

        await eventually(as_expected)

    grant(alice="reader")
    async with started(tmp_path, "--tokens-file", str(tokens)) as echo:
        port = (await echo.ready())["port"]
        assert [await refused("alice"), await refused("bob")] == ["", "this token is not known here"]
        grant(alice="reader", bob="operator")
        await becomes("bob", "")
        grant(bob="operator")
        await becomes("alice", "this token is not known here")
        tokens.write_text("swordfish reader alice\n")
        await until(echo.logged("the new tokens file cannot be used, the old stays", "line 1: must read"))
        assert "swordfish" not in (tmp_path / "log").read_text()
        assert [await refused("alice"), await refused("bob")] == ["this token is not known here", ""]
        grant(alice="reader")
        await becomes("bob", "this token is not known here")


@asynccontextmanager
async def patient_caller(port: int, tmp_path: Path, authority: Authority) -> AsyncIterator[grpc.aio.Channel]:
    """Yield a channel that trusts what `trusted` holds and shows the token that `mine` holds."""
    (tmp_path / "trusted").write_bytes(authority.cert.read_bytes())
    (tmp_path / "mine").write_text("first")
    settings = ClientSettings(tls_ca=tmp_path / "trusted", token_file=tmp_path / "mine")
    async with open_channel(f"127.0.0.1:{port}", settings) as channel:
        yield channel


async def test_a_caller_takes_another_authority_and_another_token_without_a_restart(tmp_path: Path, authority: Authority) -> None:
    port, tokens = free_port(), tmp_path / "tokens"
    tokens.write_text(f"{hash_token('first')} reader first\n{hash_token('second')} reader second\n")
    options = ("--port", str(port), "--tokens-file", str(tokens))
    async with patient_caller(port, tmp_path, authority) as channel:

        async def answered() -> bool:
            try:
                with rpc_errors():
                    return await call(channel, "Unary", timeout=WAIT_S) == [b"ping"]
            except TesseraError:
                return False

        async with started(tmp_path, *with_tls(authority.issue("server")), *options) as echo:
            await echo.ready()
            assert await answered()
            held = channel.unary_stream(f"/{NAME}/Spread")(b"hold")
            assert await held.read() == FIRST
            (tmp_path / "trusted").write_bytes(authority.cert.read_bytes() + Authority(tmp_path, "next").cert.read_bytes())
            (tmp_path / "mine").write_text("second")
            tokens.write_text(f"{hash_token('second')} reader second\n")
            await until(echo.logged("tokens file read again"))
            await eventually(answered)
            (tmp_path / "release").touch()
            assert await held.read() == b"hold"  # what was on its way when the certificates changed
        next_authority = Authority(tmp_path, "last")
        async with started(tmp_path, *with_tls(next_authority.issue("server")), *options) as echo:
            await echo.ready()
            assert not await answered()
            (tmp_path / "trusted").write_bytes(next_authority.cert.read_bytes())
            await eventually(answered)
