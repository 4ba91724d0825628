"""A backup of the running stack, and its restoration into an empty one."""

from pathlib import Path
from typing import Any

from tests.compose.conftest import MODEL, Served
from tests.compose.stack import OURS, Stack

STOPPED_BY_THEMSELVES = ("postgres", "redis", *OURS)


def contents(stack: Stack) -> dict[str, Any]:
    """Return what the registry and the trainer hold."""

    async def read() -> dict[str, Any]:
        async with stack.client() as client:
            return {
                "versions": [(v.model, v.version, v.digest) async for v in client.registry.list_versions()],
                "aliases": {m.name: dict(m.aliases) async for m in client.registry.list_models()},
                "history": [(c.to_version, c.actor, c.reason) async for c in client.registry.alias_history(MODEL)],
                "experiments": [e.id async for e in client.registry.list_experiments()],
                "jobs": [(j.id, j.state, j.version) async for j in client.trainer.list_jobs()],
            }

    return stack.ask(read())


def verify(stack: Stack) -> None:
    """Have every version read again."""

    async def read() -> None:
        async with stack.client() as client:
            async for version in client.registry.list_versions():
                verified = await client.registry.verify_version(version.model, version.version)
                assert verified.intact, verified.problems

    stack.ask(read())


def test_a_backup_restores_everything_into_an_empty_stack(stack: Stack, served: Served, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    with served.load():
        assert "backed up 3 databases" in stack.run("scripts/backup.sh", str(backup))
    first = {path.name for path in (backup / "blobs").iterdir()}
    served.finish(served.submit(epochs=5))  # no other test trains as long, and makes the same files
    stack.run("scripts/backup.sh", str(backup))
    assert {path.name for path in (backup / "blobs").iterdir()} > first, "what is new was added"
    before = contents(stack)

    stack.compose("stop")
    codes = {service: stack.container(service)["State"]["ExitCode"] for service in STOPPED_BY_THEMSELVES}
    assert codes == dict.fromkeys(STOPPED_BY_THEMSELVES, 0), "one that has to be killed exits with 137"
    stack.compose("down", "--volumes")
    said = stack.run("scripts/restore.sh", str(backup))
    assert f"{len(list((backup / 'blobs').iterdir()))} blobs stored" in said
    stack.up()
    assert contents(stack) == before
    verify(stack)
    with served.load() as load:
        load.go_on(20)


def test_a_stack_that_runs_or_holds_something_is_not_overwritten(stack: Stack, served: Served, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    stack.run("scripts/backup.sh", str(backup))
    assert "docker compose down" in refused(stack, backup)
    stack.compose("down")
    assert "the registry is not empty" in refused(stack, backup)
    stack.up()
    verify(stack)


def refused(stack: Stack, backup: Path) -> str:
    try:
        stack.run("scripts/restore.sh", str(backup))
    except AssertionError as error:
        return str(error)
    raise AssertionError("it was restored")
