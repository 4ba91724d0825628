"""The numbers that the inference service shows on /metrics, in seconds; never a request or a version as an unbounded label."""

from dataclasses import dataclass, field
from typing import Self

from prometheus_client import Counter, Gauge, Histogram

SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

DECODE = Histogram("inference_decode_seconds", "Time to decode and preprocess a request", ["model"], buckets=SECONDS)
QUEUE = Histogram("inference_queue_seconds", "Time that a request waits for its batch", ["model", "runtime"], buckets=SECONDS)
COMPUTE = Histogram("inference_compute_seconds", "Time that the model takes for a batch", ["model", "runtime"], buckets=SECONDS)
ENCODE = Histogram("inference_encode_seconds", "Time to postprocess an answer", ["model"], buckets=SECONDS)
BATCH_SIZE = Histogram("inference_batch_size", "Requests computed together", ["model", "runtime"], buckets=SIZES)
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
    buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200),
)
MODEL_INFO = Gauge("inference_model_info", "1 for every version that answers", ["model", "version", "digest"])
REGISTRY_REVISION = Gauge("inference_registry_revision", "Registry revision that this server has caught up with")


@dataclass(frozen=True)
class ModelMetrics:
    """What the calls of one model share, with the label bound once, since a request passes here several times."""

    model: str
    decode: Histogram = field(repr=False)
    encode: Histogram = field(repr=False)

    @classmethod
    def of(cls, model: str) -> Self:
        """Return the metrics of a model."""
        return cls(model, DECODE.labels(model), ENCODE.labels(model))


@dataclass(frozen=True)
class EngineMetrics:
    """The metrics of one model in one runtime, with the labels bound once."""

    model: str
    runtime: str
    queue: Histogram = field(repr=False)
    compute: Histogram = field(repr=False)
    batch_size: Histogram = field(repr=False)

    @classmethod
    def of(cls, model: str, runtime: str) -> Self:
        """Return the metrics of a model in a runtime."""
        return cls(model, runtime, *(histogram.labels(model, runtime) for histogram in (QUEUE, COMPUTE, BATCH_SIZE)))

    def expired(self, phase: str) -> None:
        """Count a request whose deadline passed in `phase`: queue or compute."""
        DEADLINE_EXPIRED.labels(self.model, phase).inc()

    def shed(self, reason: str) -> None:
        """Count a request that was refused for `reason`."""
        SHED.labels(self.model, reason).inc()

    def failed(self) -> None:
        """Count a request on which the model failed."""
        FAILED.labels(self.model, self.runtime).inc()
