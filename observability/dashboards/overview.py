"""Is it well, how much is asked, where does the time go, which versions answer."""

from observability.panels import Annotation, Dashboard, Panel, Query, Row, Variable

CALLS = 'grpc_service!~"grpc[.].*", grpc_method!~"Watch.*", job=~"$job"'
"""Calls that are somebody's work: no health checks, no reflection, no watches, which last until their callers go."""

ALIAS_MOVES = Annotation(
    "Alias moves",
    'count_values by (model, alias) ("version", inference_alias_version{model=~"$model"})'
    ' unless count_values by (model, alias) ("version", inference_alias_version{model=~"$model"} offset 1m)',
    "{{alias}} of {{model}}: version {{version}} answers",
    "purple",
)
VERSIONS_LOADED = Annotation(
    "Versions loaded",
    'count by (model, version) (inference_model_info{model=~"$model"})'
    ' unless count by (model, version) (inference_model_info{model=~"$model"} offset 1m)',
    "{{model}} version {{version}} is loaded",
    "blue",
)

WELL = Row(
    "Is it well?",
    (
        Panel(
            "Processes that are ready",
            "Of each service. One that runs and is not ready lacks something that it needs: its log and its health say what.",
            "short",
            (Query("sum by (job) (process_ready)", "{{job}}"),),
        ),
        Panel(
            "Error budget: burn rate of the last hour",
            "How many times faster than the objectives allow errors (availability) and slow answers (latency) come; 1 is just allowed.",
            "short",
            (Query("slo:burn:1h", "{{slo}} {{job}} {{model}}"),),
        ),
        Panel(
            "Dependencies",
            "1 while something is ready that a process can do without for a while, less while it is away.",
            "short",
            (Query("avg by (job, dependency) (process_dependency_ready)", "{{job}}: {{dependency}}"),),
        ),
        Panel(
            "Certificates: time left",
            "Until the first certificate of each service expires.",
            "s",
            (Query("min by (job) (tls_certificate_expiry_seconds)", "{{job}}"),),
            none="no TLS",
        ),
        Panel(
            "CPU",
            "Cores that each process keeps busy. The training process of a worker is a child and is not counted.",
            "short",
            (Query("sum by (job) (rate(process_cpu_seconds_total[$__rate_interval]))", "{{job}}"),),
            stacked=True,
        ),
        Panel(
            "Memory",
            "Resident memory of each process.",
            "bytes",
            (Query("sum by (job) (process_resident_memory_bytes)", "{{job}}"),),
            stacked=True,
        ),
    ),
)

METHODS = Row(
    "Calls by method: rate, errors, duration",
    (
        Panel(
            "Rate",
            "Calls that ended, here and beside without watches and health checks.",
            "reqps",
            (
                Query(
                    f"sum by (job, grpc_method) (rate(grpc_server_handled_total{{{CALLS}}}[$__rate_interval]))", "{{job}} {{grpc_method}}"
                ),
            ),
        ),
        Panel(
            "Errors",
            "Calls that ended with anything but OK, by gRPC code; INVALID_ARGUMENT, NOT_FOUND and their like are the caller's.",
            "reqps",
            (
                Query(
                    f'sum by (job, grpc_method, grpc_code) (rate(grpc_server_handled_total{{{CALLS}, grpc_code!="OK"}}[$__rate_interval]))',
                    "{{job}} {{grpc_method}} {{grpc_code}}",
                ),
            ),
            none="no errors",
        ),
        Panel(
            "Duration, p99",
            "From the start of a call to its last message. The dots lead to traces.",
            "s",
            (
                Query(
                    "histogram_quantile(0.99, sum by (job, grpc_method, le)"
                    f" (rate(grpc_server_handling_seconds_bucket{{{CALLS}}}[$__rate_interval])))",
                    "{{job}} {{grpc_method}}",
                ),
            ),
        ),
    ),
)


def _mean(phase: str) -> Query:
    """Return the query for the mean seconds of a phase."""
    rate = f'sum(rate(inference_{phase}_seconds_%s{{model=~"$model"}}[$__rate_interval]))'
    return Query(f"{rate % 'sum'} / {rate % 'count'}", phase)


def _quantile(quantile: float, metric: str, by: str, matchers: str = 'model=~"$model"') -> str:
    """Return the query for a quantile of a histogram."""
    return f"histogram_quantile({quantile}, sum by ({by}, le) (rate({metric}_bucket{{{matchers}}}[$__rate_interval])))"


