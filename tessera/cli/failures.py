"""What a failed command says and which exit code it leaves."""

import re
import socket
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from tessera.cli.connection import Connection, connection
from tessera.errors import InvalidArgumentError, TesseraError
from tessera.rpc.address import servers

EXIT_CODES = {"NOT_FOUND": 3, "UNAVAILABLE": 4, "ABORTED": 5}
EXIT_CODES_HELP = (
    "Exit codes: 0 done; 1 refused or failed, the message says why; 2 wrong usage; 3 what was named does not exist; "
    "4 a server cannot be reached, or no stack runs; 5 somebody else was faster, look again; 130 interrupted."
)
HINTS = {
    "NOT_FOUND": "`tessera models list`, `tessera versions list` and `tessera jobs list` show what there is.",
    "ABORTED": "Look with `tessera alias list MODEL` or `tessera jobs list`, then decide again.",
    "UNAUTHENTICATED": "Set TESSERA_TOKEN, or TESSERA_TOKEN_FILE to a file that holds the token.",
    "PERMISSION_DENIED": "Use a token with a higher role: reader, publisher, operator.",
    "DEADLINE_EXCEEDED": "Allow more time with `tessera --timeout SECONDS ...` or TESSERA_TIMEOUT_S.",
    "DATA_LOSS": "`tessera versions verify MODEL VERSION` lists the damaged files.",
    "INTERNAL": "The log of the service holds the trace: of a stack on this machine, `tessera logs` shows it.",
}
ABOUT_TOKENS = {"UNAUTHENTICATED", "PERMISSION_DENIED"}
PROBE_TIMEOUT_S = 1.0


class ReportingGroup(TyperGroup):
    """A command group that turns domain errors into a message with the next step and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except TesseraError as error:
            sys.stderr.write(explain(error, connection(ctx)) + "\n")
            raise typer.Exit(EXIT_CODES.get(error.code, 1)) from None


def explain(error: TesseraError, used: Connection) -> str:
    """Return what to tell the user: what went wrong, then what to do about it."""
    field = f" (field {error.field})" if error.field and error.field not in error.message else ""
    said = f"error: {error.message}{field}"
    if error.code == "UNAVAILABLE":
        return "\n".join(_unreachable(error.message, used)) or said
    if error.retry_after_s:
        return f"{said}\nTry again in {error.retry_after_s:g} s."
    hint = _hint(error.code, used)
    return f"{said}\n{hint}" if hint else said


def _hint(code: str, used: Connection) -> str | None:
    hint = HINTS.get(code)
    if code not in ABOUT_TOKENS or not (source := used.token_source()):
        return hint
    return f"The token came from {source}." if code == "UNAUTHENTICATED" else f"{hint} This one came from {source}."


def _unreachable(message: str, used: Connection) -> list[str]:
    """Return a line for each service that does not answer, of those that the message of gRPC names by their port."""
    return [
        f"error: the {name} is not reachable at {address}\n{_way_out(name, used)}"
        for name, address in used.addresses().items()
        if _is_away(message, address)
    ]


def _is_away(message: str, address: str) -> bool:
    try:
        named = servers(address)
    except InvalidArgumentError:  # nobody was asked there: the message is about something else
        return False
    return any(re.search(rf":{server.rpartition(':')[2]}\b", message) for server in named) and not any(map(_answers, named))


def _way_out(name: str, used: Connection) -> str:
    if used.profile and not getattr(used, name):  # an option wins over the profile
        return f"The address is that of {used.profile.file}; `tessera --profile {used.profile.name} status` asks all servers there."
    return f"Start it with `tessera up`, or set TESSERA_{name.upper()}_ADDRESS (or `tessera --{name} HOST:PORT ...`)."


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_TIMEOUT_S):
            return True
    except (OSError, ValueError):
        return False
