"""Every command of the README's part on containers, typed in a checkout that nobody has used yet."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.stack import PROFILES, ROOT
from tests.fixtures.ports import free_port_base

PROJECT = "tessera-readme-test"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OF_A_USE = (".git", ".venv", ".tools", ".env", "secrets", "__pycache__", ".*_cache", ".hypothesis")


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield a copy of the repository and the environment of somebody who has just made it; remove the containers that come of it."""
    copy = tmp_path / "tessera"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*OF_A_USE))
    foreign = re.compile("TESSERA_|COMPOSE_|VIRTUAL_ENV|OTLP_|MAKE|MFLAGS")
    environment = {name: value for name, value in os.environ.items() if not foreign.match(name)} | {
        "ARGS": f"--port-base {free_port_base()}",  # of `make env`
        "COMPOSE_PROJECT_NAME": PROJECT,
        "COMPOSE_PROFILES": os.environ.get("COMPOSE_PROFILES", PROFILES),
        "OTLP_ENDPOINT": "",
        "TESSERA_HOME": str(tmp_path / "home"),
        "TESSERA_TAG": "test",
    }
    yield copy, environment
    subprocess.run(
        ["docker", "compose", "down", "--volumes", "--remove-orphans"], cwd=copy, env=environment, check=True, capture_output=True
    )


def test_every_command_on_containers_works_in_a_fresh_checkout(checkout: tuple[Path, dict[str, str]]) -> None:
    directory, environment = checkout
    commands = [block for block in BLOCK.findall((ROOT / "README.md").read_text()) if "docker compose up" in block]
    assert len(commands) == 1
    done = subprocess.run(
        ["bash", "-exuo", "pipefail", "-c", commands[0]], cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"--- stdout\n{done.stdout[-3000:]}\n--- stderr\n{done.stderr[-3000:]}"
    assert re.search(r"requests +950, errors 0", done.stdout)