PREDICTIONS = Row(
    "Predictions: where did the time go?",
    (
        Panel(
            "Mean time of a request, by phase",
            "Decoding, waiting for a batch, the model on the whole batch, encoding, on top of each other; the line is the whole request.",
            "s",
            (
                *(_mean(phase) for phase in ("decode", "queue", "compute", "encode")),
                Query(
                    'sum(rate(inference_total_seconds_sum{model=~"$model", code="OK"}[$__rate_interval]))'
                    ' / sum(rate(inference_total_seconds_count{model=~"$model", code="OK"}[$__rate_interval]))',
                    "whole request",
                    line=True,
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Requests",
            "By model and by the gRPC code with which they ended.",
            "reqps",
            (Query('sum by (model, code) (rate(inference_total_seconds_count{model=~"$model"}[$__rate_interval]))', "{{model}} {{code}}"),),
            stacked=True,
        ),
        Panel(
            "Latency of answers",
            "p50 and p99 of the requests that were answered. The dots lead to traces.",
            "s",
            (
                Query(_quantile(0.5, "inference_total_seconds", "model", 'model=~"$model", code="OK"'), "{{model}} p50"),
                Query(_quantile(0.99, "inference_total_seconds", "model", 'model=~"$model", code="OK"'), "{{model}} p99"),
            ),
        ),
    ),
)

QUEUES = Row(
    "Queues and batches",
    (
        Panel(
            "Requests computed together",
            "Mean size of batches. One that stays at the limit says that there is more load than the runtime can bear.",
            "short",
            (
                Query(
                    'sum by (model, runtime) (rate(inference_batch_size_sum{model=~"$model"}[$__rate_interval]))'
                    ' / sum by (model, runtime) (rate(inference_batch_size_count{model=~"$model"}[$__rate_interval]))',
                    "{{model}} {{runtime}}",
                ),
            ),
        ),
        Panel(
            "Wait for a batch",
            "p50 and p99.",
            "s",
            (
                Query(_quantile(0.5, "inference_queue_seconds", "model"), "{{model}} p50"),
                Query(_quantile(0.99, "inference_queue_seconds", "model"), "{{model}} p99"),
            ),
        ),
        Panel(
            "Refused and too late",
            "Requests refused to protect the server, by reason, and requests whose deadline passed, by phase.",
            "reqps",
            (
                Query(
                    'sum by (model, reason) (rate(inference_shed_total{model=~"$model"}[$__rate_interval]))',
                    "{{model}} refused: {{reason}}",
                ),
                Query(
                    'sum by (model, phase) (rate(inference_deadline_expired_total{model=~"$model"}[$__rate_interval]))',
                    "{{model}} too late: {{phase}}",
                ),
            ),
            none="none refused, none too late",
        ),
        Panel(
            "Queued requests, by state",
            "Of queued inference; all servers that share its database say the same.",
            "short",
            (Query("max by (state) (inference_queued_requests)", "{{state}}"),),
            stacked=True,
        ),
        Panel(
            "Age of the oldest queued request",
            "How long it has waited, by priority.",
            "s",
            (Query("max by (priority) (inference_queued_age_seconds)", "{{priority}}"),),
        ),
    ),
)

VERSIONS = Row(
    "Versions",
    (
        Panel(
            "Version behind each alias",
            "As the servers answer. Two lines of one alias: not all servers have swapped yet.",
            "short",
            (
                Query(
                    'max by (model, alias) (inference_alias_version{model=~"$model"})',
                    "{{model}} {{alias}}, newest",
                ),
                Query(
                    'min by (model, alias) (inference_alias_version{model=~"$model"})',
                    "{{model}} {{alias}}, oldest",
                ),
            ),
        ),
        Panel(
            "Servers by version",
            "How many servers have each version loaded.",
            "short",
            (Query('count by (model, version) (inference_model_info{model=~"$model"})', "{{model}} version {{version}}"),),
            stacked=True,
        ),
        Panel(
            "Aliases that lag behind",
            "On how many servers the version that the registry names does not answer: being loaded, or refused (the log says why).",
            "short",
            (
                Query(
                    'sum by (model, alias) (inference_alias_wanted_version{model=~"$model"} != bool inference_alias_version)',
                    "{{model}} {{alias}}",
                ),
            ),
        ),
    ),
)

OVERVIEW = Dashboard(
    name="overview",
    title="Tessera: overview",
    description="Is it well, how much is asked, where does the time go, which versions answer.",
    variables=(Variable("job", "grpc_server_handled_total"), Variable("model", "inference_alias_wanted_version")),
    annotations=(ALIAS_MOVES, VERSIONS_LOADED),
    rows=(WELL, METHODS, PREDICTIONS, QUEUES, VERSIONS),
)
