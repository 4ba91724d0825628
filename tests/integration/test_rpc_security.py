"""Tokens, TLS and mutual TLS on real servers."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub
from pydantic import SecretStr

from tessera.errors import FailedPreconditionError, InvalidArgumentError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from tessera.rpc.auth import Role, current_identity, hash_token
from tessera.rpc.channel import open_channel
from tessera.rpc.server import GrpcServer, Service
from tessera.rpc.status import rpc_errors
from tessera.settings import ClientSettings, ServerSettings
from tests.fixtures.certificates import Authority
from tests.fixtures.echo import KINDS, NAME, Echo, call, connected, descriptor, serving
from tests.fixtures.waiting import WAIT_S


@pytest.fixture
def tokens_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("".join(f"{hash_token(role.name)} {role.name.lower()} {role.name.lower()}@lab\n" for role in Role))
    return path


async def who(request: bytes, context: Any) -> bytes:
    return current_identity().encode()


def holder(role: Role) -> ClientSettings:
    return ClientSettings(token=SecretStr(role.name))


async def reflected(channel: grpc.aio.Channel) -> list[str]:
    stream = ServerReflectionStub(channel).ServerReflectionInfo(iter([ServerReflectionRequest(list_services="")]))
    return [service.name for answer in [answer async for answer in stream] for service in answer.list_services_response.service]


@pytest.mark.parametrize("least", list(Role))
@pytest.mark.parametrize("held", list(Role))
async def test_roles_decide_on_a_whole_server(tokens_file: Path, held: Role, least: Role) -> None:
    settings = ServerSettings(tokens_file=tokens_file)
    async with serving(who, settings, least) as address, open_channel(address, holder(held)) as channel:
        for kind in KINDS:
            if held >= least:
                assert (await call(channel, kind))[-1] == f"{held.name.lower()}@lab".encode()
            else:
                with pytest.raises(PermissionDeniedError), rpc_errors():
                    await call(channel, kind)


async def test_a_token_comes_from_a_file_too(tokens_file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("PUBLISHER\n")
    async with connected(who, ServerSettings(tokens_file=tokens_file), ClientSettings(token_file=tmp_path / "mine")) as channel:
        assert await call(channel, "Unary") == [b"publisher@lab"]


async def test_without_a_token_only_health_is_open(tokens_file: Path) -> None:
    async with connected(who, ServerSettings(tokens_file=tokens_file)) as channel:
        for kind in (*KINDS, "Watch"):
            with pytest.raises(UnauthenticatedError), rpc_errors():
                await call(channel, kind)
        health = await HealthStub(channel).Check(HealthCheckRequest(service=NAME))
        assert health.status == HealthCheckResponse.SERVING
        with pytest.raises(UnauthenticatedError), rpc_errors():
            await reflected(channel)


async def test_reflection_needs_a_reader(tokens_file: Path) -> None:
    async with connected(who, ServerSettings(tokens_file=tokens_file), holder(Role.READER)) as channel:
        assert set(await reflected(channel)) == {NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_an_open_loopback_server_asks_nobody() -> None:
    async with connected(who) as channel:
        assert await call(channel, "Unary") == [b"anonymous"]
        assert NAME in await reflected(channel)


async def test_a_wrong_tokens_file_keeps_the_server_from_starting(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"cannot read .*missing: No such file"):
        GrpcServer(ServerSettings(tokens_file=tmp_path / "missing"), [])


def test_every_method_must_have_a_role() -> None:
    with pytest.raises(ValueError, match=r"missing \['Chat', .*unknown \['Guess'\]"):
        Service(Echo().add_to_server, Echo(), descriptor(), {"Unary": Role.READER, "Guess": Role.READER})


def test_a_token_is_never_sent_in_the_clear_to_another_machine() -> None:
    with pytest.raises(InvalidArgumentError, match=r"in the clear to registry\.example\.com:8010: set tls_ca, or allow_insecure"):
        open_channel("registry.example.com:8010", holder(Role.READER))


@pytest.mark.parametrize("token", ["", " ", "two words", "schlüssel", "line\nbreak"])
def test_a_token_that_cannot_be_sent_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgumentError, match="the token is empty or holds") as error:
        open_channel("127.0.0.1:1", ClientSettings(token=SecretStr(token)))
    assert not token.strip() or token not in error.value.message


async def test_tls_is_spoken_and_the_clear_is_not(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("server")
    async with serving(who, ServerSettings(tls_cert=pair.cert, tls_key=pair.key)) as address:
        async with open_channel(address, ClientSettings(tls_ca=authority.cert)) as channel:
            for kind in KINDS:
                assert (await call(channel, kind))[-1] == b"anonymous"
        async with open_channel(address) as channel:
            with pytest.raises(UnavailableError), rpc_errors():
                await call(channel, "Unary", timeout=WAIT_S)


async def test_a_server_that_another_authority_vouches_for_is_not_trusted(tmp_path: Path) -> None:
    pair = Authority(tmp_path, "theirs").issue("server")
    ours = Authority(tmp_path, "ours")
    async with connected(who, ServerSettings(tls_cert=pair.cert, tls_key=pair.key), ClientSettings(tls_ca=ours.cert)) as channel:
        with pytest.raises(UnavailableError, match="not vouched for by those of tls_ca"), rpc_errors():
            await call(channel, "Unary", timeout=WAIT_S)


async def test_mutual_tls_asks_for_a_certificate_and_tokens_still_count(tmp_path: Path, tokens_file: Path) -> None:
    authority = Authority(tmp_path, "authority")
    server, client, stranger = authority.issue("server"), authority.issue("client"), Authority(tmp_path, "other").issue("stranger")
    settings = ServerSettings(tls_cert=server.cert, tls_key=server.key, tls_client_ca=authority.cert, tokens_file=tokens_file)
    async with serving(who, settings) as address:

        async def answer(**given: Any) -> list[bytes]:
            async with open_channel(address, ClientSettings(tls_ca=authority.cert, **given)) as channel:
                with rpc_errors():
                    return await call(channel, "Unary", timeout=WAIT_S)

        token = SecretStr("READER")
        assert await answer(tls_cert=client.cert, tls_key=client.key, token=token) == [b"reader@lab"]
        with pytest.raises(UnauthenticatedError):
            await answer(tls_cert=client.cert, tls_key=client.key)
        with pytest.raises(UnavailableError):
            await answer(token=token)
        with pytest.raises(UnavailableError):
            await answer(tls_cert=stranger.cert, tls_key=stranger.key, token=token)


async def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.pem"
    with pytest.raises(InvalidArgumentError, match=r"cannot read .*missing\.pem: No such file"):
        GrpcServer(ServerSettings(tls_cert=missing, tls_key=missing), [])
    with pytest.raises(InvalidArgumentError, match=r"cannot read .*missing\.pem: No such file"):
        open_channel("127.0.0.1:1", ClientSettings(tls_ca=missing))


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with serving() as address:
        taken = GrpcServer(ServerSettings(port=int(address.rpartition(":")[2])), [])
        with pytest.raises(FailedPreconditionError, match="cannot listen on"):
            await taken.start()
        await taken.stop(0)


async def test_stopping_what_never_started_does_nothing() -> None:
    await GrpcServer(ServerSettings(), []).stop(0)
