"""What computes: onnxruntime and TorchServe side by side, loads, memory, rollouts, reconstructions."""

from observability.dashboards.overview import ALIAS_MOVES, VERSIONS_LOADED
from observability.panels import Dashboard, Panel, Query, Row, Variable

MODEL = 'model=~"$model"'
"""Matches the models that are chosen."""


def _rate(metric: str, by: str, more: str = "") -> str:
    """Return the query for the sum of rates of a metric by some labels."""
    return f"sum by ({by}) (rate({metric}{{{MODEL}{more}}}[$__rate_interval]))"


def _quantile(quantile: float, metric: str, by: str) -> str:
    """Return the query for a quantile of a histogram by some labels."""
    return f"histogram_quantile({quantile}, {_rate(f'{metric}_bucket', f'{by}, le')})"


COMPUTING = Row(
    "Computing",
    (
        Panel(
            "Requests computed",
            "By runtime.",
            "reqps",
            (Query(_rate("inference_batch_size_sum", "model, runtime"), "{{model}} {{runtime}}"),),
            stacked=True,
        ),
        Panel(
            "Time of a batch",
            "p50 and p99. The dots lead to traces.",
            "s",
            tuple(
                Query(
                    _quantile(quantile, "inference_compute_seconds", "model, runtime"), f"{{{{model}}}} {{{{runtime}}}} p{quantile * 100:g}"
                )
                for quantile in (0.5, 0.99)
            ),
        ),
        Panel(
            "Computing time of one request",
            "Time of batches, shared out among the requests in them: what a request costs.",
            "s",
            (
                Query(
                    f"{_rate('inference_compute_seconds_sum', 'model, runtime')} / {_rate('inference_batch_size_sum', 'model, runtime')}",
                    "{{model}} {{runtime}}",
                ),
            ),
        ),
        Panel(
            "Busy instances",
            "How many batches are computed at once, on average.",
            "short",
            (Query(_rate("inference_compute_seconds_sum", "model, runtime"), "{{model}} {{runtime}}"),),
        ),
        Panel(
            "Requests computed together",
            "Mean size of batches.",
            "short",
            (
                Query(
                    f"{_rate('inference_batch_size_sum', 'model, runtime')} / {_rate('inference_batch_size_count', 'model, runtime')}",
                    "{{model}} {{runtime}}",
                ),
            ),
        ),
        Panel(
            "Wait for a batch, p99",
            "By runtime.",
            "s",
            (Query(_quantile(0.99, "inference_queue_seconds", "model, runtime"), "{{model}} {{runtime}}"),),
        ),
        Panel(
            "Failures",
            "Requests on which the model itself failed; the server's log says why.",
            "reqps",
            (Query(_rate("inference_failed_total", "model, runtime"), "{{model}} {{runtime}}"),),
            none="no failures",
        ),
        Panel(
            "Versions in TorchServe",
            "`waiting` ones have no worker: TorchServe starts, is away, or does not take them.",
            "short",
            (Query("sum by (instance, state) (inference_torchserve_models)", "{{instance}} {{state}}"),),
            stacked=True,
            none="TorchServe has not been needed yet",
        ),
    ),
)

LOADING = Row(
    "Loading",
    (
        Panel(
            "Graphs in onnxruntime",
            "By the execution provider that computes them; CPUExecutionProvider on a machine with a GPU: CUDA does not work there.",
            "short",
            (Query("sum by (instance, provider) (inference_onnxruntime_sessions)", "{{instance}} {{provider}}"),),
            stacked=True,
        ),
        Panel(
            "Versions loaded",
            "By outcome, since the servers started.",
            "short",
            (Query(f"sum by (model, outcome) (inference_loads_total{{{MODEL}}})", "{{model}} {{outcome}}"),),
        ),
        Panel(
            "Time to load a version",
            "Mean since the servers started: download, verify, load, warm up, check.",
            "s",
            (
                Query(
                    f"sum by (model) (inference_load_seconds_sum{{{MODEL}}}) / sum by (model) (inference_load_seconds_count{{{MODEL}}})",
                    "{{model}}",
                ),
            ),
        ),
        Panel(
            "Memory of versions",
            "What loaded versions take up, and the most that they may.",
            "bytes",
            (
                Query(f"sum by (instance, model) (inference_memory_reserved_bytes{{{MODEL}}})", "{{instance}} {{model}}"),
                Query("inference_memory_limit_bytes", "{{instance}}: limit", line=True),
            ),
            stacked=True,
        ),
    ),
)

ROLLOUTS = Row(
    "Rollouts",
    (
        Panel(
            "Share of the candidate",
            "Of the requests of an alias, as the rollout wants it.",
            "percent",
            (Query(f"max by (model, alias) (inference_rollout_weight_percent{{{MODEL}}})", "{{model}} {{alias}}"),),
            none="no rollout",
        ),
        Panel(
            "Requests by arm",
            "By the arm that answered and by outcome.",
            "reqps",
            (Query(_rate("inference_rollout_requests_total", "model, arm, outcome"), "{{model}} {{arm}} {{outcome}}"),),
            stacked=True,
            none="no rollout",
        ),
        Panel(
            "Latency by arm, p95",
            "Of the requests that were answered; a rollout may be rolled back by it.",
            "s",
            (Query(_quantile(0.95, "inference_rollout_seconds", "model, arm"), "{{model}} {{arm}}"),),
            none="no rollout",
        ),
        Panel(
            "Agreement of shadows",
            "Part of the rows in which the candidate says what the stable version says.",
            "percentunit",
            (
                Query(
                    f"{_rate('inference_shadow_agreeing_rows_total', 'model, output')}"
                    f" / {_rate('inference_shadow_rows_total', 'model, output')}",
                    "{{model}} {{output}}",
                ),
            ),
            none="no rollout",
        ),
    ),
)

RECONSTRUCTIONS = Row(
    "Reconstructions",
    (
        Panel(
            "At work",
            "Reconstructions that somebody waits for.",
            "short",
            (Query("sum by (instance) (inference_reconstructions)", "{{instance}}"),),
            stacked=True,
        ),
        Panel(
            "Frames over streams",
            "A second.",
            "reqps",
            (Query("sum by (instance) (rate(inference_reconstruction_frames_total[$__rate_interval]))", "{{instance}}"),),
        ),
    ),
)

RUNTIMES = Dashboard(
    name="runtimes",
    title="Tessera: runtimes",
    description="onnxruntime and TorchServe side by side, loading, rollouts, reconstructions.",
    variables=(Variable("model", "inference_alias_wanted_version"),),
    annotations=(ALIAS_MOVES, VERSIONS_LOADED),
    rows=(COMPUTING, LOADING, ROLLOUTS, RECONSTRUCTIONS),
)
