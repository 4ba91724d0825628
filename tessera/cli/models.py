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
