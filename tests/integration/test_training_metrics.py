"""What the trainer's /metrics says about jobs, attempts and leases, over HTTP."""

import asyncio
import urllib.request
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tessera.api.trainer.v1 import trainer_pb2 as pb
from tests.fixtures.trainer import TrainingStack
from tests.fixtures.waiting import WAIT_S

pytestmark = pytest.mark.slow

Sample = tuple[str, str]
"""Name of a sample and the value of its only label; empty without one."""


def scraped(training: TrainingStack) -> dict[Sample, float]:
    """Return what the trainer measures, but for histogram buckets."""
    with urllib.request.urlopen(f"http://127.0.0.1:{training.trainer.metrics_port}/metrics", timeout=WAIT_S) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    samples = [
        sample for family in families for sample in family.samples if len(sample.labels) <= 1 and not sample.name.endswith("_bucket")
    ]
    return {(sample.name, "".join(sample.labels.values())): sample.value for sample in samples}


def jobs(samples: dict[Sample, float]) -> tuple[float, ...]:
    """Return how many jobs run, wait and have succeeded, and the depth of the queue, which are measured one after the other."""
    states = [("trainer_jobs", state) for state in ("RUNNING", "QUEUED", "SUCCEEDED")]
    return tuple(samples.get(sample, 0.0) for sample in [*states, ("trainer_queue_depth", "fake")])


async def until_scraped(training: TrainingStack, holds: Callable[[dict[Sample, float]], bool]) -> dict[Sample, float]:
    samples: dict[Sample, float] = {}
    try:
        async with asyncio.timeout(WAIT_S):
            while not holds(samples := await asyncio.to_thread(scraped, training)):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"it never came to that: {samples}") from None
    return samples


async def test_the_metrics_tell_what_waits_what_was_lost_and_how_attempts_ended(training: TrainingStack) -> None:
    first = training.start_worker()
    running = await training.submit(epochs=4, hold_at=2)
    await training.until_training(running)
    waiting = await training.submit(epochs=1)
    before = await until_scraped(training, lambda samples: jobs(samples) == (1, 1, 0, 1))
    assert before["job_lease_lost_total", ""] == 0

    first.kill()
    training.start_worker()
    ended = [await training.until_ended(job_id) for job_id in (running, waiting)]
    assert [job.state for job in ended] == 2 * [pb.JOB_STATE_SUCCEEDED], training.logs()
    after = await until_scraped(training, lambda samples: jobs(samples) == (0, 0, 2, 0))
    assert after["trainer_attempt_seconds_count", "SUCCEEDED"] == 2
    assert (
        after["trainer_attempt_seconds_count", "LOST"] == after["job_lease_lost_total", ""] == after["trainer_job_retries_total", ""] >= 1
    )
    assert after["trainer_attempt_seconds_sum", "LOST"] > 0
