"""Every command in the README runs, in the order in which a reader meets them, against a stack of its own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fixtures.ports import free_port_base
from tests.fixtures.waiting import WAIT_S

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Runs this very test.
RECURSIVE = {"make test"}


def blocks(document: Path) -> list[str]:
    """Return the shell blocks of a document, without commands that would run the tests again."""
    found = (match.group(1) for match in BLOCK.finditer(document.read_text()))
    kept = ("\n".join(line for line in block.splitlines() if line.split("#")[0].strip() not in RECURSIVE) for block in found)
    return [block for block in kept if block.strip()]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of a reader with an empty home and free ports; stop whatever the commands started."""
    base = free_port_base()
    programs = str(Path(sys.prefix) / "bin")  # a reader has to be told to activate it
    environment = os.environ | {
        "PATH": os.pathsep.join(folder for folder in os.environ["PATH"].split(os.pathsep) if folder != programs),
        "TESSERA_HOME": str(tmp_path / "home"),
        "TESSERA_PORT_BASE": str(base),
        "HOME": os.environ.get("HOME", str(tmp_path)),
    }
    yield environment
    subprocess.run([Path(sys.prefix) / "bin/tessera", "down"], env=environment, cwd=ROOT, check=False, timeout=WAIT_S)


def at_port_base(text: str, base: str) -> str:
    """Return `text` with the default ports 8001 to 8079 moved to the port base of this test."""
    return re.sub(r"(?<=[:=])80(\d\d)\b", lambda match: str(int(base) + int(match.group(1))), text)


@pytest.mark.slow
@pytest.mark.timeout(3100)
def test_every_command_of_the_readme_works(shell: dict[str, str], tmp_path: Path) -> None:
    document = ROOT / "README.md"
    commands = blocks(document)
    assert any("make demo" in block for block in commands)
    # In one shell, as a reader has it: what a block exports holds for those after it.
    script = "\n".join(["set -xeuo pipefail", *commands])
    result = subprocess.run(
        ["bash", "-c", at_port_base(script, shell["TESSERA_PORT_BASE"])],
        env=shell,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=3000,
        check=False,
    )
    assert result.returncode == 0, f"--- stdout\n{result.stdout[-4000:]}\n--- stderr\n{result.stderr[-4000:]}"
    check_aim(shell, tmp_path / "demo.json")
    check_reconstructions(json.loads(Path("/tmp/tessera-ptycho.json").read_text()))


def check_aim(shell: dict[str, str], figures: Path) -> None:
    """Check what the README promises of its demo; the second run asks the version that the first one trained."""
    demo = [Path(sys.prefix) / "bin/tessera", "demo", "--json", str(figures)]
    subprocess.run(demo, env=shell, cwd=ROOT, check=True, capture_output=True, timeout=5 * WAIT_S)
    found = json.loads(figures.read_text())
    assert (found["family"], found["architecture"], found["parameters"]) == ("puzzle_cells", "cells_exp4", 632_566)
    assert found["epochs"] <= 100
    assert found["top1"] >= 0.993
    assert found["top5"] == 1.0
    assert (found["requests"], found["errors"], found["version"]) == (950, 0, 1)
    assert [Path(picture).suffix for picture in found["pictures"]] == [".png"] * 3


def check_reconstructions(found: dict[str, Any]) -> None:
    """Check what the README says of the network, the engine, and both; runtimes and machines differ by less than the margins."""
    assert (found["architecture"], found["parameters"], found["frames"]) == ("resnet", 147_204, 512)
    network, both, engine = found["rows"]
    assert [row["name"] for row in (network, both, engine)] == ["network", "network + engine", "engine"]
    assert network["amplitude_psnr"] > 30
    assert network["phase_psnr"] > 25
    assert network["fourier_error"] < 0.005
    assert both["fourier_error"] < network["fourier_error"]
    assert both["amplitude_psnr"] > 36
    assert both["phase_psnr"] > engine["phase_psnr"] + 3, "an engine that begins where the network ends finds slow changes of the phase"
    for picture in found["pictures"]:
        with Image.open(picture) as drawn:
            assert min(drawn.size) > 100
