"""The command `tessera demo`."""

import asyncio
import json as json_module
import os
import shlex
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from tessera.cli import output
from tessera.cli.connection import connection
from tessera.cli.options import HomeOption, PortBase
from tessera.cli.stack import stack_home
from tessera.errors import InvalidArgumentError

if TYPE_CHECKING:
    from tessera.cli.connection import Connection
    from tessera.client import Client
    from tessera.stack.home import Home
    from tessera.stack.ports import Ports

DEMOS = ("puzzle", "ptycho")
REPOSITORY_PICTURE = Path(__file__).parents[3] / "examples" / "photo.jpg"
COLUMNS, ROWS = 38, 25
FRAMES, EPOCHS = 512, 4
"""Of the demo ptycho: a few minutes on two cores."""
TOLD = {
    "registry": "TESSERA_REGISTRY_ADDRESS",
    "trainer": "TESSERA_TRAINER_ADDRESS",
    "inference": "TESSERA_INFERENCE_ADDRESS",
    "token_file": "TESSERA_TOKEN_FILE",
    "tls_ca": "TESSERA_TLS_CA",
}
"""Options that say how to reach servers, and the variables that say the same to every command."""


class Report(Protocol):
    """What came of a demo."""

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""

    def show(self) -> None:
        """Print the figures for people."""


class Demo(Protocol):
    """A demo with its settings."""

    def check(self) -> None:
        """Raise InvalidArgumentError if the settings cannot work; before anything is started."""

    async def run(self, client: "Client", home: "Home") -> Report:
        """Go the whole way. Raises TesseraError if a step fails."""

    def next_command(self, home: "Home") -> Sequence[str]:
        """Return the arguments of `tessera` that ask what has been trained."""


def demo(
    ctx: typer.Context,
    which: Annotated[str, typer.Argument(help=f"One of {', '.join(DEMOS)}.", autocompletion=lambda: DEMOS)] = "puzzle",
    *,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to this file; - is stdout.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train again, even if there is a version from an earlier run.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option("--picture", help="The photograph to train on.", show_default="examples/photo.jpg of the repository"),
    ] = None,
    columns: Annotated[
        int | None, typer.Option("--columns", min=1, help="puzzle: pieces from left to right.", show_default=str(COLUMNS))
    ] = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="puzzle: pieces from top to bottom.", show_default=str(ROWS))] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", min=16, help="ptycho: frames of each simulated scan.", show_default=str(FRAMES))
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the data.", show_default="of the demo")] = None,
    architecture: Annotated[str, typer.Option("--architecture", help="Network of the family.", show_default="cells_exp4, resnet")] = "",
    model: Annotated[str, typer.Option("--model", help="Model to register the version under.", show_default="the demo's name")] = "",
    port_base: PortBase = 8000,
    home: HomeOption = None,
) -> None:
    """Train on a photograph, register, deploy, ask over gRPC, and show what came of it.

    puzzle: cut into pieces; a network says where each belongs. ptycho: recorded by a simulated microscope; a network and an engine
    reconstruct it from diffraction patterns.

    Uses the stack that runs, or starts one and stops it again. A second run finds the versions of the first and does not train.
    """
    from tessera.cli.demo.ptycho import PtychoDemo
    from tessera.cli.demo.puzzle import PuzzleDemo
    from tessera.stack.ports import Ports
    from tessera.stack.signals import until_signal

    if which not in DEMOS:
        raise InvalidArgumentError.unknown("demo", which, DEMOS)
    of_others = {"--frames": frames} if which == "puzzle" else {"--columns": columns, "--rows": rows}
    if strays := [name for name, value in of_others.items() if value is not None]:
        raise InvalidArgumentError(f"{' and '.join(strays)}: the demo {which} has no such setting")
    photograph = (picture or REPOSITORY_PICTURE).expanduser().absolute()
    chosen: Demo = (
        PuzzleDemo(photograph, columns or COLUMNS, rows or ROWS, epochs, architecture or "cells_exp4", model or which, fresh)
        if which == "puzzle"
        else PtychoDemo(photograph, frames or FRAMES, epochs or EPOCHS, architecture or "resnet", model or which, fresh)
    )
    chosen.check()
    directory = stack_home(ctx, home)

    async def session() -> Report:
        async with stack_to_use(connection(ctx), directory, Ports(port_base)) as used, used.client() as client:
            return await chosen.run(client, directory)

    report = asyncio.run(until_signal(session()))
    if report is None:
        output.note("stopped; the next `tessera demo` goes on from the last finished epoch")
        raise typer.Exit(130)
    if json == Path("-"):
        output.print_json(report.as_dict())
    else:
        report.show()
        show_next(chosen.next_command(directory), connection(ctx), directory)
    if json is not None and json != Path("-"):
        json.write_text(json_module.dumps(report.as_dict(), indent=2) + "\n")


def show_next(arguments: Sequence[str], told: "Connection", home: "Home") -> None:
    """Print what to type to ask what has been trained, beginning with whatever must come first here.

    Args:
        arguments: Of the command.
        told: What the options before `demo` said.
        home: Of the stack that was used, if it is one of this machine.
    """
    from tessera.stack.home import default_home
    from tessera.stack.state import running_stack

    command = ["tessera"]
    if told.profile_name:
        command += ["--profile", told.profile_name]
    elif home.path != default_home():
        command += ["--home", str(home.path)]
    for name, variable in TOLD.items():
        value = getattr(told, name)
        if value and str(value) != os.environ.get(variable):
            command += [f"--{name.replace('_', '-')}", str(value)]
    steps = []
    if sys.prefix not in (sys.base_prefix, os.environ.get("VIRTUAL_ENV")):
        steps.append(["source", str(Path(sys.prefix) / "bin" / "activate")])
    if not told.names_servers and running_stack(home) is None:
        steps.append([*command, "up", "--detach"])
    output.stdout().print("\nask it yourself:")
    for step in (*steps, [*command, *arguments]):
        output.stdout().print(f"  {shlex.join(step)}", soft_wrap=True, highlight=False, markup=False)


@asynccontextmanager
async def stack_to_use(told: "Connection", home: "Home", ports: "Ports") -> "AsyncIterator[Connection]":
    """Yield how to reach the servers: as told, of the stack that runs under the home, or of one that lives as long as the block."""
    from dataclasses import replace

    from tessera.stack.launch import settled_stack
    from tessera.stack.supervisor import embedded_stack

    if told.profile:
        output.note(f"using the servers of the profile {told.profile.name}")
        yield told
        return
    told = replace(told, home=home.path)
    if told.names_servers:
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
