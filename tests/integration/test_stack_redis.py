"""The Redis of the embedded stack, as the stack starts it."""

import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError

from tessera.errors import UnavailableError
from tessera.queue import connect, training_queue
from tessera.stack.checks import check_redis
from tessera.stack.home import Home
from tessera.stack.ports import Ports
from tessera.stack.program import Program, embedded_programs
from tests.fixtures.ports import free_port_base
from tests.fixtures.waiting import until


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / 'a "home" with \\ in it')
    made.make()
    made.redis_settings.touch(mode=0o644)
    return made


@pytest.fixture
async def programs(home: Home) -> AsyncIterator[dict[str, Program]]:
    """The programs of a stack, of which Redis runs."""
    found = {program.name: program for program in embedded_programs(home, Ports(free_port_base()))}
    with subprocess.Popen(found["redis"].command, stdout=subprocess.DEVNULL) as process:
        try:
            await until(lambda: psutil.Process(process.pid).net_connections() or process.poll() is not None)
            yield found
            await found["redis"].check()
            command = psutil.Process(process.pid).cmdline()
            assert not any(password_of(found) in part for part in [*command, *found["redis"].command])
        finally:
            process.kill()


def password_of(programs: dict[str, Program]) -> str:
    return programs["trainer"].env["TESSERA_TRAINER_REDIS_URL"].removeprefix("redis://:").partition("@")[0]


async def test_the_services_reach_redis_by_its_password_and_nobody_else_does(home: Home, programs: dict[str, Program]) -> None:
    await programs["redis"].check()
    for service in ("trainer", "worker"):
        client = connect(programs[service].env[f"TESSERA_{service.upper()}_REDIS_URL"])
        assert await training_queue(client, "family", lease_s=30).add({"job_id": service})
        await client.aclose()
    stranger = Redis.from_url(f"redis://{programs['redis'].address}/0")
    with pytest.raises(AuthenticationError):
        await stranger.xadd("tessera:jobs:family", {"job_id": "injected"})
    await stranger.aclose()
    with pytest.raises(UnavailableError, match="WRONGPASS"):
        await check_redis(programs["redis"].address, "guess")
    assert len(password_of(programs)) >= 32
    assert stat.S_IMODE(home.redis_settings.stat().st_mode) == 0o600


async def test_no_job_is_lost_forgotten_or_kept_in_memory_alone(home: Home, programs: dict[str, Program]) -> None:
    client = connect(programs["worker"].env["TESSERA_WORKER_REDIS_URL"])
    settings: Any = await client.config_get("*")
    await client.aclose()
    assert {name: settings[name] for name in ("appendonly", "appendfsync", "maxmemory-policy", "dir", "bind")} == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "dir": str(home.redis),
        "bind": "127.0.0.1",
    }


def test_every_start_has_another_password(home: Home) -> None:
    first, second = (password_of({p.name: p for p in embedded_programs(home, Ports(9000))}) for _ in range(2))
    assert first != second
    assert second in home.redis_settings.read_text()
