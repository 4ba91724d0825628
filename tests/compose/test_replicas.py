"""Three inference servers, and clients that ask them in turn: while they are replaced, and when one dies."""

import base64
import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.compose.conftest import MODEL, Served
from tests.compose.stack import ROOT, Stack, revision, until

REPLICAS = 3
# Runs in a container that is in the servers' network, until it finds a line on its standard input.
ASK = """
import asyncio, base64, json, sys
from pathlib import Path
from tessera.client import Client
from tessera.errors import TesseraError
from tessera.settings import ClientSettings

model, piece = sys.argv[1], base64.b64decode(sys.argv[2])
settings = ClientSettings(tls_ca="/run/secrets/ca.pem", token_file="/run/secrets/trainer.token", timeout_s=60)

async def caller(client, stop, answers, failures):
    while not stop.is_set():
        try:
            await client.inference.classify_cell(piece, model, top_k=1)
            answers.append(1)
            print("answered", flush=True)
        except TesseraError as error:
            failures.append(f"{error.code}: {error.message}")
        await asyncio.sleep(0.02)

async def main():
    stop, answers, failures = asyncio.Event(), [], []
    async with Client(inference="inference:8001", settings=settings) as client:
        callers = asyncio.gather(*(caller(client, stop, answers, failures) for _ in range(4)))
        await asyncio.to_thread(sys.stdin.readline)
        stop.set()
        await callers
    print(json.dumps({"answers": len(answers), "failures": failures}), flush=True)

asyncio.run(main())
"""
METRICS = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8002/metrics').read().decode())"


@pytest.fixture(scope="module")
def replicas(built: Stack, served: Served) -> Iterator[str]:
    """Three servers on three published ports; yields the address of all, from the profile that `make env` writes then."""
    built.up()
    single = built.environment.copy()
    port = int(built.settings["INFERENCE_PORTS"]) + 60
    home = built.directory / "home-of-replicas"
    built.environment |= {"INFERENCE_PORTS": f"{port}-{port + REPLICAS - 1}", "TESSERA_HOME": str(home)}
    try:
        built.run("scripts/env.sh", "--dir", str(built.directory))
        built.up("--no-deps", "--scale", f"inference={REPLICAS}", "inference")
        yield tomllib.loads((home / "profiles/compose.toml").read_text())["inference"]
    finally:
        built.environment = single
        built.up("--no-deps", "--scale", "inference=1", "inference")


def answers_of(stack: Stack, server: dict[str, Any]) -> float:
    """Return how many requests a server has answered."""
    metrics = stack.run("docker", "exec", server["Id"], "python", "-c", METRICS)
    counts = re.findall(r'^inference_total_seconds_count\{code="OK",.*\} (\S+)$', metrics, re.MULTILINE)
    return sum(map(float, counts))


def until_asked(stack: Stack) -> None:
    """Wait until every server has answered something more."""
    for server in stack.containers("inference"):
        before = answers_of(stack, server)
        until(lambda server=server, before=before: answers_of(stack, server) > before, f"{server['Name']} is not asked")


def test_servers_are_replaced_one_by_one_and_no_request_of_a_caller_on_this_machine_fails(
    built: Stack, served: Served, replicas: str
) -> None:
    healths = json.loads(built.tessera("status", "--json"))["servers"]
    assert [server["state"] for server in healths if server["name"] == "inference"] == ["serving"] * REPLICAS
    old = {server["Id"] for server in built.containers("inference")}
    with served.load(inference=replicas, runtimes=("onnxruntime",), patience_s=0) as load:
        built.build_anew("inference")
        said = built.run("scripts/rollout.sh", "inference")
        until_asked(built)
        load.go_on()
    assert said.count("inference: replaced") == REPLICAS
    new = built.containers("inference")
    assert [revision(server) for server in new] == ["another"] * REPLICAS
    ids = {server["Id"] for server in new}
    assert not ids & old
    assert "all of 3 are current" in built.run("scripts/rollout.sh", "inference")
    assert {server["Id"] for server in built.containers("inference")} == ids


def test_a_client_in_their_network_asks_all_in_turn_and_one_that_dies_costs_no_request(built: Stack, served: Served, replicas: str) -> None:
    servers = built.containers("inference")
    assert len({server["NetworkSettings"]["Ports"]["8001/tcp"][0]["HostPort"] for server in servers}) == REPLICAS
    program = ["docker", "compose", "exec", "-T", "trainer", "python", "-c", ASK, MODEL, base64.b64encode(served.piece).decode()]
    with subprocess.Popen(
        program, cwd=ROOT, env=built.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "answered\n"
        until_asked(built)
        killed = servers[0]
        built.kill(killed)
        built.wait_for_another_start(killed)
        until_asked(built)
        said, _ = client.communicate("stop\n", timeout=120)
    found = json.loads(said.splitlines()[-1])
    assert found["failures"] == []
    assert found["answers"] > 0
