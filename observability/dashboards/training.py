"""Jobs, attempts, epochs, and the workers that do them."""

from observability.panels import Dashboard, Panel, Query, Row

JOBS = Row(
    "Jobs",
    (
        Panel(
            "Jobs by state",
            "As the trainer's database has them. ENDING: the registry is asked what came of the job.",
            "short",
            (Query("max by (state) (trainer_jobs)", "{{state}}"),),
            stacked=True,
        ),
        Panel(
            "Jobs that no worker has taken",
            "By family. More than none for long: too few workers, or none that can train this family.",
            "short",
            (Query("max by (family) (trainer_queue_depth)", "{{family}}"),),
        ),
        Panel(
            "Workers that are ready",
            "A worker is ready once the trainer knows what it can train.",
            "short",
            (Query('sum(process_ready{job="worker"})', "ready"), Query('count(up{job="worker"})', "known to Prometheus")),
        ),
    ),
)

ATTEMPTS = Row(
    "Attempts",
    (
        Panel(
            "Attempts that ended, by outcome",
            "RETRYABLE and LOST put the job back into the queue, PERMANENT ends it.",
            "short",
            (Query("sum by (outcome) (increase(trainer_attempt_seconds_count[$__rate_interval]))", "{{outcome}}"),),
            stacked=True,
        ),
        Panel(
            "Time of an attempt",
            "Mean by outcome.",
            "s",
            (
                Query(
                    "sum by (outcome) (increase(trainer_attempt_seconds_sum[$__rate_interval]))"
                    " / (sum by (outcome) (increase(trainer_attempt_seconds_count[$__rate_interval])) > 0)",
                    "{{outcome}}",
                ),
            ),
        ),
        Panel(
            "Retries and lost leases",
            "A lease is lost when a worker (trainer) or a server (inference) dies at its work, or a worker loses its entry in the queue.",
            "short",
            (
                Query("sum(increase(trainer_job_retries_total[$__rate_interval]))", "retries"),
                Query("sum by (job) (increase(job_lease_lost_total[$__rate_interval]))", "leases lost: {{job}}"),
            ),
        ),
    ),
)

EPOCHS = Row(
    "Epochs",
    (
        Panel(
            "Time of an epoch",
            "p50 and p90 by family, evaluation and checkpoint included.",
            "s",
            tuple(
                Query(
                    f"histogram_quantile({quantile}, sum by (family, le) (rate(worker_epoch_seconds_bucket[$__rate_interval])))",
                    f"{{{{family}}}} p{quantile * 100:g}",
                )
                for quantile in (0.5, 0.9)
            ),
        ),
        Panel(
            "Epochs",
            "Finished, of all jobs, by family.",
            "short",
            (Query("sum by (family) (increase(worker_epoch_seconds_count[$__rate_interval]))", "{{family}}"),),
            stacked=True,
        ),
        Panel(
            "Memory of workers",
            "Resident memory of the supervising processes; the training itself is a child.",
            "bytes",
            (Query('process_resident_memory_bytes{job="worker"}', "{{instance}}"),),
        ),
    ),
)

TRAINING = Dashboard(
    name="training",
    title="Tessera: training",
    description="Jobs by state, attempts and how they end, epochs.",
    variables=(),
    annotations=(),
    rows=(JOBS, ATTEMPTS, EPOCHS),
)
