"""What the holders of tokens may do to the aliases of a registry: what production uses is moved by operators, and by jobs forward."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from services.registry.servicer import registry_service
from services.registry.streams import Transfers
from tessera.api.common.v1.common_pb2 import Fence
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.cli.main import app
from tessera.client.aliases import move_alias_once
from tessera.client.registry import RegistryClient
from tessera.errors import FailedPreconditionError, PermissionDeniedError
from tessera.rpc.auth import Role, hash_token
from tessera.rpc.channel import open_channel
from tessera.rpc.server import GrpcServer
from tessera.settings import ClientSettings, ServerSettings
from tests.fixtures.artifacts import Artifact
from tests.fixtures.registry import RegistryServer


class Guarded:
    """A registry that wants tokens: version 1 was registered by an operator and is the champion, versions 2 and 3 by the jobs a and b."""

    def __init__(self, address: str, clients: dict[Role, RegistryClient]) -> None:
        self.address = address
        self.reader, self.publisher, self.operator = (clients[role] for role in Role)


@pytest.fixture
async def guarded(registry_server: RegistryServer, tmp_path: Path) -> AsyncIterator[Guarded]:
    tokens = tmp_path / "tokens"
    tokens.write_text("".join(f"{hash_token(role.name)} {role.name.lower()} {role.name.lower()}@lab\n" for role in Role))
    server = GrpcServer(ServerSettings(tokens_file=tokens), [registry_service(registry_server.registry, Transfers())])
    await server.start()
    server.set_serving(True)
    address = f"127.0.0.1:{server.port}"
    async with AsyncExitStack() as stack:
        channels = {role: open_channel(address, ClientSettings(token=SecretStr(role.name))) for role in Role}
        found = Guarded(address, {role: RegistryClient(await stack.enter_async_context(channel)) for role, channel in channels.items()})
        await found.operator.create_model("cells")
        await found.operator.create_version("cells", Artifact(seed=1).store(registry_server.store))
        await found.operator.set_alias("cells", "champion", 1)
        for seed, job in enumerate("ab", start=2):
            manifest = Artifact(seed=seed).store(registry_server.store)
            await found.publisher.create_version("cells", manifest, idempotency_key=f"job/{job}", fence=fence(job))
        yield found
    await server.stop(0)


def fence(job: str) -> Fence:
    return Fence(key=f"job/{job}", token=1)


async def champion(guarded: Guarded) -> int:
    return (await guarded.reader.get_model("cells")).aliases["champion"]


async def test_a_publisher_does_not_move_the_champion_by_hand(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = "SetAlias without the fence of a job needs the role operator; publisher@lab is publisher"
    for version in (1, 2):
        with pytest.raises(PermissionDeniedError, match=refused):
            await guarded.publisher.set_alias("cells", "champion", version)
    with pytest.raises(PermissionDeniedError, match="DeleteAlias needs the role operator"):
        await guarded.publisher.delete_alias("cells", "champion")
    monkeypatch.setenv("TESSERA_REGISTRY_ADDRESS", guarded.address)
    monkeypatch.setenv("TESSERA_TOKEN", Role.PUBLISHER.name)
    result = await asyncio.to_thread(CliRunner().invoke, app, ["alias", "set", "cells", "champion", "2"])
    assert result.exit_code == 1
    assert refused in result.stderr
    assert "Use a token with a higher role" in result.stderr
    assert await champion(guarded) == 1


async def test_a_job_points_an_alias_at_its_own_version_and_at_no_other(guarded: Guarded) -> None:
    await move_alias_once(guarded.publisher, "cells", "champion", 2, reason="job a", fence=fence("a"))
    assert await champion(guarded) == 2
    for version in (1, 3):
        with pytest.raises(FailedPreconditionError, match=f"version {version} of 'cells' was not made by 'job/a'"):
            await guarded.publisher.set_alias("cells", "champion", version, fence=fence("a"))
    assert await champion(guarded) == 2
    history = [change async for change in guarded.reader.alias_history("cells")]
    assert [change.actor for change in history] == ["publisher@lab", "operator@lab"]


async def test_a_reader_moves_nothing(guarded: Guarded) -> None:
    with pytest.raises(PermissionDeniedError, match="SetAlias needs the role publisher; reader@lab is reader"):
        await guarded.reader.set_alias("cells", "champion", 2, fence=fence("a"))
    assert await champion(guarded) == 1


async def test_an_operator_moves_everything(guarded: Guarded) -> None:
    await guarded.operator.set_alias("cells", "champion", 3)
    assert await champion(guarded) == 3
    await guarded.operator.delete_alias("cells", "champion")
    assert dict((await guarded.reader.get_model("cells")).aliases) == {}


async def test_a_rollout_is_an_operators_but_servers_may_roll_it_back(guarded: Guarded) -> None:
    for client in (guarded.reader, guarded.publisher):
        with pytest.raises(PermissionDeniedError, match="StartRollout needs the role operator"):
            await client.start_rollout("cells", 2)
    started = await guarded.operator.start_rollout("cells", 2, weight_percent=10.0)
    with pytest.raises(PermissionDeniedError, match="UpdateRollout needs the role operator"):
        await guarded.publisher.update_rollout("cells", weight_percent=100.0)
    for outcome in (pb.ROLLOUT_STATE_PROMOTED, pb.ROLLOUT_STATE_ABORTED):
        with pytest.raises(PermissionDeniedError, match="EndRollout other than by ROLLED_BACK needs the role operator"):
            await guarded.publisher.end_rollout("cells", outcome)
    with pytest.raises(PermissionDeniedError, match="EndRollout needs the role publisher"):
        await guarded.reader.end_rollout("cells", pb.ROLLOUT_STATE_ROLLED_BACK, expected_revision=started.revision)
    await guarded.publisher.end_rollout("cells", pb.ROLLOUT_STATE_ROLLED_BACK, expected_revision=started.revision, reason="it fails")
    history = [change async for change in guarded.reader.rollout_history("cells")]
    assert [(change.actor, change.reason) for change in history] == [("publisher@lab", "it fails"), ("operator@lab", "")]
    assert await champion(guarded) == 1
