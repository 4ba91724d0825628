"""Follow a training job on the terminal."""

from collections.abc import Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.cli import output
from tessera.cli.plain import enum_name
from tessera.errors import FailedPreconditionError

if TYPE_CHECKING:
    from tessera.client import Client

BESIDES = frozenset({"loss", "train_loss", "learning_rate"})
"""Metrics of every training: the loss of the last step stands in the line anyway."""


async def follow(client: "Client", job_id: str, *, as_json: bool = False) -> pb.Job:
    """Show the progress of a job until it ends, and return it: a bar on stderr, or with `as_json` one object a line on stdout.

    Raises:
        FailedPreconditionError: It failed or was cancelled; the message says why.
        NotFoundError: No such job.
    """
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        console=output.stderr(),
        disable=as_json,
    ) as bar:
        task = bar.add_task("waiting", total=None, detail="")
        async with aclosing(client.trainer.watch_job(job_id)) as updates:
            async for job in updates:
                if as_json:
                    output.print_json_line(job)
                _show(bar, task, job)
    return succeeded(job)


def succeeded(job: pb.Job) -> pb.Job:
    """Return a job that ended well. Raises FailedPreconditionError otherwise."""
    if job.state == pb.JOB_STATE_SUCCEEDED:
        return job
    outcome = enum_name(job, "state").lower()
    why = f": {job.error}" if job.error else ""
    raise FailedPreconditionError(f"job {job.id} {outcome}{why}\n`tessera jobs show {job.id}` lists its attempts.")


def headline(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics for which a line has room: without the loss, and without qualified ones, such as top1_blur where there is top1."""
    plain = {name: value for name, value in metrics.items() if name not in BESIDES}
    return {name: value for name, value in plain.items() if not any(name.startswith(f"{other}_") for other in plain)}


def _show(bar: Progress, task: TaskID, job: pb.Job) -> None:
    progress = job.progress
    detail = [f"epoch {progress.epoch}/{progress.epochs}", f"loss {progress.loss:.4f}"] if progress.epochs else []
    detail.append(output.metrics_text(headline(progress.metrics)))
    if progress.HasField("eta"):
        detail.append(f"{output.duration_text(progress.eta.ToNanoseconds() / 1e9)} left")
    if len(job.attempts) > 1:
        detail.append(f"attempt {len(job.attempts)}")
    bar.update(
        task,
        description=progress.phase or enum_name(job, "state").lower(),
        total=progress.steps or None,
        completed=progress.step,
        detail="  ".join(part for part in detail if part) if job.HasField("progress") else "",
    )
