"""`tessera up`, `down`, `status` and `logs`: the services of this machine."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tessera.cli import output
from tessera.cli.connection import connection
from tessera.cli.failures import EXIT_CODES
from tessera.cli.options import HomeOption, Json, PortBase
from tessera.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from rich.table import Table

    from tessera.stack.home import Home
    from tessera.stack.ports import Ports
    from tessera.stack.state import StackState

SERVICE_NAMES = ("redis", "registry", "trainer", "worker", "inference", "torchserve", "supervisor")


def up(
    ctx: typer.Context,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Run in the background; return when everything is healthy.")] = False,
    port_base: PortBase = 8000,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Start Redis, registry, trainer, worker and inference on this machine, and keep them alive until Ctrl-C."""
    from tessera.stack.launch import settled_stack, start_detached
    from tessera.stack.ports import Ports

    directory, ports = own_home(ctx, home), Ports(port_base)
    running = settled_stack(directory)
    if running is not None:
        raise AlreadyExistsError(
            f"a stack already runs under {directory.path} (pid {running.pid}, registry at {running.addresses['registry']}); "
            "see `tessera status`, or stop it with `tessera down`"
        )
    if not detach:
        run_in_foreground(directory, ports, json=json)
        return
    state = start_detached(directory, ports)
    if json:
        output.print_json(state.model_dump(mode="json"))
    else:
        output.stdout().print(table(state))
        output.note(f"up under {directory.path}; `tessera status`, `tessera logs`, `tessera down`")


def down(ctx: typer.Context, home: HomeOption = None, json: Json = False) -> None:
    """Stop the stack; done when every process has ended. Nothing to do is fine."""
    from tessera.stack.launch import stop_stack

    directory = own_home(ctx, home)
    stopped = stop_stack(directory)
    if json:
        output.print_json({"stopped": stopped is not None})
    else:
        output.note(f"stopped the stack under {directory.path}" if stopped else f"no stack runs under {directory.path}")


def status(ctx: typer.Context, home: HomeOption = None, json: Json = False) -> None:
    """Show every process of the stack, or with a profile every server. Exit code 4 if none runs, 1 if one is not healthy."""
    from tessera.stack.state import running_stack

    if connection(ctx).profile:
        server_status(ctx, json=json)
        return
    directory = stack_home(ctx, home)
    state = running_stack(directory)
    if state is None:
        raise UnavailableError(f"no stack runs under {directory.path}; start one with `tessera up`")
    if json:
        output.print_json(state.model_dump(mode="json"))
    else:
        output.stdout().print(table(state))
    if not state.healthy:
        raise typer.Exit(1)


def logs(
    ctx: typer.Context,
    service: Annotated[
        str, typer.Argument(help=f"One of {', '.join(SERVICE_NAMES)}.", show_default="all", autocompletion=lambda: SERVICE_NAMES)
    ] = "",
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines of each log to begin with.")] = 50,
    home: HomeOption = None,
    json: Json = False,
) -> None:
    """Show the logs of the stack; with --json one object with `service` and `line` for each line."""
    from tessera.cli.tailing import tail

    directory = own_home(ctx, home)
    names = [service] if service else list(SERVICE_NAMES)
    files = {name: directory.log_file(name) for name in names if directory.log_file(name).exists()}
    if not files:
        raise NotFoundError(f"no log of {service or 'any service'} under {directory.logs}; known: {', '.join(SERVICE_NAMES)}")

    def show(name: str, line: str) -> None:
        if json:
            output.print_json_line({"service": name, "line": line})
        else:
            sys.stdout.write(line + "\n" if service else f"{name:10} {line}\n")
            sys.stdout.flush()

    tail(files, lines=lines, follow=follow, show=show)


def stack_home(ctx: typer.Context, home: Path | None) -> "Home":
    """Return the home that the command names, else the one that the options before it name."""
    from tessera.stack.home import Home

    return Home(home.expanduser().absolute() if home else connection(ctx).home)


def own_home(ctx: typer.Context, home: Path | None) -> "Home":
    """Return what `stack_home` does. Raises InvalidArgumentError if a profile names servers elsewhere."""
    if profile := connection(ctx).profile:
        raise InvalidArgumentError(
            f"`tessera {ctx.info_name}` is about the stack that `tessera up` starts on this machine, not about the servers of the profile "
            f"{profile.name}: leave out --profile (or TESSERA_PROFILE), or turn to where they run, for example with `docker compose`"
        )
    return stack_home(ctx, home)


def server_status(ctx: typer.Context, *, json: bool) -> None:
    """Show what the servers of the profile say about themselves. Exit code 4 if one cannot be reached, 1 if one is not serving."""
    from tessera.cli.health import SERVING, UNREACHABLE, ask_servers

    servers = asyncio.run(ask_servers(connection(ctx)))
    states = {server.state for server in servers}
    if json:
        output.print_json({"healthy": states == {SERVING}, "servers": [asdict(server) for server in servers]})
    else:
        output.print_table(("SERVER", "STATE", "ADDRESS"), [(server.name, server.state, server.address) for server in servers])
        for server in servers:
            if server.reason:
                output.note(f"{server.name}: {server.reason}")
    if states != {SERVING}:
        raise typer.Exit(EXIT_CODES["UNAVAILABLE"] if UNREACHABLE in states else 1)


def run_in_foreground(home: "Home", ports: "Ports", *, json: bool) -> None:
    """Run a stack until a signal comes, with a live table of its processes on a terminal."""
    from tessera.stack.foreground import run_stack

    def ready(state: "StackState") -> None:
        if json:
            output.print_json_line(state.model_dump(mode="json"))
        output.note(f"up under {home.path}; Ctrl-C stops it")

    with live_table() as show:
        asyncio.run(run_stack(home, ports, on_change=show, on_ready=ready))
    output.note("stopped")


@contextmanager
def live_table() -> Iterator[Callable[["StackState"], None]]:
    """Yield what shows a state: a table that is redrawn on a terminal, a line for each change elsewhere."""
    from rich.live import Live

    console = output.stderr()
    if not console.is_terminal:
        told: dict[str, str] = {}

        def tell(state: "StackState") -> None:
            for process in state.processes:
                if told.get(process.name) != process.state:
                    told[process.name] = process.state
                    output.note(f"{process.name}: {process.state}")

        yield tell
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda state: live.update(table(state), refresh=True)


def table(state: "StackState") -> "Table":
    """Return the processes of a stack as a table."""
    from rich.table import Table

    colours = {"healthy": "green", "starting": "yellow", "waiting": "dim", "stopped": "dim"}
    rows = Table("PROCESS", "STATE", "ADDRESS", "PID", "RESTARTS", box=None, pad_edge=False, header_style="bold")
    for process in state.processes:
        colour = colours.get(process.state, "red")
        rows.add_row(process.name, f"[{colour}]{process.state}[/]", process.address, str(process.pid or "-"), str(process.restarts))
    return rows
