"""The command `tessera demo`."""

import asyncio
import json as json_module
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tessera.cli import output
from tessera.cli.connection import connection
from tessera.cli.options import HomeOption, PortBase
from tessera.cli.stack import stack_home
from tessera.errors import InvalidArgumentError

if TYPE_CHECKING:
    from tessera.cli.connection import Connection
    from tessera.cli.demo.report import Report
    from tessera.stack.home import Home
    from tessera.stack.ports import Ports

DEMOS = ("puzzle",)
REPOSITORY_PICTURE = Path(__file__).parents[3] / "examples" / "photo.jpg"


def demo(
    ctx: typer.Context,
    which: Annotated[str, typer.Argument(help=f"One of {', '.join(DEMOS)}.", autocompletion=lambda: DEMOS)] = "puzzle",
    *,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to this file; - is stdout.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train again, even if there is a version from an earlier run.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", help="The photograph to cut into pieces.", show_default="examples/photo.jpg of the repository"),
    ] = None,
    columns: Annotated[int, typer.Option("--columns", min=1, help="Pieces from left to right.")] = 38,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Pieces from top to bottom.")] = 25,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the pieces.", show_default="of the family")] = None,
    architecture: Annotated[str, typer.Option("--architecture", help="Network of the family puzzle_cells.")] = "cells_exp4",
    model: Annotated[str, typer.Option("--model", help="Model to register the version under.")] = "puzzle",
    port_base: PortBase = 8000,
    home: HomeOption = None,
) -> None:
    """Train on a photograph cut into puzzle pieces, register, deploy, ask for every piece, and show what came of it.

    Uses the stack that runs, or starts one and stops it again. A second run finds the version of the first and does not train.
    """
    from tessera.cli.demo.puzzle import Settings, run_demo
    from tessera.cli.demo.report import print_report
    from tessera.stack.ports import Ports
    from tessera.stack.signals import until_signal

    if which not in DEMOS:
        raise InvalidArgumentError.unknown("demo", which, DEMOS)
    directory = stack_home(ctx, home)
    settings = Settings(
        picture=(picture or REPOSITORY_PICTURE).expanduser().absolute(),
        columns=columns,
        rows=rows,
        epochs=epochs,
        architecture=architecture,
        model=model,
        fresh=fresh,
    )
    settings.check()

    async def session() -> "Report":
        async with stack_to_use(connection(ctx), directory, Ports(port_base)) as used, used.client() as client:
            return await run_demo(client, settings, directory)

    report = asyncio.run(until_signal(session()))
    if report is None:
        output.note("stopped; the next `tessera demo` goes on from the last finished epoch")
        raise typer.Exit(130)
    if json == Path("-"):
        output.print_json(report.as_dict())
    else:
        print_report(report)
    if json is not None and json != Path("-"):
        json.write_text(json_module.dumps(report.as_dict(), indent=2) + "\n")


@asynccontextmanager
async def stack_to_use(told: "Connection", home: "Home", ports: "Ports") -> "AsyncIterator[Connection]":
    """Yield how to reach the servers: as told, of the stack that runs under the home, or of one that lives as long as the block."""
    from dataclasses import replace

    from tessera.stack.launch import settled_stack
    from tessera.stack.supervisor import embedded_stack

    told = replace(told, home=home.path)
    if told.registry or told.trainer or told.inference:
        output.note("using the servers that the addresses name")
        yield told
        return
    running = await asyncio.to_thread(settled_stack, home)
    if running is not None:
        output.note(f"using the stack that runs under {home.path}")
        yield told
        return
    output.note(f"starting a stack under {home.path}")
    with output.stderr().status("") as status:
        async with embedded_stack(
            home, ports, lambda state: status.update(", ".join(f"{process.name} {process.state}" for process in state.processes))
        ):
            status.stop()
            yield told
            status.start()
