"""Importing the light parts of Tessera must not pull in the heavy libraries."""

import subprocess
import sys

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
