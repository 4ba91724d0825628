"""What the demo says to type next, wherever its servers are."""

import sys
from pathlib import Path

import pytest

from tessera.cli.connection import Connection
from tessera.cli.demo.command import show_next
from tessera.cli.demo.ptycho import PtychoDemo
from tessera.cli.demo.puzzle import PuzzleDemo
from tessera.stack.home import Home

ARGUMENTS = ("predict", "puzzle", "/a folder/piece.png")
ASK = "predict puzzle '/a folder/piece.png'"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home without a stack, which the environment names."""
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path))
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    return Home(tmp_path)


def said(capsys: pytest.CaptureFixture[str], told: Connection, home: Home) -> list[str]:
    show_next(ARGUMENTS, told, home)
    blank, heading, *steps = capsys.readouterr().out.splitlines()
    assert (blank, heading) == ("", "ask it yourself:")
    return [step.removeprefix("  ") for step in steps]


def test_a_stack_that_the_demo_has_stopped_is_started_first(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, Connection(home.path), home) == ["tessera up --detach", f"tessera {ASK}"]


def test_servers_elsewhere_need_no_start_and_are_named_again_where_nothing_else_does(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(capsys, Connection(home.path, "lab"), home) == [f"tessera --profile lab {ASK}"]
    told = Connection(home.path, inference="127.0.0.1:1", tls_ca=Path("/lab/ca.pem"))
    assert said(capsys, told, home) == [f"tessera --inference 127.0.0.1:1 --tls-ca /lab/ca.pem {ASK}"]
    monkeypatch.setenv("TESSERA_INFERENCE_ADDRESS", "127.0.0.1:1")
    assert said(capsys, told, home) == [f"tessera --tls-ca /lab/ca.pem {ASK}"]


def test_a_home_that_the_environment_does_not_name_is_named(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    other = Home(home.path / "other")
    named = f"tessera --home {other.path}"
    assert said(capsys, Connection(other.path), other) == [f"{named} up --detach", f"{named} {ASK}"]


def test_who_has_not_activated_the_environment_is_told_to(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VIRTUAL_ENV")
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    assert said(capsys, Connection(home.path), home)[0] == f"source {sys.prefix}/bin/activate"
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    assert said(capsys, Connection(home.path), home)[0] == "tessera up --detach"


def test_both_demos_ask_for_what_they_have_trained(home: Home) -> None:
    puzzle = PuzzleDemo(Path("photo.jpg"), 4, 3, None, "cells_exp4", "meadow", fresh=False)
    assert puzzle.next_command(home) == ("predict", "meadow", f"{home.demo}/piece.png")
    ptycho = PtychoDemo(Path("photo.jpg"), 64, 3, "cnn", "lab", fresh=False)
    assert ptycho.next_command(home) == ("reconstruct", f"{home.demo}/ptycho/validation.safetensors", "--model", "lab")
