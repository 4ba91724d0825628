"""`tessera queue`: inference that nobody waits for, and its results."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tessera.cli import output
from tessera.cli.connection import run
from tessera.cli.options import Json, Model, Runtime, complete_models
from tessera.errors import FailedPreconditionError, InvalidArgumentError
from tessera.names import DEFAULT_ALIAS

if TYPE_CHECKING:
    from tessera.api.inference.v1 import queued_pb2 as pb
    from tessera.blob_files import BlobRef
    from tessera.client import Client
    from tessera.tensors import Array

app = typer.Typer(no_args_is_help=True, help="Queued inference: submit inputs of any size, fetch the result later.")

RequestId = Annotated[str, typer.Argument(metavar="REQUEST", help="Id of the request.")]
STATES = ("queued", "running", "succeeded", "failed", "cancelled", "expired")
PRIORITIES = ("high", "normal", "low")


@app.command()
def submit(
    ctx: typer.Context,
    model: Model,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="NAME=FILE.npy, FILE.npz, or one FILE.safetensors.")],
    *,
    version: Annotated[int | None, typer.Option("--version", min=1, help="An exact version.", show_default="the alias")] = None,
    alias: Annotated[str, typer.Option("--alias", help="Which version, by alias.")] = DEFAULT_ALIAS,
    priority: Annotated[
        str, typer.Option("--priority", help=f"Who is computed first: {', '.join(PRIORITIES)}.", autocompletion=lambda: PRIORITIES)
    ] = "low",
    expire_after: Annotated[
        float | None, typer.Option("--expire-after", metavar="SECONDS", help="Drop it if not computed by then.", show_default="24 h")
    ] = None,
    result_ttl: Annotated[
        float | None, typer.Option("--result-ttl", metavar="SECONDS", help="How long to keep the result.", show_default="24 h")
    ] = None,
    max_attempts: Annotated[int, typer.Option("--max-attempts", help="Attempts that may fail.", show_default="3")] = 0,
    key: Annotated[str, typer.Option("--key", help="The same key again is the same request.")] = "",
    runtime: Runtime = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow it until it ends; exit code 1 if it has no result.")] = False,
    json: Json = False,
) -> None:
    """Queue inputs, whose first axis is the rows; prints the id of the request."""

    async def main(client: "Client") -> "pb.Inference":
        submitted = await client.queued.submit(
            await _source(client, inputs),
            model,
            version=version,
            alias=None if version is not None else alias,
            priority=priority,
            expire_after_s=expire_after,
            result_ttl_s=result_ttl,
            max_attempts=max_attempts,
            idempotency_key=key,
            runtime=runtime,
        )
        if not json:
            output.note(f"request {submitted.inference.id} is {_state(submitted.inference)}")
        return await follow(client, submitted.inference.id, as_json=json) if wait else submitted.inference

    inference = run(ctx, main)
    if json and not wait:
        output.print_json(inference)
    elif not json:
        typer.echo(inference.id)


@app.command("list")
def list_(
    ctx: typer.Context,
    state: Annotated[
        str, typer.Option("--state", help=f"Only requests in this state: {', '.join(STATES)}.", autocompletion=lambda: STATES)
    ] = "",
    model: Annotated[str, typer.Option("--model", help="Only requests of this model.", autocompletion=complete_models)] = "",
    json: Json = False,
) -> None:
    """List the requests, newest first."""
    from tessera.api.inference.v1.queued_pb2 import InferenceState

    if state and state not in STATES:
        raise InvalidArgumentError.unknown("state", state, STATES)
    wanted = InferenceState.Value(f"INFERENCE_STATE_{state.upper() or 'UNSPECIFIED'}")

    async def main(client: "Client") -> "list[pb.Inference]":
        return [inference async for inference in client.queued.list(state=wanted, model=model)]

    found = run(ctx, main)
    if json:
        output.print_json(found)
        return
    rows = [(one.id, _state(one), one.model.model, _rows(one), one.version or "-", output.time_text(one.create_time)) for one in found]
    output.print_table(
        ("REQUEST", "STATE", "MODEL", "ROWS", "VERSION", "SUBMITTED"), rows, empty="no requests; `tessera queue submit` makes one"
    )


@app.command()
def show(ctx: typer.Context, request: RequestId, json: Json = False) -> None:
    """Show one request with its attempts."""
    found = run(ctx, lambda client: client.queued.get(request))
    if json:
        output.print_json(found)
        return
    output.print_fields(
        {
            "request": found.id,
            "state": _state(found),
            "error": found.error or "-",
            "model": found.model.model,
            "rows": _rows(found),
            **_reconstruction(found),
            "waits behind": found.position,
            "version": found.version or "-",
            "submitted": output.time_text(found.create_time),
            "ended": output.time_text(found.finish_time),
            "dropped unless computed by": output.time_text(found.expire_time),
            "result kept until": output.time_text(found.result_expire_time),
        }
    )
    output.print_table(
        ("ATTEMPT", "SERVER", "BEGAN", "ENDED", "ERROR"),
        [(a.number, a.server, output.time_text(a.start_time), output.time_text(a.finish_time), a.error) for a in found.attempts],
        empty="no attempt yet",
    )


@app.command()
def watch(ctx: typer.Context, request: RequestId, json: Json = False) -> None:
    """Follow a request until it ends; with --json one object a line. Exit code 1 if it has no result."""
    run(ctx, lambda client: follow(client, request, as_json=json))


@app.command()
def result(
    ctx: typer.Context,
    request: RequestId,
    *,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write the outputs to this .safetensors, .npz or .npy file.", dir_okay=False)
    ] = None,
    json: Json = False,
) -> None:
    """Fetch the outputs of a request."""
    from tessera.cli.arrays import save_arrays, shown

    if save and save.suffix == ".safetensors":
        inference = run(ctx, lambda client: client.queued.download_result(request, save))
        if json:
            output.print_json(inference)
        else:
            output.note(f"{save}: {output.size_text(inference.result.size_bytes)}")
        return

    async def main(client: "Client") -> "dict[str, Array]":
        return await client.queued.result(request)

    arrays = run(ctx, main)
    if save:
        save_arrays(save, arrays)
    if json:
        output.print_json({name: array.tolist() for name, array in arrays.items()})
        return
    rows = [(name, str(array.dtype), list(array.shape), shown(array)) for name, array in arrays.items()]
    output.print_table(("OUTPUT", "TYPE", "SHAPE", "VALUES"), rows)


@app.command()
def cancel(ctx: typer.Context, request: RequestId, json: Json = False) -> None:
    """Ask a request to stop; one that is computed stops within seconds."""
    found = run(ctx, lambda client: client.queued.cancel(request))
    if json:
        output.print_json(found)
    elif found.cancel_requested and _state(found) == "RUNNING":
        output.note(f"request {found.id} will stop; follow it with `tessera queue watch {found.id}`")
    else:
        output.note(f"request {found.id} is {_state(found)}")


async def _source(client: "Client", files: list[str]) -> "dict[str, Array] | BlobRef":
    """Return the inputs that files hold; those of a safetensors file are uploaded, for they may be large."""
    from tessera.cli.arrays import load_arrays

    if not any(file.endswith(".safetensors") for file in files):
        return load_arrays(files)
    if len(files) > 1:
        raise InvalidArgumentError("a .safetensors file holds every input; give it alone")
    return await client.registry.upload_file(Path(files[0]))


async def follow(client: "Client", request: str, *, as_json: bool) -> "pb.Inference":
    """Show the progress of a request until it ends, and return it. Raises FailedPreconditionError if it has no result."""
    from contextlib import aclosing

    from tessera.api.inference.v1 import queued_pb2 as pb

    inference = pb.Inference()
    async with aclosing(client.queued.watch(request)) as updates:
        async for inference in updates:
            if as_json:
                output.print_json_line(inference)
            else:
                behind = f", {inference.position} before it" if inference.position else ""
                output.note(f"{_state(inference).lower()}  rows {_rows(inference)}{behind}{_pass(inference)}")
    if inference.state != pb.INFERENCE_STATE_SUCCEEDED:
        why = f": {inference.error}" if inference.error else ""
        raise FailedPreconditionError(
            f"request {request} {_state(inference).lower()}{why}\n`tessera queue show {request}` lists its attempts."
        )
    return inference


def _state(inference: "pb.Inference") -> str:
    from tessera.cli.plain import enum_name

    return enum_name(inference, "state")


def _rows(inference: "pb.Inference") -> str:
    return f"{inference.rows_done}/{inference.rows}" if inference.rows else "-"


def _reconstruction(inference: "pb.Inference") -> dict[str, str]:
    """Return what is known of a reconstruction beside its tensors; nothing for other requests."""
    if not inference.HasField("reconstruction"):
        return {}
    status = inference.reconstruction
    return {
        "refined by": status.refine_with.model or "-",
        "frames": f"{status.frames}",
        "passes": f"{status.iteration}",
        "Fourier error": f"{status.fourier_error:.4g}" if status.HasField("fourier_error") else "-",
        "upper left at": ", ".join(f"{coordinate:.2f}" for coordinate in status.corner) or "-",
        "answered by": " + ".join(f"{one.model} {one.version} on {one.runtime}" for one in status.answered_by) or "-",
    }


def _pass(inference: "pb.Inference") -> str:
    """Return how far the engine of a reconstruction is; nothing before its first pass, and for other requests."""
    status = inference.reconstruction
    return f", pass {status.iteration}, Fourier error {status.fourier_error:.4g}" if status.iteration else ""
