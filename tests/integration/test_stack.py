"""The embedded stack as a person runs it: real services as real processes, started by the command."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fixtures.ports import free_port_base
from tests.fixtures.waiting import WAIT_S, blocking_until

ROOT = Path(__file__).parents[2]


class Stack:
    """The command, with a home and ports of its own."""

    def __init__(self, home: Path, base: int) -> None:
        self.home = home
        self.base = base
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")}
        self.environment |= {"TESSERA_HOME": str(home), "TESSERA_PORT_BASE": str(base), "PYTHONPATH": str(ROOT)}

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "tessera.cli", *arguments],
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def up(self) -> dict[str, Any]:
        done = self.run("up", "--detach", "--json")
        assert done.returncode == 0, done.stderr
        state: dict[str, Any] = json.loads(done.stdout)
        return state

    def healthy(self) -> bool:
        """Ask for its health; a busy machine may be late with an answer."""
        status = self.run("status", "--json")
        return status.returncode == 0 and bool(json.loads(status.stdout)["healthy"])

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.home / "stack.json").read_text())
        return state


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path / "home", free_port_base())
    yield made
    made.run("down")


def _processes(state: dict[str, Any]) -> list[psutil.Process]:
    """All processes of a stack, those that its processes started included."""
    supervisor = psutil.Process(state["pid"])
    return [supervisor, *supervisor.children(recursive=True)]


def _all_end(processes: list[psutil.Process]) -> None:
    def ended(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    blocking_until(lambda: all(ended(process) for process in processes), "they did not end")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stack_comes_up_heals_and_goes_down_without_a_trace(stack: Stack) -> None:
    state = stack.up()
    assert [process["state"] for process in state["processes"]] == ["healthy"] * 5
    assert [process["name"] for process in state["processes"]] == ["redis", "registry", "trainer", "worker", "inference"]

    assert [family["name"] for family in json.loads(stack.run("families", "--json").stdout)] == [
        "ptycho",
        "puzzle_cells",
    ], "it can train at once"
    blocking_until(stack.healthy)
    assert json.loads(stack.run("models", "create", "m", "--json").stdout)["name"] == "m", "commands find the stack under the home"
    lines = [json.loads(line) for line in stack.run("logs", "registry", "--json").stdout.splitlines()]
    assert any('"ready"' in line["line"] for line in lines)

    second = stack.run("up", "--detach")
    assert second.returncode == 1
    assert f"already runs under {stack.home} (pid {state['pid']}" in second.stderr

    before = {process["name"]: process["pid"] for process in state["processes"]}
    os.kill(before["registry"], signal.SIGKILL)

    def registry_is_back() -> bool:
        now = stack.state()
        registry = now["processes"][1]
        return bool(now["healthy"] and registry["restarts"] == 1 and registry["pid"] != before["registry"])

    blocking_until(registry_is_back)
    assert [model["name"] for model in json.loads(stack.run("models", "list", "--json").stdout)] == ["m"], "what it knew is still there"

    processes = _processes(stack.state())
    begun = time.monotonic()
    assert json.loads(stack.run("down", "--json").stdout) == {"stopped": True}
    assert time.monotonic() - begun < WAIT_S
    _all_end(processes)
    assert not (stack.home / "stack.json").exists()
    assert json.loads(stack.run("down", "--json").stdout) == {"stopped": False}
    assert stack.run("status").returncode == 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_stacks_live_side_by_side_and_a_killed_supervisor_leaves_no_orphan(stack: Stack, tmp_path: Path) -> None:
    other = Stack(tmp_path / "other", stack.base + 200)
    first = stack.up()
    second_processes = _processes(other.up())
    try:
        stack.run("models", "create", "mine")
        other.run("models", "create", "yours")
        assert [model["name"] for model in json.loads(stack.run("models", "list", "--json").stdout)] == ["mine"]
        assert [model["name"] for model in json.loads(other.run("models", "list", "--json").stdout)] == ["yours"]

        orphans = _processes(first)
        os.kill(first["pid"], signal.SIGKILL)
        _all_end(orphans)
        assert stack.run("status").returncode == 4, "the state file of a dead supervisor counts for nothing"
        blocking_until(other.healthy)

        assert stack.up()["healthy"], "and it starts again over what was left"
    finally:
        other.run("down")
    _all_end(second_processes)


def test_a_port_in_use_is_named_with_the_setting(stack: Stack) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a stack before may linger here
        taken.bind(("127.0.0.1", stack.base + 10))
        taken.listen()
        done = stack.run("up", "--detach")
    assert done.returncode == 1
    assert f"already in use: port {stack.base + 10} (registry)" in done.stderr
    assert "--port-base" in done.stderr
    assert "TESSERA_PORT_BASE" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ctrl_c_in_the_foreground_stops_everything(stack: Stack) -> None:
    command = [sys.executable, "-m", "tessera.cli", "up"]
    with subprocess.Popen(command, env=stack.environment, cwd=ROOT, stderr=subprocess.PIPE, text=True) as foreground:
        blocking_until(lambda: (stack.home / "stack.json").exists() and stack.state()["healthy"])
        processes = _processes(stack.state())
        foreground.send_signal(signal.SIGINT)
        _, told = foreground.communicate(timeout=WAIT_S)
    assert foreground.returncode == 0
    assert "inference: healthy" in told
    assert told.endswith("stopped\n")
    _all_end(processes)
