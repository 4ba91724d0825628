"""Three inference servers behind one name, and a client that asks them in turn."""

import base64
import json
import re
import subprocess

from tests.compose.conftest import MODEL, Served
from tests.compose.stack import ROOT, Stack, until

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


def answers_of(stack: Stack, index: int) -> float:
    """Return how many requests the replica has answered."""
    metrics = stack.compose("exec", "-T", "--index", str(index), "inference", "python", "-c", METRICS)
    counts = re.findall(r'^inference_total_seconds_count\{code="OK",.*\} (\S+)$', metrics, re.MULTILINE)
    return sum(map(float, counts))


def test_a_client_asks_three_servers_in_turn_and_one_that_dies_costs_no_request(stack: Stack, served: Served) -> None:
    port = int(stack.settings["INFERENCE_PORTS"])
    single = stack.environment.copy()
    stack.environment["INFERENCE_PORTS"] = f"{port + 60}-{port + 60 + REPLICAS - 1}"
    try:
        stack.up("--no-deps", "--scale", f"inference={REPLICAS}", "inference")
        ask_all_and_kill_one(stack, served)
    finally:
        stack.environment = single
        stack.up("--no-deps", "--scale", "inference=1", "inference")


def ask_all_and_kill_one(stack: Stack, served: Served) -> None:
    servers = stack.containers("inference")
    assert len({server["NetworkSettings"]["Ports"]["8001/tcp"][0]["HostPort"] for server in servers}) == REPLICAS
    program = ["docker", "compose", "exec", "-T", "trainer", "python", "-c", ASK, MODEL, base64.b64encode(served.piece).decode()]
    with subprocess.Popen(
        program, cwd=ROOT, env=stack.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "answered\n"
        for index in range(1, REPLICAS + 1):
            until(lambda index=index: answers_of(stack, index) > 0, f"server {index} is not asked")
        killed = servers[0]
        stack.kill(killed)
        stack.wait_for_another_start(killed)
        until(lambda: all(answers_of(stack, index) > 0 for index in range(1, REPLICAS + 1)), "the new server is not asked")
        said, _ = client.communicate("stop\n", timeout=120)
    found = json.loads(said.splitlines()[-1])
    assert found["failures"] == []
    assert found["answers"] > 0
