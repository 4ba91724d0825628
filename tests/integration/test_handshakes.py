"""What a caller is told when no safe connection comes about, with real servers and real certificates."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tessera.errors import UnavailableError
from tessera.rpc.channel import open_channel
from tessera.rpc.status import rpc_errors
from tessera.settings import ClientSettings, ServerSettings
from tests.fixtures.certificates import Authority, Pair
from tests.fixtures.echo import call, serving
from tests.fixtures.waiting import WAIT_S

DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


async def told(server: Pair | None, client: ClientSettings) -> str:
    """Return the error of a call to a server with this certificate, without its address."""
    settings = ServerSettings(tls_cert=server.cert, tls_key=server.key) if server else ServerSettings()
    async with serving(settings=settings) as address, open_channel(address, client) as channel:
        with pytest.raises(UnavailableError) as error, rpc_errors():
            await call(channel, "Unary", timeout=WAIT_S)
    head = f"the server at {address} cannot be reached: "
    assert error.value.message.startswith(head)
    return error.value.message.removeprefix(head)


async def test_a_certificate_that_expired(authority: Authority) -> None:
    expired = authority.issue("server", ends=datetime.now(UTC) - DAY)
    assert "its certificate has expired" in await told(expired, ClientSettings(tls_ca=authority.cert))


async def test_a_certificate_of_the_future(authority: Authority) -> None:
    early = authority.issue("server", ends=datetime.now(UTC) + 5 * DAY)
    assert "its certificate is not valid yet" in await told(early, ClientSettings(tls_ca=authority.cert))


async def test_a_certificate_for_another_name(authority: Authority) -> None:
    other = authority.issue("server", host="registry.example")
    assert "its certificate is for another name" in await told(other, ClientSettings(tls_ca=authority.cert))


async def test_a_certificate_that_nobody_known_vouches_for(authority: Authority, tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    assert "not vouched for by those of tls_ca" in await told(authority.issue("server"), ClientSettings(tls_ca=ours.cert))


async def test_a_call_in_the_clear_to_a_server_with_tls(authority: Authority) -> None:
    assert "speak TLS where the caller has no tls_ca" in await told(authority.issue("server"), ClientSettings())


async def test_a_call_with_tls_to_a_server_without(authority: Authority) -> None:
    assert "it speaks no TLS" in await told(None, ClientSettings(tls_ca=authority.cert))
