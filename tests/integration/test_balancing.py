"""One address that names several servers: a client asks them in turn, over TLS and with a token, and outlives the death of one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from pydantic import SecretStr

from tessera.client.calls import call
from tessera.errors import InvalidArgumentError, UnavailableError
from tessera.rpc.auth import hash_token
from tessera.rpc.channel import open_channel
from tessera.settings import ClientSettings
from tests.fixtures.certificates import Authority
from tests.fixtures.echo import NAME
from tests.fixtures.echo_program import EchoProcess, started
from tests.fixtures.ports import free_port
from tests.fixtures.waiting import WAIT_S, until

SERVERS = 3
TOKEN = "of-a-reader"


@dataclass
class Servers:
    """Processes with TLS and tokens, each with a directory of its own.

    Args:
        start: Starts another one with further options; it ends with the test.
        running: Those that were started at first.
        settings: Of a client that may call them.
    """

    start: Callable[..., Awaitable[EchoProcess]]
    running: list[EchoProcess]
    settings: ClientSettings

    async def address(self) -> str:
        """Return the address that names all that were started at first."""
        return "ipv4:" + ",".join([f"127.0.0.1:{(await server.ready())['port']}" for server in self.running])


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("server")
    (tmp_path / "tokens").write_text(f"{hash_token(TOKEN)} reader reader@lab\n")
    (tmp_path / "token").write_text(TOKEN)
    options = ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--tokens-file", str(tmp_path / "tokens"))
    settings = ClientSettings(tls_ca=authority.cert, token_file=tmp_path / "token")
    async with AsyncExitStack() as stack:

        async def start(name: str, *more: str) -> EchoProcess:
            (tmp_path / name).mkdir()
            return await stack.enter_async_context(started(tmp_path / name, *options, *more))

        yield Servers(start, [await start(str(number), "--port", str(free_port())) for number in range(SERVERS)], settings)


async def ask(channel: grpc.aio.Channel, request: bytes = b"ping") -> bytes:
    """Ask as our clients do where a request may safely happen twice."""
    method = channel.unary_unary(f"/{NAME}/Unary")
    return bytes(await call(method, request, timeout_s=WAIT_S, repeatable=True))


def taken(server: EchoProcess) -> int:
    """Return how many calls have begun there."""
    return server.events().count("take-call")


async def test_all_servers_are_asked_in_turn_and_one_that_is_killed_costs_no_request(servers: Servers) -> None:
    victim, *others = servers.running
    async with open_channel(await servers.address(), servers.settings) as channel:
        while not all(map(taken, servers.running)):
            assert await ask(channel) == b"ping"

        before = [taken(server) for server in servers.running]
        held: list[asyncio.Task[bytes]] = []
        while any(taken(server) == count for server, count in zip(servers.running, before, strict=True)):
            held.append(asyncio.create_task(ask(channel, b"hold")))
            await until(lambda: sum(map(taken, servers.running)) == sum(before) + len(held))
        victim.process.kill()
        await victim.ended()
        for server in others:
            (server.directory / "release").touch()
        assert await asyncio.gather(*held) == [b"hold"] * len(held)
        assert victim.events()[-1] == "take-call", "it had a call in its hands"

        port = (await victim.ready())["port"]
        successor = await servers.start("successor", "--port", str(port))
        await successor.ready()
        while not taken(successor):
            assert await ask(channel) == b"ping"


async def test_where_none_of_them_can_be_reached_one_is_named() -> None:
    first, second = free_port(), free_port()
    async with open_channel(f"ipv4:127.0.0.1:{first},127.0.0.1:{second}") as channel:
        with pytest.raises(UnavailableError, match=rf"at 127\.0\.0\.1:({first}|{second}) cannot be reached: nobody listens there"):
            await ask(channel)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ipv4:localhost:8101,localhost:8102", "must read ipv4:IP:PORT,IP:PORT, not"),
        ("ipv4:127.0.0.1:8101,", "must read ipv4:IP:PORT,IP:PORT, not"),
        ("ipv4:127.0.0.1", "must read ipv4:IP:PORT,IP:PORT, not"),
        ("ipv6:127.0.0.1:8101", r"must read ipv6:\[IP\]:PORT,\[IP\]:PORT, not"),
        ("127.0.0.1:8101,127.0.0.1:8102", "several servers must read ipv4:IP:PORT,IP:PORT, not"),
    ],
)
def test_a_list_that_grpc_would_not_read_is_refused(address: str, said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        open_channel(address)


async def test_a_token_is_not_sent_in_the_clear_if_one_of_them_is_another_machine() -> None:
    settings = ClientSettings(token=SecretStr(TOKEN))
    for here in ("ipv4:127.0.0.1:8101,127.0.0.2:8101", "ipv6:[::1]:8101,[::1]:8102"):
        await open_channel(here, settings).close()
    with pytest.raises(InvalidArgumentError, match=r"in the clear to ipv4:127\.0\.0\.1:8101,192\.0\.2\.7:8101"):
        open_channel("ipv4:127.0.0.1:8101,192.0.2.7:8101", settings)
