"""The command's own spans: the trace of what it asks begins with it, and a collector that is away does not hold it up."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tessera.client.registry import RegistryClient
from tessera.rpc.channel import open_channel
from tessera.tasks.images import encode_png
from tests.fixtures.collector import Collector, is_whole
from tests.fixtures.inference import InferenceProcess, TinyModel, publish_version
from tests.fixtures.registry import RegistryProcess
from tests.fixtures.waiting import WAIT_S, until
from tests.unit.cli_fakes import Fakes, serve_fakes

PREDICTION = {
    ("cli", "PuzzleService/ClassifyCell"),
    ("inference", "PuzzleService/ClassifyCell"),
    *(("inference", f"inference.{phase}") for phase in ("decode", "queue", "compute", "encode", "batch")),
}


def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the command with nothing but these variables to tell it anything, and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")} | variables
    return subprocess.run(
        [sys.executable, "-m", "tessera.cli", *arguments], env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False
    )


async def test_the_trace_of_a_prediction_begins_with_the_command(
    tmp_path: Path, collector: tuple[Collector, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")  # milliseconds; five seconds otherwise
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")  # seconds, so that a busy machine loses no span
    received, endpoint = collector
    registry = RegistryProcess(tmp_path)
    inference = InferenceProcess(tmp_path, registry.address, otlp_endpoint=endpoint)
    piece = tmp_path / "piece.png"
    piece.write_bytes(encode_png(Image.new("RGB", (64, 64))))
    try:
        registry.start()
        async with open_channel(registry.address) as channel:
            await publish_version(RegistryClient(channel), "puzzle", TinyModel(marker=1), alias="champion")
        inference.start()
        done = run("--inference", inference.address, "--otlp-endpoint", endpoint, "predict", "puzzle", str(piece))
        assert done.returncode == 0, done.stderr
        (call,) = received.spans["cli"]
        trace_id = int.from_bytes(call.trace_id)
        await until(lambda: is_whole(received.trace(trace_id), PREDICTION))
    finally:
        for process in (inference, registry):
            if process.process is not None:
                process.kill()


@pytest.fixture
def fakes() -> Iterator[Fakes]:
    with serve_fakes() as serving:
        yield serving


@pytest.mark.parametrize("command", [("models", "list"), ("status",)])
def test_a_collector_that_is_away_is_told_once_and_changes_nothing_else(fakes: Fakes, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "profiles").mkdir()
    lines = [f'{name} = "{fakes.address}"\n' for name in ("registry", "trainer", "inference")]
    (tmp_path / "profiles/fakes.toml").write_text("".join(lines))
    asked = ("--profile", "fakes", *command, "--json")
    told = run(*asked, TESSERA_HOME=str(tmp_path))
    traced = run(*asked, TESSERA_HOME=str(tmp_path), TESSERA_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert (traced.returncode, traced.stdout) == (0, told.stdout)
    (warning,) = traced.stderr.removeprefix(told.stderr).splitlines()
    assert "traces cannot be sent" in warning


def test_an_endpoint_that_is_no_url_is_refused(fakes: Fakes) -> None:
    done = run("--otlp-endpoint", "http://[", "models", "list", TESSERA_REGISTRY_ADDRESS=fakes.address)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the OTLP endpoint 'http://[' is no URL"), done.stderr
