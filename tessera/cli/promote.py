"""`tessera promote` and `tessera rollback`: move an alias forward or back, by compare-and-swap."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from tessera.cli import output
from tessera.cli.alias import print_change, tell_of_rollout
from tessera.cli.connection import run
from tessera.cli.options import Json, Model, Reason
from tessera.errors import FailedPreconditionError, NotFoundError
from tessera.names import DEFAULT_ALIAS

if TYPE_CHECKING:
    from tessera.api.registry.v1 import registry_pb2 as pb
    from tessera.client import Client


def promote(
    ctx: typer.Context,
    model: Model,
    *,
    source: Annotated[str, typer.Option("--from", help="Alias to promote.")] = "candidate",
    target: Annotated[str, typer.Option("--to", help="Alias to move.")] = DEFAULT_ALIAS,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Point `champion` at the version that `candidate` stands for, unless somebody moves it meanwhile."""

    async def main(client: "Client") -> "pb.AliasChange":
        aliases = (await client.registry.get_model(model)).aliases
        if source not in aliases:
            raise NotFoundError(f"{model} has no alias {source!r}; set it with `tessera alias set {model} {source} VERSION`")
        new, old = aliases[source], aliases.get(target, 0)
        if new == old:
            raise FailedPreconditionError(f"{target} of {model} stands at version {new} already, as {source} does")
        await _show(client, model, target, old, new)
        return await client.registry.set_alias(model, target, new, expected_version=old, reason=reason or f"promoted from {source}")

    print_change(run(ctx, main), json)


def rollback(
    ctx: typer.Context,
    model: Model,
    alias: Annotated[str, typer.Option("--alias", help="Alias to move.")] = DEFAULT_ALIAS,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Point an alias back at the version where it stood before, unless somebody moves it meanwhile. Again to go further back."""

    async def main(client: "Client") -> "pb.AliasChange":
        aliases = (await client.registry.get_model(model)).aliases
        if alias not in aliases:
            raise NotFoundError(f"{model} has no alias {alias!r}; `tessera alias history {model}` shows what it had")
        history = [change async for change in client.registry.alias_history(model, alias)]
        previous = previous_version(change.to_version for change in reversed(history))
        if previous is None:
            raise FailedPreconditionError(f"{alias} of {model} has never stood anywhere else; `tessera alias history {model} {alias}`")
        old = aliases[alias]
        await _show(client, model, alias, old, previous)
        return await client.registry.set_alias(model, alias, previous, expected_version=old, reason=reason or f"rolled back from {old}")

    print_change(run(ctx, main), json)


def previous_version(moves: Iterable[int]) -> int | None:
    """Return where an alias stood before, or None.

    A move back to where it stood just before counts as undoing, so that rolling back twice goes two steps back instead of there and back.

    Args:
        moves: Where it was moved to, oldest first; 0 for a deletion.
    """
    trail: list[int] = []
    for version in moves:
        if version == 0 or trail[-1:] == [version]:
            continue
        if trail[-2:-1] == [version]:
            trail.pop()
        else:
            trail.append(version)
    return trail[-2] if len(trail) > 1 else None


async def _show(client: "Client", model: str, alias: str, old: int, new: int) -> None:
    await tell_of_rollout(client, model, alias, new)
    for what, number in (("from", old), ("to", new)):
        if number:
            version = await client.registry.get_version(model, version=number)
            output.note(f"{alias} {what} version {number}: {version.architecture}, {output.metrics_text(version.metrics)}")
        else:
            output.note(f"{alias} {what} nowhere: it does not exist yet")
