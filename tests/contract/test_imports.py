"""Importing the light parts of Tessera must not pull in the heavy libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "tensorflow", "onnxruntime", "lightning")
PROBE = "import sys; import {module}; print(sorted(name for name in {heavy!r} if name in sys.modules))"


@pytest.mark.parametrize(
    "module",
    [
        "tessera",
        "tessera.client",
        "tessera.cli.main",
        "model_store",
        "services.registry.__main__",
        "services.trainer.__main__",
        "trainers.worker",
    ],
)
def test_a_light_module_loads_no_tensor_library(module: str) -> None:
    probe = PROBE.format(module=module, heavy=HEAVY)
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("modules", ["services.inference.runtimes.onnxruntime", "trainers.child, trainers.artifact"])
def test_onnxruntime_reports_to_nobody(modules: str, tmp_path: Path) -> None:
    """Where it does, it keeps what it has not sent yet below the home directory."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | {"HOME": str(tmp_path)}
    probe = f"import sys; import {modules}; assert 'onnxruntime' in sys.modules"
    subprocess.run([sys.executable, "-c", probe], env=environment, check=True, timeout=120)
    assert list(tmp_path.rglob("*onnxruntime*")) == []
