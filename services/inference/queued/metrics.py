"""What queued inference measures; gauges tell of all servers that share the database, counters of this one."""

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Gauge("inference_queued_requests", "Queued requests by state", ["state"])
DEPTH = Gauge("inference_queued_depth", "Entries in the stream that no server has taken yet", ["priority"])
AGE = Gauge("inference_queued_age_seconds", "How long the oldest request that waits has waited", ["priority"])
ATTEMPTS = Counter("inference_queued_attempts", "Attempts at queued requests that ended here", ["outcome"])
SECONDS = Histogram(
    "inference_queued_seconds",
    "Time from the submission of a queued request to its end, by how it ended",
    ["state"],
    buckets=[0.1, 0.5, 1, 5, 15, 60, 240, 900, 3600, 4 * 3600, 24 * 3600],
)
