"""Every container killed by SIGKILL and then restarted, while requests are answered, queued requests computed and a job trains."""

import pytest

from tests.compose.conftest import MODEL, Served
from tests.compose.stack import SERVICES, Stack, until


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_lost_when_a_container_dies_and_when_it_is_restarted(stack: Stack, served: Served, service: str) -> None:
    job = served.submit(epochs=100)
    with served.load() as load:
        until(lambda: served.job(job).progress.epoch > 0, "the job does not train")
        killed = stack.container(service)
        stack.kill(killed)
        stack.wait_for_another_start(killed)
        load.go_on()
        running = stack.container(service)
        stack.compose("restart", service)
        stack.wait_for_another_start(running)
        load.go_on()
        served.finish(job)


def test_afterwards_the_registry_is_whole(stack: Stack, served: Served) -> None:
    made = {served.finish(job).version for job in served.jobs}

    async def look() -> None:
        async with stack.client() as client:
            versions = {version.version async for version in client.registry.list_versions(MODEL)}
            assert versions >= made
            assert versions == set(range(1, max(versions) + 1))
            for version in sorted(versions):
                verified = await client.registry.verify_version(MODEL, version)
                assert verified.intact, verified.problems
            history = [change async for change in client.registry.alias_history(MODEL, "champion")]
            steps = [(change.from_version, change.to_version) for change in reversed(history)]
            assert [begin for begin, _ in steps] == [0, *(end for _, end in steps[:-1])]
            assert (await client.registry.get_model(MODEL)).aliases["champion"] == steps[-1][1]

    stack.ask(look())
