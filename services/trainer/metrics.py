"""What the trainer measures."""

from prometheus_client import Counter, Gauge, Histogram

from services.trainer.tables import Outcome

JOBS = Gauge("trainer_jobs", "Jobs by state", ["state"])
QUEUE_DEPTH = Gauge("trainer_queue_depth", "Jobs in the stream that no worker has taken yet", ["family"])
RETRIES = Counter("trainer_job_retries", "Attempts that put their job back into the queue")
ATTEMPT_SECONDS = Histogram(
    "trainer_attempt_seconds", "How long attempts took", ["outcome"], buckets=[1, 5, 15, 60, 240, 900, 3600, 4 * 3600, 24 * 3600]
)
for outcome in Outcome:  # shown before they happen, else Prometheus would take the first of each for one of long ago
    ATTEMPT_SECONDS.labels(outcome.name)
