"""`tessera alias`: which version a name such as `champion` stands for, and since when."""

from typing import TYPE_CHECKING, Annotated

import typer

from tessera.cli import output
from tessera.cli.connection import run
from tessera.cli.options import Json, Model, Reason, Version

if TYPE_CHECKING:
    from tessera.api.registry.v1 import registry_pb2 as pb
    from tessera.client import Client

app = typer.Typer(no_args_is_help=True, help="Aliases: which version a name such as `champion` stands for, and since when.")

Alias = Annotated[str, typer.Argument(help="The alias, for example `champion`.")]
Expected = Annotated[
    int | None,
    typer.Option(
        "--expected", min=0, help="Move it only if it stands at this version; 0 if it must not exist.", show_default="wherever it is"
    ),
]


@app.command("list")
def list_(ctx: typer.Context, model: Model, json: Json = False) -> None:
    """List the aliases of a model."""
    aliases = dict(run(ctx, lambda client: client.registry.get_model(model)).aliases)
    if json:
        output.print_json(aliases)
    else:
        output.print_table(("ALIAS", "VERSION"), sorted(aliases.items()), empty=f"no aliases; `tessera alias set {model} champion VERSION`")


@app.command("set")
def set_(
    ctx: typer.Context, model: Model, alias: Alias, version: Version, *, expected: Expected = None, reason: Reason = "", json: Json = False
) -> None:
    """Point an alias at a version; servers follow without losing a request."""

    async def main(client: "Client") -> "pb.AliasChange":
        await tell_of_rollout(client, model, alias, version)
        return await client.registry.set_alias(model, alias, version, expected_version=expected, reason=reason)

    print_change(run(ctx, main), json)


@app.command()
def delete(ctx: typer.Context, model: Model, alias: Alias, *, expected: Expected = None, reason: Reason = "", json: Json = False) -> None:
    """Remove an alias; its history stays."""

    async def main(client: "Client") -> "pb.AliasChange":
        await tell_of_rollout(client, model, alias, 0)
        return await client.registry.delete_alias(model, alias, expected_version=expected, reason=reason)

    print_change(run(ctx, main), json)


@app.command()
def history(
    ctx: typer.Context,
    model: Model,
    alias: Annotated[str, typer.Argument(help="Only this alias.", show_default="all")] = "",
    json: Json = False,
) -> None:
    """Show who moved an alias when, from where, to where and why; newest first."""

    async def main(client: "Client") -> "list[pb.AliasChange]":
        return [change async for change in client.registry.alias_history(model, alias)]

    changes = run(ctx, main)
    if json:
        output.print_json(changes)
        return
    rows = [(output.time_text(c.time), c.alias, c.from_version or "-", c.to_version or "-", c.actor, c.reason) for c in changes]
    output.print_table(("TIME", "ALIAS", "FROM", "TO", "WHO", "WHY"), rows, empty="no alias was ever set")


async def tell_of_rollout(client: "Client", model: str, alias: str, version: int) -> None:
    """Say that moving an alias to a version (0: deleting it) ends its rollout, if it has one."""
    for rollout in (await client.registry.get_model(model)).rollouts:
        if rollout.alias == alias and rollout.stable_version != version:
            how = "as promoted" if rollout.candidate_version == version else "without promoting it"
            output.note(f"{alias} has a rollout of version {rollout.candidate_version}; this ends it {how}")


def print_change(change: "pb.AliasChange", json: bool) -> None:
    """Print one move of an alias."""
    if json:
        output.print_json(change)
    else:
        output.note(f"{change.model}: {change.alias} moved from {change.from_version or 'nowhere'} to {change.to_version or 'nowhere'}")
