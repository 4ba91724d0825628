"""The numbers of rollouts on /metrics. What each one tells stands in docs/guides/observability.md."""

from prometheus_client import Counter, Gauge

from services.inference.metrics import PER_MODEL, SECONDS
from tessera.histogram import Histogram

DIFFERENCES = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)

REQUESTS = Counter(
    "inference_rollout_requests",
    "Requests of an alias during a rollout, by who answered and how: ok, failed, or rejected through its caller",
    ["model", "alias", "arm", "outcome"],
)
LATENCY = Histogram("inference_rollout_seconds", "Latency of the requests that were answered", ["model", "alias", "arm"], SECONDS)
WEIGHT = Gauge("inference_rollout_weight_percent", "Share of the requests that is meant for the candidate", ["model", "alias"])
HALTED = Gauge("inference_rollout_halted", "1 if this server sends nothing more to the candidate, 0 if it does", ["model", "alias"])
ROLLBACKS = Counter("inference_rollout_rollbacks", "Rollouts that this server has found worse than allowed", ["model", "alias", "cause"])
SHADOWS = Counter(
    "inference_shadow_requests", "Copies for the candidate: compared, incomparable, failed or dropped", ["model", "alias", "outcome"]
)
SHADOW_ROWS = Counter("inference_shadow_rows", "Rows that both versions computed", ["model", "output"])
SHADOW_AGREEING = Counter("inference_shadow_agreeing_rows", "Rows in which both versions say the same", ["model", "output"])
SHADOW_ABSOLUTE = Histogram(
    "inference_shadow_max_absolute_difference", "Greatest absolute difference in an output of a request", ["model", "output"], DIFFERENCES
)
SHADOW_RELATIVE = Histogram(
    "inference_shadow_max_relative_difference",
    "The same, divided by the greatest absolute value of the stable version's output",
    ["model", "output"],
    DIFFERENCES,
)

PER_MODEL.extend((REQUESTS, LATENCY, ROLLBACKS, SHADOWS, SHADOW_ROWS, SHADOW_AGREEING, SHADOW_ABSOLUTE, SHADOW_RELATIVE))
