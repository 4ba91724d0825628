"""scripts/rollout.sh: whom it replaces, in which order, when it leaves off. Docker is a stand-in here; tests/compose has the real one."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@dataclass
class Machine:
    """A machine with containers of one service.

    Args:
        directory: Holds the program `docker` and what it knows.
    """

    directory: Path

    @property
    def state(self) -> dict[str, Any]:
        """What is there, and what was done."""
        return json.loads((self.directory / "state.json").read_text())

    def has(self, *containers: str, broken: bool = False) -> None:
        """Let containers be there, each written `image settings health`; `broken` ones are all that is made from now on."""
        words = [container.split() for container in containers]
        found = {
            f"old-{number}": {"name": f"/old-{number}", "image": image, "settings": settings, "status": "running", "health": health}
            for number, (image, settings, health) in enumerate(words, 1)
        }
        state = {"containers": found, "settings": "now", "made": 0, "stopped": [], "least": len(found), "broken": broken}
        (self.directory / "state.json").write_text(json.dumps(state))

    def roll(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the script."""
        environment = {"PATH": f"{self.directory}:{os.environ['PATH']}", "FAKE_DOCKER": str(self.directory / "state.json")}
        return subprocess.run([ROOT / "scripts/rollout.sh", *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {ROOT}/tests/fakes/docker.py "$@"\n')
    docker.chmod(0o755)
    return Machine(tmp_path)


def test_one_after_the_other_is_replaced(machine: Machine) -> None:
    machine.has("old now healthy", "old now healthy", "old now healthy")
    done = machine.roll("inference")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"inference: replaced old-{number}" for number in (1, 2, 3)]
    assert set(machine.state["containers"]) == {"new-1", "new-2", "new-3"}
    assert machine.state["least"] == 2, "two serve at any time"


def test_who_has_the_newest_image_and_settings_stays_and_who_serves_nobody_goes_first(machine: Machine) -> None:
    machine.has("new now healthy", "new before healthy", "old now unhealthy")
    assert machine.roll("inference").returncode == 0
    assert machine.state["stopped"] == ["old-3", "old-2"]
    again = machine.roll("inference")
    assert (again.returncode, again.stdout) == (0, "inference: all of 3 are current\n")


def test_a_new_one_that_does_not_get_well_ends_it_and_the_others_serve_on(machine: Machine) -> None:
    machine.has("old now healthy", "old now healthy", "old now healthy", broken=True)
    for reason in ("it was to take the place of old-1, and the others were left as they are", "nothing was replaced"):
        done = machine.roll("inference")
        assert done.returncode == 1
        assert done.stderr == f'rollout.sh: inference does not get well, see "docker compose logs inference"; {reason}\n'
        assert machine.state["stopped"] == ["old-1"]


def test_one_alone_is_replaced_with_a_warning(machine: Machine) -> None:
    machine.has("old now healthy")
    done = machine.roll("registry")
    assert done.returncode == 0
    assert "registry has one container: what is asked of it before the new one is well has to be asked again" in done.stdout


@pytest.mark.parametrize(("arguments", "said"), [((), "usage: "), (("a", "b"), "usage: "), (("worker",), "worker has no container")])
def test_what_cannot_be_done_is_said(machine: Machine, arguments: tuple[str, ...], said: str) -> None:
    machine.has()
    done = machine.roll(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
