"""The stack of docker-compose.yml, built and started in a project, with secrets and on ports of its own."""

import asyncio
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from tessera.client import Client
from tessera.settings import ClientSettings
from tests.fixtures.ports import free_port_base

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
PROJECT = "tessera-compose-test"
PROFILES = "minimal,metrics"
OURS = ("registry", "trainer", "worker", "inference", "torchserve")
SERVICES = ("postgres", "minio", "redis", *OURS)
PATIENCE_S = 240.0
ANSWER_S = 600.0
"""Longer than any call or stream of these tests may take."""


class Stack:
    """Containers of one project.

    Args:
        directory: Takes secrets and settings; should be empty.
        project: Name of the project.
        settings: Variables of `.env` that are not to be as they are made.

    Attributes:
        settings: What `.env` says, by name.
        environment: With which `docker compose`, the scripts and the command `tessera` know this stack.
    """

    def __init__(self, directory: Path, project: str = PROJECT, settings: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        foreign = re.compile("TESSERA_|COMPOSE_|INFERENCE_PORTS$")
        self.environment = {name: value for name, value in os.environ.items() if not foreign.match(name)} | {
            "COMPOSE_PROJECT_NAME": project,
            "COMPOSE_FILE": f"docker-compose.yml{os.pathsep}tests/compose/receiver.yml",
            "COMPOSE_ENV_FILES": str(directory / ".env"),
            "COMPOSE_PROFILES": os.environ.get("COMPOSE_PROFILES", PROFILES),
            "TESSERA_TAG": "test",
            "TESSERA_HOME": str(directory / "home"),
            "TESSERA_PROFILE": "compose",
        }
        (directory / ".env").write_text("".join(f"{name}={value}\n" for name, value in (settings or {}).items()))
        self.run("scripts/env.sh", "--dir", str(directory), "--port-base", str(free_port_base()))
        lines = [line.partition("=") for line in (directory / ".env").read_text().splitlines() if "=" in line and line[0] != "#"]
        self.settings = {name: value.strip("'") for name, _, value in lines}

    def begin(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start calls. Those of all stacks run on one event loop in a thread of its own: gRPC loses events where a process has several."""
        return asyncio.run_coroutine_threadsafe(work, event_loop())

    def ask(self, work: Coroutine[Any, Any, T]) -> T:
        """Make calls and return what comes of them."""
        return self.begin(work).result(ANSWER_S)

    def run(self, *command: str, given: str | None = None, timeout: float = 3600.0) -> str:
        """Run a command as a person in the checkout would, and return what it prints; fail with that if it fails."""
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, input=given, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def compose(self, *arguments: str, given: str | None = None) -> str:
        """Run `docker compose` on this stack."""
        return self.run("docker", "compose", *arguments, given=given)

    def up(self, *arguments: str) -> None:
        """Start what does not run, and wait until all of it is well."""
        self.compose("up", "--detach", "--wait", "--wait-timeout", f"{PATIENCE_S:.0f}", *arguments)

    def build_anew(self, service: str) -> None:
        """Build another image of a service under the same name."""
        self.compose("build", "--quiet", "--build-arg", "REVISION=another", service)

    def address(self, service: str) -> str:
        """Return host and port under which the one container of a service is published."""
        port = {"registry": 8010, "trainer": 8020, "inference": 8001, "prometheus": 9090}[service]
        return self.compose("port", service, str(port)).strip()

    def client(self, token: str = "operator", **addresses: str) -> Client:
        """Return a client with the token of an identity; addresses are those of the published ports unless told."""
        secrets = self.directory / "secrets"
        settings = ClientSettings(tls_ca=secrets / "ca.pem", token_file=secrets / f"{token}.token", timeout_s=30.0)
        found = {name: f"127.0.0.1:{self.settings[port]}" for name, port in PORTS.items()}
        return Client(**(found | addresses), settings=settings)

    def tessera(self, *arguments: str) -> str:
        """Run the command `tessera` with the profile of this stack."""
        return self.run("tessera", *arguments)

    def python(self, service: str, program: str, *arguments: str) -> str:
        """Run a program in a container of a service of ours."""
        return self.compose("exec", "-T", service, "python", "-", *arguments, given=program)

    def containers(self, service: str) -> list[dict[str, Any]]:
        """Return what the engine knows of the containers of a service, stopped ones included."""
        ids = self.compose("ps", "--all", "--quiet", service).split()
        return json.loads(self.run("docker", "inspect", *ids)) if ids else []

    def container(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of the one container of a service."""
        (found,) = self.containers(service)
        return found

    def kill(self, container: dict[str, Any]) -> None:
        """End the first process of a container by SIGKILL; the restart policy, or we, start it again.

        Where the engine runs on another machine or this user may not kill, the engine does it, after which no restart policy acts.
        """
        pid = container["State"]["Pid"]
        try:
            if container["Id"] in Path(f"/proc/{pid}/cgroup").read_text():
                os.kill(pid, signal.SIGKILL)
                return
        except (OSError, ProcessLookupError):
            pass
        self.run("docker", "kill", container["Id"])
        self.run("docker", "start", container["Id"])

    def wait_for_another_start(self, before: dict[str, Any]) -> None:
        """Wait until a container has been started again since `before` was seen, and is well."""

        def well() -> bool:
            (now,) = json.loads(self.run("docker", "inspect", before["Id"]))
            state = now["State"]
            return state["StartedAt"] != before["State"]["StartedAt"] and state["Running"] and state["Health"]["Status"] == "healthy"

        until(well, f"{before['Name']} is not well again")


def revision(container: dict[str, Any]) -> str:
    """Return the revision in the labels of a container's image."""
    return container["Config"]["Labels"]["org.opencontainers.image.revision"]


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of all calls, which runs in a thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="calls", daemon=True).start()
    return loop


PORTS = {"registry": "REGISTRY_PORT", "trainer": "TRAINER_PORT", "inference": "INFERENCE_PORTS"}


def until(condition: Callable[[], object], otherwise: str, timeout_s: float = PATIENCE_S) -> None:
    """Return as soon as the condition holds; fail after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{otherwise} within {timeout_s:g} s"
        time.sleep(0.2)
