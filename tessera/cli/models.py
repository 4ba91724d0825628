"""`tessera models`: the names under which versions are kept."""

from typing import TYPE_CHECKING, Annotated

import typer

from tessera.cli import output
from tessera.cli.connection import run
from tessera.cli.options import Filter, Json, Model, OrderBy

if TYPE_CHECKING:
    from tessera.api.registry.v1 import registry_pb2 as pb
    from tessera.client import Client

app = typer.Typer(no_args_is_help=True, help="Models: the names under which versions are kept.")


@app.command("list")
def list_(ctx: typer.Context, filter: Filter = "", order_by: OrderBy = "", json: Json = False) -> None:  # noqa: A002 - its name in the API
    """List the models."""

    async def main(client: "Client") -> "list[pb.Model]":
        return [model async for model in client.registry.list_models(filter, order_by)]

    models = run(ctx, main)
    if json:
        output.print_json(models)
        return
    rows = [(m.name, m.latest_version or "-", aliases_text(m), output.time_text(m.create_time), m.description) for m in models]
    output.print_table(
        ("MODEL", "LATEST", "ALIASES", "CREATED", "DESCRIPTION"),
        rows,
        empty="no models yet; `tessera train` makes one, and so does `tessera models create NAME`",
    )


@app.command()
def show(ctx: typer.Context, model: Model, json: Json = False) -> None:
    """Show one model."""
    _print(run(ctx, lambda client: client.registry.get_model(model)), json)


@app.command()
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="1 to 128 of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit.")],
    description: Annotated[str, typer.Option("--description", help="For people.")] = "",
    json: Json = False,
) -> None:
    """Register a model."""
    _print(run(ctx, lambda client: client.registry.create_model(name, description)), json)


@app.command()
def limits(
    ctx: typer.Context,
    model: Model,
    *,
    max_batch: Annotated[int | None, typer.Option("--max-batch", min=0, max=1024, help="Most rows computed together.")] = None,
    instances: Annotated[
        int | None, typer.Option("--instances", min=0, max=64, help="Batches of a version computed at the same time.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=0, max=256, help="Threads of one batch; for versions loaded from now on.")
    ] = None,
    queue_size: Annotated[int | None, typer.Option("--queue-size", min=0, max=65536, help="Most requests that wait for a version.")] = None,
    max_concurrency: Annotated[
        int | None, typer.Option("--max-concurrency", min=0, max=1_000_000, help="Most calls at once on a server.")
    ] = None,
    max_memory_bytes: Annotated[int | None, typer.Option("--max-memory-bytes", min=0, help="Most memory of a version, in bytes.")] = None,
    json: Json = False,
) -> None:
    """Show how much of a server a model may take, or change it on all of them at once; 0 goes back to the server's default."""
    wanted = {
        "max_batch": max_batch,
        "instances": instances,
        "threads": threads,
        "queue_size": queue_size,
        "max_concurrency": max_concurrency,
        "max_memory_bytes": max_memory_bytes,
    }
    changes = {name: value for name, value in wanted.items() if value is not None}

    async def main(client: "Client") -> "pb.ServingLimits":
        serving = (await client.registry.get_model(model)).serving
        for name, value in changes.items():
            setattr(serving, name, value)
        return (await client.registry.update_model(model, serving=serving)).serving if changes else serving

    serving = run(ctx, main)
    if json:
        output.print_json(serving)
    else:
        output.print_fields({name.replace("_", " "): getattr(serving, name) or "the server's default" for name in wanted})


@app.command()
def delete(ctx: typer.Context, model: Model, json: Json = False) -> None:
    """Delete a model that has no version any more."""
    run(ctx, lambda client: client.registry.delete_model(model))
    if json:
        output.print_json({"deleted": model})
    else:
        output.note(f"deleted {model}")


def aliases_text(model: "pb.Model") -> str:
    """Return the aliases of a model on one line."""
    return " ".join(f"{alias}={version}" for alias, version in sorted(model.aliases.items()))


def _print(model: "pb.Model", json: bool) -> None:
    if json:
        output.print_json(model)
        return
    output.print_fields(
        {
            "model": model.name,
            "description": model.description,
            "tags": " ".join(f"{name}={value}" for name, value in sorted(model.tags.items())),
            "aliases": aliases_text(model),
            "latest version": model.latest_version or "-",
            "created": output.time_text(model.create_time),
        }
    )
