"""Starts the servers that are measured; all of them run during the whole benchmark, and those whose turn it is not do nothing."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.serving import publishing, torchserve
from tests.fixtures.inference import InferenceProcess
from tests.fixtures.ports import free_port
from tests.fixtures.registry import RegistryProcess

STOP_S = 20


@contextmanager
def echo() -> Iterator[tuple[str, int]]:
    """Run the bare server; yields address and process."""
    port = free_port()
    with _running(subprocess.Popen([sys.executable, "-m", "benchmarks.serving.echo", str(port)])) as pid:
        yield f"127.0.0.1:{port}", pid


@contextmanager
def torchserve_alone(directory: Path) -> Iterator[tuple[str, int]]:
    """Run TorchServe; yields address and process."""
    port = free_port()
    with _running(torchserve.start(directory, port)) as pid:
        yield f"127.0.0.1:{port}", pid


@contextmanager
def service(directory: Path, **settings: str) -> Iterator[tuple[str, int]]:
    """Run a registry with the network in it, and the inference service over it; yields address and process of the latter."""
    registry = RegistryProcess(directory)
    inference = InferenceProcess(directory, registry.address, **({"log_level": "WARNING"} | settings))
    try:
        registry.start()
        asyncio.run(publishing.publish_network(registry.address, directory))
        inference.start()
        assert inference.process
        yield inference.address, inference.process.pid
    finally:
        for process in (inference, registry):
            if process.process:
                process.stop()


@contextmanager
def _running(process: "subprocess.Popen[bytes]") -> Iterator[int]:
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
