"""`tessera jobs`: training jobs, and how they go."""

from typing import TYPE_CHECKING, Annotated

import typer

from tessera.cli import output
from tessera.cli.connection import run
from tessera.cli.options import Json, complete_models
from tessera.errors import InvalidArgumentError

if TYPE_CHECKING:
    from tessera.api.trainer.v1 import trainer_pb2 as pb
    from tessera.client import Client

app = typer.Typer(no_args_is_help=True, help="Jobs: what is training, waiting and done.")

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]
STATES = ("queued", "running", "succeeded", "failed", "cancelled")


@app.command("list")
def list_(
    ctx: typer.Context,
    state: Annotated[
        str, typer.Option("--state", help=f"Only jobs in this state: {', '.join(STATES)}.", autocompletion=lambda: STATES)
    ] = "",
    model: Annotated[str, typer.Option("--model", help="Only jobs of this model.", autocompletion=complete_models)] = "",
    json: Json = False,
) -> None:
    """List the jobs, newest first."""
    from tessera.api.trainer.v1.trainer_pb2 import JobState
    from tessera.cli.plain import enum_name

    if state and state not in STATES:
        raise InvalidArgumentError.unknown("state", state, STATES)
    wanted = JobState.Value(f"JOB_STATE_{state.upper() or 'UNSPECIFIED'}")

    async def main(client: "Client") -> "list[pb.Job]":
        return [job async for job in client.trainer.list_jobs(state=wanted, model=model)]

    jobs = run(ctx, main)
    if json:
        output.print_json(jobs)
        return
    rows = [
        (
            j.id,
            enum_name(j, "state"),
            j.spec.model,
            j.spec.architecture,
            progress_text(j),
            j.version or "-",
            output.time_text(j.create_time),
        )
        for j in jobs
    ]
    output.print_table(
        ("JOB", "STATE", "MODEL", "ARCHITECTURE", "EPOCH", "VERSION", "SUBMITTED"), rows, empty="no jobs; `tessera train` submits one"
    )


@app.command()
def show(ctx: typer.Context, job: JobId, json: Json = False) -> None:
    """Show one job with its attempts."""
    from tessera.cli.plain import enum_name, plain

    found = run(ctx, lambda client: client.trainer.get_job(job))
    if json:
        output.print_json(found)
        return
    output.print_fields(
        {
            "job": found.id,
            "state": enum_name(found, "state"),
            "error": found.error or "-",
            "model": found.spec.model,
            "family": f"{found.spec.family}, {found.spec.architecture}",
            "model config": plain(found.spec.model_config),
            "hyperparameters": plain(found.spec.hyperparameters),
            "progress": f"{found.progress.phase} {progress_text(found)} {output.metrics_text(found.progress.metrics)}",
            "experiment": found.experiment_id or "-",
            "version": found.version or "-",
            "submitted": output.time_text(found.create_time),
            "ended": output.time_text(found.finish_time),
        }
    )
    output.print_table(
        ("ATTEMPT", "WORKER", "RESUMED FROM", "BEGAN", "ENDED", "ERROR"),
        [
            (a.number, a.worker, a.resumed_from_epoch or "-", output.time_text(a.start_time), output.time_text(a.finish_time), a.error)
            for a in found.attempts
        ],
        empty="no attempt yet; it waits for a worker",
    )


@app.command()
def watch(ctx: typer.Context, job: JobId, json: Json = False) -> None:
    """Follow a job until it ends; with --json one object a line. Exit code 1 if it fails."""
    from tessera.cli.watching import follow

    run(ctx, lambda client: follow(client, job, as_json=json))


@app.command()
def cancel(ctx: typer.Context, job: JobId, json: Json = False) -> None:
    """Ask a job to stop; one that trains stops within seconds."""
    from tessera.cli.plain import enum_name

    found = run(ctx, lambda client: client.trainer.cancel_job(job))
    if json:
        output.print_json(found)
    elif found.cancel_requested and enum_name(found, "state") == "RUNNING":
        output.note(f"job {found.id} will stop; follow it with `tessera jobs watch {found.id}`")
    else:
        output.note(f"job {found.id} is {enum_name(found, 'state')}")


def progress_text(job: "pb.Job") -> str:
    """Return how far a job is; a dash before its first epoch, and where there are none, as with an algorithm that learns nothing."""
    return f"{job.progress.epoch}/{job.progress.epochs}" if job.progress.epochs else "-"
