"""The numbers that the inference service shows on /metrics, in seconds. What each one tells stands in docs/guides/observability.md.

A model is a label only while the registry or this server has it (`keep_models`), and a version only of `inference_model_info`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from prometheus_client import Counter, Gauge

from tessera.histogram import Histogram, Series

SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

Phase = Literal["decode", "queue", "compute"]
"""Where a request was when its deadline passed."""
Reason = Literal["queue_full", "deadline", "concurrency"]
"""Why a request was refused: no room in the queue, no hope to meet its deadline, or as many calls of its model as there may be."""

DECODE = Histogram("inference_decode_seconds", "Time to decode and preprocess a request", ["model"], SECONDS)
QUEUE = Histogram("inference_queue_seconds", "Time that a request waits for its batch", ["model", "runtime"], SECONDS)
COMPUTE = Histogram("inference_compute_seconds", "Time that the model takes for a batch", ["model", "runtime"], SECONDS)
ENCODE = Histogram("inference_encode_seconds", "Time to postprocess an answer", ["model"], SECONDS)
TOTAL = Histogram("inference_total_seconds", "Time of a request from decoding to the encoded answer", ["model", "code"], SECONDS)
BATCH_SIZE = Histogram("inference_batch_size", "Requests computed together", ["model", "runtime"], SIZES)
DEADLINE_EXPIRED = Counter(
    "inference_deadline_expired", "Requests whose deadline passed, by the phase in which they were dropped", ["model", "phase"]
)
SHED = Counter("inference_shed", "Requests refused to protect the server", ["model", "reason"])
FAILED = Counter("inference_failed", "Requests on which the model failed", ["model", "runtime"])
LOADS = Counter("inference_loads", "Versions loaded, by outcome", ["model", "outcome"])
LOAD_SECONDS = Histogram(
    "inference_load_seconds",
    "Time to download, verify, load, warm up and check a version",
    ["model"],
    (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200),
)
MODEL_INFO = Gauge("inference_model_info", "1 for every version that answers", ["model", "version", "digest"])
MEMORY_RESERVED = Gauge("inference_memory_reserved_bytes", "Memory that the loaded versions of a model take up", ["model"])
MEMORY_LIMIT = Gauge("inference_memory_limit_bytes", "Most memory that all loaded versions may take up together")
REGISTRY_REVISION = Gauge("inference_registry_revision", "Registry revision that this server has caught up with")
ONNXRUNTIME_SESSIONS = Gauge("inference_onnxruntime_sessions", "Graphs loaded by onnxruntime, by what computes them", ["provider"])
TORCHSERVE_MODELS = Gauge("inference_torchserve_models", "Versions that TorchServe shall compute: ready, or waiting for it", ["state"])

PER_MODEL: list[Histogram | Counter] = [
    *(DECODE, QUEUE, COMPUTE, ENCODE, TOTAL, BATCH_SIZE, LOAD_SECONDS),
    *(DEADLINE_EXPIRED, SHED, FAILED, LOADS),
]
"""What is forgotten with its model. A module with such metrics of its own adds them."""
_models: set[str] = set()


class AliasGauge:
    """A gauge with the number of a version for each alias; one that is gone from the registry is forgotten.

    Args:
        name: On /metrics.
        documentation: What it tells.
    """

    def __init__(self, name: str, documentation: str) -> None:
        self._gauge = Gauge(name, documentation, ["model", "alias"])
        self._shown: set[tuple[str, str]] = set()

    def show(self, versions: Mapping[tuple[str, str], int]) -> None:
        """Show these versions, by model and alias, and no others."""
        for key in self._shown.difference(versions):
            self._gauge.remove(*key)
        for key, version in versions.items():
            self._gauge.labels(*key).set(version)
        self._shown = set(versions)


ALIAS_VERSION = AliasGauge("inference_alias_version", "Version with which this server answers under an alias")
ALIAS_WANTED_VERSION = AliasGauge("inference_alias_wanted_version", "Version that the registry names by an alias")


def keep_models(models: Collection[str]) -> None:
    """Forget the numbers of all other models, so that names that callers make up and models that were deleted do not pile up."""
    for model in _models.difference(models):
        _models.remove(model)
        for metric in PER_MODEL:
            metric.remove_by_labels({"model": model})


def count_load(model: str, outcome: str, seconds: float) -> None:
    """Count a version that became `ready` or `failed` this long after it was asked for."""
    _models.add(model)
    LOADS.labels(model, outcome).inc()
    if outcome == "ready":
        LOAD_SECONDS.labels(model).observe(seconds)


@dataclass(frozen=True)
class _Counts:
    """What can befall a request of a model anywhere on its way."""

    model: str

    def expired(self, phase: Phase) -> None:
        """Count a request whose deadline passed in this phase."""
        DEADLINE_EXPIRED.labels(self.model, phase).inc()

    def shed(self, reason: Reason) -> None:
        """Count a request that was refused for this reason."""
        SHED.labels(self.model, reason).inc()


@dataclass(frozen=True)
class ModelMetrics(_Counts):
    """What the calls of one model share, with the labels bound once, since a request passes here several times."""

    decode: Series = field(repr=False)
    encode: Series = field(repr=False)
    answered: Series = field(repr=False)

    @classmethod
    def of(cls, model: str) -> Self:
        """Return the metrics of a model."""
        _models.add(model)
        return cls(model, DECODE.labels(model), ENCODE.labels(model), TOTAL.labels(model, "OK"))

    def unanswered(self, code: str, seconds: float, trace_id: str) -> None:
        """Count a request that ended with this gRPC code instead of an answer, after so many seconds."""
        TOTAL.labels(self.model, code).observe(seconds, trace_id)


@dataclass(frozen=True)
class EngineMetrics(_Counts):
    """The metrics of one model in one runtime, with the labels bound once."""

    runtime: str
    queue: Series = field(repr=False)
    compute: Series = field(repr=False)
    batch_size: Series = field(repr=False)

    @classmethod
    def of(cls, model: str, runtime: str) -> Self:
        """Return the metrics of a model in a runtime."""
        _models.add(model)
        return cls(model, runtime, *(histogram.labels(model, runtime) for histogram in (QUEUE, COMPUTE, BATCH_SIZE)))

    def failed(self) -> None:
        """Count a request on which the model failed."""
        FAILED.labels(self.model, self.runtime).inc()
