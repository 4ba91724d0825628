"""Every command that there is, against small servers: it prints JSON for programs and words for people."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from tessera.cli.main import app
from tests.unit.cli_fakes import tessera


def leaves(command: Any, *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command below this one that does something, with the words that lead to it."""
    if not isinstance(command, TyperGroup):
        yield above, command
        return
    for name, below in command.commands.items():
        yield from leaves(below, *above, name)


COMMANDS = dict(leaves(typer.main.get_command(app)))
ARGUMENTS: dict[tuple[str, ...], list[tuple[str, ...]]] = {
    ("models", "list"): [()],
    ("models", "show"): [("puzzle",)],
    ("models", "create"): [("new",)],
    ("models", "limits"): [("puzzle",), ("puzzle", "--max-batch", "8", "--queue-size", "0")],
    ("models", "delete"): [("lego",)],
    ("versions", "list"): [(), ("puzzle",)],
    ("versions", "show"): [("puzzle",), ("puzzle", "3")],
    ("versions", "verify"): [("puzzle", "1")],
    ("versions", "tag"): [("puzzle", "1", "site=lab", "by=hand", "--remove", "old")],
    ("versions", "delete"): [("puzzle", "2")],
    ("versions", "download"): [("puzzle", "--to", "{here}")],
    ("alias", "list"): [("puzzle",)],
    ("alias", "set"): [("puzzle", "candidate", "2", "--reason", "better")],
    ("alias", "delete"): [("puzzle", "candidate")],
    ("alias", "history"): [("puzzle",)],
    ("rollout", "start"): [("puzzle", "--version", "3", "--alias", "candidate", "--weight", "5", "--shadow", "20")],
    ("rollout", "set"): [("puzzle", "--weight", "50", "--max-latency-ratio", "2", "--window", "60")],
    ("rollout", "status"): [("puzzle",)],
    ("rollout", "promote"): [("puzzle", "--reason", "better")],
    ("rollout", "abort"): [("puzzle",)],
    ("rollout", "list"): [(), ("--filter", 'model = "lego"')],
    ("rollout", "history"): [("puzzle",)],
    ("promote",): [("puzzle",)],
    ("rollback",): [("puzzle", "--alias", "moved")],
    ("gc",): [(), ("--dry-run", "--grace", "2")],
    ("families",): [()],
    ("jobs", "list"): [(), ("--state", "running")],
    ("jobs", "show"): [("j1",)],
    ("jobs", "cancel"): [("j1",)],
    ("jobs", "watch"): [("j1",)],
    ("experiments", "list"): [()],
    ("experiments", "show"): [("e1",)],
    ("samples", "list"): [(), ("puzzle", "--version", "1")],
    ("samples", "download"): [("puzzle", "--to", "{here}")],
    ("train",): [("puzzle_cells", "--architecture", "cells_exp4", "--model", "puzzle")],
    ("predict",): [("puzzle", "{here}/piece.png")],
    ("infer",): [("puzzle", "image={here}/image.npy", "--output", "image", "--save", "{here}/answer.npz")],
    ("reconstruct",): [
        ("{here}/scan.safetensors", "--pictures", "{here}/pictures"),
        ("{here}/scan.safetensors", "--pictures", "{here}/pictures", "--refine", "rpie", "--queue"),
    ],
    ("down",): [()],
    ("logs",): [(), ("registry",)],
}
"""Arguments with which each command succeeds against the small servers; `{here}` is a directory of the test."""
ON_A_WHOLE_STACK = {("up",), ("status",), ("demo",), *(("queue", name) for name in ("submit", "list", "show", "watch", "result", "cancel"))}
"""Their `--json` is tested where a whole stack, or an inference server with its queue, runs."""
LINES = {("jobs", "watch"), ("logs",)}
"""Commands whose JSON is one object a line."""

EVERY_CALL = [
    pytest.param(command, arguments, id=" ".join((*command, *arguments))) for command, calls in ARGUMENTS.items() for arguments in calls
]


def test_every_command_is_tested_and_takes_json() -> None:
    assert set(ARGUMENTS) | ON_A_WHOLE_STACK == set(COMMANDS)
    assert [command for command, found in COMMANDS.items() if not any("--json" in option.opts for option in found.params)] == []


@pytest.mark.parametrize(("command", "arguments"), EVERY_CALL)
def test_every_command_prints_json_and_nothing_else_on_stdout(here: Path, command: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    result = tessera(*command, *(argument.format(here=here) for argument in arguments), "--json")
    assert result.exit_code == 0, result.stderr
    for document in result.stdout.splitlines() if command in LINES else [result.stdout]:
        json.loads(document)


@pytest.mark.parametrize(("command", "arguments"), EVERY_CALL)
def test_every_command_has_words_for_people(here: Path, command: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    result = tessera(*command, *(argument.format(here=here) for argument in arguments))
    assert result.exit_code == 0, result.stderr
    assert result.stdout or result.stderr
