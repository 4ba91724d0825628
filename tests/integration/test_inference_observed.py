"""An inference process as its operators see it: traces in a collector, examples on /metrics, and samples of requests."""

import asyncio
import json
import urllib.request
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from safetensors.numpy import load_file
from typer.testing import CliRunner

from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.inference.v1.puzzle_pb2 import ClassifyCellRequest, ClassifyCellResponse
from tessera.api.inference.v1.puzzle_pb2_grpc import PuzzleServiceStub
from tessera.cli.main import app
from tessera.client.inference import InferenceClient
from tessera.client.registry import RegistryClient
from tessera.rpc.channel import open_channel
from tests.fixtures.collector import Collector
from tests.fixtures.inference import InferenceProcess, TinyModel, piece, poll, publish_version, tensor
from tests.fixtures.registry import RegistryProcess
from tests.fixtures.waiting import WAIT_S

MODEL = "puzzle"
PHASES = {"inference.decode", "inference.queue", "inference.compute", "inference.encode"}
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
parse: Any = text_string_to_metric_families  # without types


@pytest.fixture
def inference(
    registry_process: RegistryProcess, tmp_path: Path, collector: tuple[Collector, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[InferenceProcess]:
    """A process that records no trace of its own accord, and keeps a sample of every request."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")  # seconds, so that a busy machine loses no span
    process = InferenceProcess(
        tmp_path, registry_process.address, otlp_endpoint=collector[1], otlp_sample_ratio="0", sampling__ratio="1", name="observed"
    )
    process.start()
    yield process
    if process.process is not None:
        process.kill()


class Caller:
    """Calls without our client, which would begin traces of its own if another test has set this process up to record them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._stub = PuzzleServiceStub(channel)

    async def ask(self, seed: int, trace_id: str = "", *, sampled: bool = True, image: bytes = b"") -> ClassifyCellResponse:
        """Call as somebody whose own trace is recorded, or is not, or who has none."""
        selector = ModelSelector(model=MODEL)
        request = (
            ClassifyCellRequest(model=selector, image=image) if image else ClassifyCellRequest(model=selector, tensor=tensor(piece(seed)))
        )
        metadata = (("traceparent", f"00-{trace_id}-{'1' * 16}-{int(sampled):02x}"),) if trace_id else ()
        answer: ClassifyCellResponse = await self._stub.ClassifyCell(request, metadata=metadata)
        return answer


@pytest.fixture
async def caller(inference: InferenceProcess, registry_process: RegistryProcess) -> AsyncIterator[Caller]:
    async with open_channel(registry_process.address) as to_registry, grpc.aio.insecure_channel(inference.address) as channel:
        await publish_version(RegistryClient(to_registry), MODEL, TinyModel(marker=1), alias="champion")
        client = InferenceClient(channel)

        async def served() -> bool:
            return any("champion" in one.aliases for one in (await client.list_served()).versions)

        await poll(served)
        yield Caller(channel)


def attributes(span: Any) -> dict[str, Any]:
    return {item.key: item.value.string_value or item.value.int_value for item in span.attributes}


def _get(url: str, accept: str) -> tuple[str, str]:
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=WAIT_S) as response:
        return response.headers["Content-Type"], response.read().decode()


async def test_one_trace_from_the_client_to_the_runtime_for_those_calls_that_their_callers_record(
    inference: InferenceProcess, caller: Caller, collector: tuple[Collector, str]
) -> None:
    recorded = [uuid.uuid4().hex for _ in range(6)]
    unrecorded, refused = uuid.uuid4().hex, uuid.uuid4().hex
    answers = await asyncio.gather(*(caller.ask(seed, trace_id) for seed, trace_id in enumerate(recorded)))
    await asyncio.gather(caller.ask(7), caller.ask(8, unrecorded, sampled=False))
    with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
        await caller.ask(9, refused, image=b"no picture")
    assert await asyncio.to_thread(inference.stop) == 0  # which sends what is left
    spans = collector[0].spans["inference"]
    by_id = {span.span_id: span for span in spans}
    calls = {span.trace_id.hex(): span for span in spans if span.name.endswith("PuzzleService/ClassifyCell")}
    assert set(calls) == {*recorded, refused}
    assert attributes(calls[refused])["rpc.grpc.status_code"] == 3
    assert attributes(calls[refused])["tessera.model.name"] == MODEL
    assert calls[refused].status.code == 0, "a wrong request is no error of the server"
    batches = [span for span in spans if span.name == "inference.batch"]
    for trace_id, answer in zip(recorded, answers, strict=True):
        call = calls[trace_id]
        assert call.parent_span_id.hex() == "1" * 16
        said = answer.answered_by
        assert attributes(call) == {
            **{"rpc.system": "grpc", "rpc.service": "tessera.api.inference.v1.PuzzleService", "rpc.method": "ClassifyCell"},
            **{"rpc.grpc.status_code": 0, "tessera.model.name": MODEL, "tessera.model.version": 1, "tessera.runtime": "onnxruntime"},
            **{"tessera.batch.size": said.batch_size, "tessera.rows": 1},
        }
        phases = {span.name: span for span in spans if span.parent_span_id == call.span_id and span.name in PHASES}
        assert set(phases) == PHASES
        (link,) = phases["inference.compute"].links
        batch = by_id[link.span_id]
        assert call.span_id in {linked.span_id for linked in batch.links}
        assert attributes(batch)["tessera.batch.size"] == said.batch_size
    assert {by_id[batch.parent_span_id].name for batch in batches} == {"tessera.api.inference.v1.PuzzleService/ClassifyCell"}
    assert sum(len(batch.links) for batch in batches) == len(recorded)


async def test_a_scraper_that_asks_for_openmetrics_gets_an_example_of_each_phase_for_recorded_calls_alone(
    inference: InferenceProcess, caller: Caller
) -> None:
    recorded = uuid.uuid4().hex
    await caller.ask(1, recorded)
    await asyncio.gather(caller.ask(2), caller.ask(3, uuid.uuid4().hex, sampled=False))
    url = f"http://127.0.0.1:{inference.metrics_port}/metrics"
    phases = [f"inference_{phase}_seconds_bucket" for phase in ("decode", "queue", "compute", "encode", "total")]
    names = [*phases, "inference_batch_size_bucket", "grpc_server_handling_seconds_bucket"]

    async def examples() -> bool:
        kind, page = await asyncio.to_thread(_get, url, OPENMETRICS)
        assert kind.startswith("application/openmetrics-text")
        samples = [sample for family in parse(page) for sample in family.samples if sample.exemplar]
        return {(sample.name, sample.exemplar.labels["trace_id"]) for sample in samples} == {(name, recorded) for name in names}

    await poll(examples)
    kind, page = await asyncio.to_thread(_get, url, "text/plain")
    assert kind.startswith("text/plain")
    assert recorded not in page
    assert f'inference_total_seconds_count{{code="OK",model="{MODEL}"}} 3.0' in page


async def test_sampled_requests_can_be_listed_downloaded_and_computed_again(
    registry_process: RegistryProcess, caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_REGISTRY_ADDRESS", registry_process.address)
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path / "home"))
    trace_id = uuid.uuid4().hex
    await caller.ask(1, trace_id)
    await caller.ask(2)

    async def run(*arguments: str) -> Any:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["samples", *arguments, "--json"])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    async def both() -> bool:
        return len(await run("list", MODEL)) == 2

    await poll(both)
    listed = await run("list", MODEL, "--version", "1")
    assert trace_id in [sample["trace_id"] for sample in listed]
    written = (await run("download", MODEL, "--to", str(tmp_path / "samples")))["files"]
    for seed, file in zip((1, 2), written, strict=True):
        tensors = load_file(file)
        np.testing.assert_allclose(tensors["inputs.image"][0].transpose(1, 2, 0), piece(seed), rtol=1e-6)
        np.testing.assert_allclose(tensors["outputs.logits"], TinyModel(marker=1).logits(tensors["inputs.image"]), rtol=1e-4, atol=1e-6)
