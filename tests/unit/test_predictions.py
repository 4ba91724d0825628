"""What is written down about a call when it ends, however it ends."""

import asyncio
import time
from collections.abc import Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY

from services.inference.batches import Answer
from services.inference.calls import Ended, Prediction
from services.inference.metrics import ModelMetrics, count_load, keep_models
from services.inference.options import CallOptions
from services.inference.statistics import Statistics
from tessera.api.inference.v1.serving_pb2 import AnsweredBy
from tessera.errors import InvalidArgumentError, ResourceExhaustedError
from tessera.telemetry import tracer
from tests.fixtures.spans import spans

__all__ = ["spans"]

INPUTS = {"image": np.ones((3, 2), np.float32)}
names = (f"prediction-{number}" for number in count())


class Served:
    """A version that answers as it is told."""

    def __init__(self) -> None:
        self.model, self.version, self.digest = next(names), 7, "d" * 64
        self.metrics = ModelMetrics.of(self.model)
        self.manifest = SimpleNamespace(task=SimpleNamespace(name="tensors"))
        self.statistics = Statistics()
        self.full = False
        self.users = 0
        self.error: BaseException | None = None

    def __enter__(self) -> None:
        if self.full:
            raise ResourceExhaustedError("one call too many")
        self.users += 1

    def __exit__(self, *_: object) -> None:
        self.users -= 1

    async def submit(self, inputs: Any, options: CallOptions) -> Answer:
        if self.error:
            raise self.error
        return Answer({"sum": inputs["image"].sum(axis=1)}, 2, 0.25, 0.5, "onnxruntime")

    def counted(self, name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, {"model": self.model, **labels}) or 0


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    assert made.users == 0


async def call(served: Served, options: CallOptions | None = None, decode: BaseException | None = None) -> Ended:
    """Make a call and return what a watcher is told of it."""
    ended: list[Ended] = []
    prediction = Prediction(cast("Any", served), options or CallOptions(), (ended.append,))
    try:
        with prediction:
            if decode:
                raise decode
            await prediction.compute(INPUTS)
            prediction.sign(AnsweredBy())
    except (Exception, asyncio.CancelledError):
        pass
    (one,) = ended
    return one


async def test_an_answer_counts_in_every_phase(served: Served) -> None:
    ended = await call(served)
    assert (ended.code, ended.inputs) == ("OK", INPUTS)
    assert ended.answer and ended.answer.runtime == "onnxruntime"
    assert served.counted("inference_decode_seconds_count") == served.counted("inference_encode_seconds_count") == 1
    assert served.counted("inference_total_seconds_count", code="OK") == 1
    assert served.counted("inference_total_seconds_sum", code="OK") == pytest.approx(ended.seconds)


async def test_an_answer_says_who_gave_it_and_where_the_time_went(served: Served) -> None:
    answered_by = AnsweredBy()
    with Prediction(cast("Any", served), CallOptions()) as prediction:
        assert (await prediction.compute(INPUTS))["sum"].tolist() == [2, 2, 2]
        prediction.sign(answered_by)
    assert (answered_by.model, answered_by.version, answered_by.digest) == (served.model, 7, "d" * 64)
    assert (answered_by.runtime, answered_by.batch_size) == ("onnxruntime", 2)
    assert (answered_by.queue.ToMilliseconds(), answered_by.compute.ToMilliseconds()) == (250, 500)
    assert answered_by.HasField("decode") and answered_by.HasField("encode")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArgumentError("no"), "INVALID_ARGUMENT"),
        (ResourceExhaustedError("full"), "RESOURCE_EXHAUSTED"),
        (RuntimeError("a bug"), "INTERNAL"),
        (asyncio.CancelledError(), "CANCELLED"),
    ],
)
@pytest.mark.parametrize("phase", ["decode", "compute"])
async def test_a_call_without_an_answer_counts_by_its_code(served: Served, phase: str, error: BaseException, code: str) -> None:
    served.error = error
    ended = await call(served, decode=error if phase == "decode" else None)
    assert (ended.code, ended.answer, ended.inputs is None) == (code, None, phase == "decode")
    assert served.counted("inference_total_seconds_count", code=code) == 1
    assert served.counted("inference_total_seconds_count", code="OK") == 0
    assert served.counted("inference_decode_seconds_count") == (phase == "compute")
    assert served.counted("inference_encode_seconds_count") == 0


async def test_a_call_that_is_not_let_in_counts_too(served: Served) -> None:
    served.full = True
    with pytest.raises(ResourceExhaustedError), Prediction(cast("Any", served), CallOptions()):
        pass
    assert served.counted("inference_total_seconds_count", code="RESOURCE_EXHAUSTED") == 1


async def test_a_deadline_that_passes_while_decoding_is_counted_there(served: Served) -> None:
    ended = await call(served, CallOptions(deadline=time.monotonic()), decode=asyncio.CancelledError())
    assert ended.code == "DEADLINE_EXCEEDED"
    assert served.counted("inference_deadline_expired_total", phase="decode") == 1


async def test_a_deadline_that_passes_later_is_left_to_whoever_has_the_request_then(served: Served) -> None:
    served.error = asyncio.CancelledError()
    ended = await call(served, CallOptions(deadline=time.monotonic()))
    assert ended.code == "DEADLINE_EXCEEDED"
    assert served.counted("inference_deadline_expired_total", phase="decode") == 0


async def test_a_recorded_call_tells_its_version_and_is_the_example_of_its_buckets(served: Served, spans: InMemorySpanExporter) -> None:
    with tracer.start_as_current_span("call") as span:
        ended = await call(served)
    found = {made.name: made for made in spans.get_finished_spans()}
    assert set(found) == {"call", "inference.decode", "inference.encode"}
    assert dict(found["call"].attributes or {}) == {
        "tessera.model.name": served.model,
        "tessera.model.version": 7,
        "tessera.runtime": "onnxruntime",
        "tessera.batch.size": 2,
        "tessera.rows": 3,
    }
    assert int(ended.trace_id, 16) == span.get_span_context().trace_id
    examples = {
        (sample.name, sample.exemplar.labels["trace_id"])
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.exemplar and sample.labels.get("model") == served.model
    }
    histograms = ("decode", "encode", "total")
    assert examples == {(f"inference_{name}_seconds_bucket", ended.trace_id) for name in histograms}


async def test_the_numbers_of_a_model_that_is_gone_are_forgotten_and_those_of_others_stay() -> None:
    gone, kept = Served(), Served()
    for served in (gone, kept):
        await call(served)
        served.metrics.shed("queue_full")
        count_load(served.model, "ready", 1.0)
    assert gone.counted("inference_load_seconds_count") == 1
    keep_models({kept.model})
    labels = {sample.labels.get("model") for metric in REGISTRY.collect() for sample in metric.samples}
    assert gone.model not in labels
    assert kept.model in labels
    assert kept.counted("inference_shed_total", reason="queue_full") == 1
