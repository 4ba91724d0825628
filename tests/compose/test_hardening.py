"""Who may do what in the running containers: users, files, networks, ports."""

import json

import pytest

from tests.compose.stack import OURS, SERVICES, Stack

# Who reaches whom, by the ports that carry something worth protecting.
TARGETS = {
    "postgres": 5432,
    "redis": 6379,
    "minio": 9000,
    "registry": 8010,
    "trainer": 8020,
    "inference": 8001,
    "torchserve": 7071,
}
MAY_REACH = {
    "registry": {"postgres", "minio", "trainer", "inference"},
    "trainer": {"postgres", "redis", "registry", "inference"},
    "worker": {"minio", "redis", "registry", "trainer", "inference"},
    "inference": {"postgres", "redis", "minio", "registry", "trainer", "torchserve"},
    "torchserve": {"inference"},
}
DIAL = """
import asyncio, json, sys

async def dial(host, port):
    try:
        await asyncio.wait_for(asyncio.open_connection(host, port), 5)
    except (OSError, asyncio.TimeoutError):
        return False
    return True

async def main(targets):
    return await asyncio.gather(*(dial(host, port) for host, port in targets))

print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
"""


@pytest.mark.parametrize("service", OURS)
def test_a_container_reaches_only_whom_it_needs(stack: Stack, service: str) -> None:
    """By name, and by every address: a network that one does not join stays closed even to who knows an address."""
    others = {name: port for name, port in TARGETS.items() if name != service}
    reached = {name for name, port in others.items() if any(dial(stack, service, [(name, port)]))}
    assert reached == MAY_REACH[service]
    closed = [(address, others[name]) for name in others.keys() - MAY_REACH[service] for address in addresses(stack, name)]
    assert closed or service == "inference"
    assert not any(dial(stack, service, closed))


def addresses(stack: Stack, service: str) -> list[str]:
    return [network["IPAddress"] for network in stack.container(service)["NetworkSettings"]["Networks"].values()]


def dial(stack: Stack, service: str, targets: list[tuple[str, int]]) -> list[bool]:
    found: list[bool] = json.loads(stack.python(service, DIAL, json.dumps(targets)))
    return found


@pytest.mark.parametrize("service", OURS)
def test_our_processes_are_nobody_special_and_cannot_change_their_programs(stack: Stack, service: str) -> None:
    program = """
import os, pathlib
print(os.getuid(), os.getgid())
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
print(int(status["CapEff"], 16), status["NoNewPrivs"].strip())
for folder in ("/", "/app", "/opt/venv", "/etc", "/usr/local/bin"):
    try:
        (pathlib.Path(folder) / "written").write_text("")
        print("wrote to", folder)
    except OSError:
        pass
"""
    assert stack.python(service, program).split("\n") == ["10001 10001", "0 1", ""]


def test_every_container_has_limits_and_ports_on_loopback_alone(stack: Stack) -> None:
    for service in SERVICES:
        host = stack.container(service)["HostConfig"]
        assert host["Memory"] > 0
        assert host["PidsLimit"] > 0
        assert not host["Privileged"]
        assert {binding["HostIp"] for bindings in host["PortBindings"].values() for binding in bindings} <= {"127.0.0.1"}


def test_no_secret_stands_in_a_log(stack: Stack) -> None:
    logs = stack.compose("logs", "--no-color")
    passwords = {name: value for name, value in stack.settings.items() if name.endswith(("_PASSWORD", "_SECRET_KEY"))}
    tokens = {path.name: path.read_text().strip() for path in (stack.directory / "secrets").glob("*.token")}
    assert [name for name, value in (passwords | tokens).items() if value in logs] == []
