"""Arguments and options that several commands share, with their shell completion."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tessera.cli.connection import connection
from tessera.cli.profiles import profile_names
from tessera.errors import InvalidArgumentError

COMPLETION_TIMEOUT_S = 1.0


def complete_models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the models whose names begin so; none while the registry cannot be reached, since completion must not complain."""
    from tessera.errors import TesseraError

    async def names() -> list[str]:
        async with replace(connection(ctx), timeout_s=COMPLETION_TIMEOUT_S).client() as client:
            return [model.name async for model in client.registry.list_models()]

    try:
        return [name for name in asyncio.run(names()) if name.startswith(incomplete)]
    except TesseraError:
        return []


def complete_profiles(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the profiles whose names begin so."""
    return [name for name in profile_names(connection(ctx).home) if name.startswith(incomplete)]


def pairs(assignments: Sequence[str], what: str, form: str) -> dict[str, str]:
    """Return what `KEY=VALUE` assignments say.

    Args:
        assignments: As given on the command line.
        what: How the message calls one of them, for example `--set`.
        form: How it must read, for example `KEY=VALUE`.

    Raises:
        InvalidArgumentError: An assignment of another form, or a key twice.
    """
    found: dict[str, str] = {}
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        if not key or not value:
            raise InvalidArgumentError(f"{what} {assignment}: write {what} {form}")
        if key in found:
            raise InvalidArgumentError(f"{what} {key} is given twice")
        found[key] = value
    return found


Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else there.")]
Model = Annotated[str, typer.Argument(help="Name of the model.", autocompletion=complete_models)]
Version = Annotated[int, typer.Argument(help="Number of the version.", min=1)]
Filter = Annotated[str, typer.Option("--filter", help="Comparisons joined by AND, such as 'metrics.top1 >= 0.99 AND tags.site = \"lab\"'.")]
OrderBy = Annotated[str, typer.Option("--order-by", help="A field, or a field and `desc`, such as 'create_time desc'.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it goes to the history.")]
Runtime = Annotated[str, typer.Option("--runtime", help="What computes: onnxruntime or torchserve.", show_default="as the version prefers")]
HomeOption = Annotated[
    Path | None, typer.Option("--home", envvar="TESSERA_HOME", help="Directory of the stack.", show_default="~/.tessera", file_okay=False)
]
PortBase = Annotated[int, typer.Option("--port-base", envvar="TESSERA_PORT_BASE", help="The stack listens on ports from here to 79 above.")]
