"""What Prometheus and the receiver of traces have seen of the containers under load."""

import asyncio
import json
import secrets
import sys
from collections import defaultdict

from opentelemetry import trace

from tests.compose.conftest import MODEL, Served
from tests.compose.stack import Stack, until

JOB = {"trainer", "worker", "registry", "inference"}


def test_every_query_of_the_dashboards_finds_data(stack: Stack, served: Served) -> None:
    check = [sys.executable, "-m", "observability.check", f"http://{stack.address('prometheus')}", "--minutes", "15"]

    def found() -> str:
        try:
            return stack.run(*check)
        except AssertionError as error:
            problems.append(str(error))
            return ""

    problems: list[str] = []
    with served.load():
        served.finish(served.submit(epochs=20))
        try:
            until(found, "a query fails")
        except AssertionError as error:
            raise AssertionError(problems[-1]) from error


def test_all_targets_are_scraped(stack: Stack, served: Served) -> None:
    said = json.loads(stack.run("curl", "--silent", f"http://{stack.address('prometheus')}/api/v1/query?query=up"))
    up = {one["metric"]["job"]: one["value"][1] for one in said["data"]["result"]}
    assert {job: up.get(job) for job in JOB} == dict.fromkeys(JOB, "1")


def test_a_prediction_is_one_trace(stack: Stack, served: Served) -> None:
    async def ask(context: trace.SpanContext) -> None:
        with trace.use_span(trace.NonRecordingSpan(context)):
            async with stack.client() as client:
                await client.inference.classify_cell(served.piece, MODEL, runtime="torchserve")

    names = traced(stack, ask, {"torchserve predict"})
    assert names["inference"] >= {"inference.decode", "inference.queue", "inference.compute", "inference.batch", "inference.encode"}


def test_a_training_job_is_one_trace_as_far_as_the_swap(stack: Stack, served: Served) -> None:
    async def train(context: trace.SpanContext) -> None:
        with trace.use_span(trace.NonRecordingSpan(context)):
            await asyncio.to_thread(lambda: served.finish(served.submit(epochs=2, alias="champion")))

    names = traced(stack, train, {"inference.swap"})
    assert names.keys() >= JOB


def traced(stack: Stack, work: object, awaited: set[str]) -> dict[str, set[str]]:
    """Do something in a trace, wait until its spans have arrived, and return their names by service; every parent is among them."""
    context = trace.SpanContext(
        int.from_bytes(secrets.token_bytes(16)), int.from_bytes(secrets.token_bytes(8)), is_remote=False, trace_flags=trace.TraceFlags(1)
    )
    stack.ask(work(context))
    trace_id, root = f"{context.trace_id:032x}", f"{context.span_id:016x}"

    def spans() -> list[dict[str, str]]:
        lines = stack.compose("logs", "--no-color", "--no-log-prefix", "spans").splitlines()
        said = [json.loads(line) for line in lines if line.startswith("{")]
        return [span for span in said if span["trace"] == trace_id]

    def complete() -> bool:
        found = spans()
        known = {span["span"] for span in found} | {root}
        return awaited <= {span["name"] for span in found} and all(span["parent"] in known for span in found)

    until(complete, f"the trace {trace_id} is not whole")
    names = defaultdict(set)
    for span in spans():
        names[span["service"]].add(span["name"])
    return dict(names)
