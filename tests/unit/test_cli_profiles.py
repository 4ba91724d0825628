"""The command with a profile: every command over TLS and with a token, and what it says when a profile or its servers are not right."""

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from tests.fixtures.certificates import Authority
from tests.fixtures.ports import free_port
from tests.unit.cli_fakes import Fakes, add_models, serve_fakes, tessera
from tests.unit.test_cli_commands import EVERY_CALL

TOKEN = "a-token-of-the-tests"
ABOUT_THIS_MACHINE = [("up",), ("down",), ("logs",)]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the profiles, under a home of its own; nothing else says where servers are."""
    for name in [name for name in os.environ if name.startswith("TESSERA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path / "home"))
    directory = tmp_path / "home" / "profiles"
    directory.mkdir(parents=True)
    return directory


def write_profile(profiles: Path, address: str, *, tls_ca: Path | None = None, name: str = "lab") -> None:
    """Write a profile of servers that are all at one address, with the token in a file beside it."""
    (profiles / "my.token").write_text(f"{TOKEN}\n")
    lines = [f'{service} = "{address}"' for service in ("registry", "trainer", "inference")] + ['token_file = "my.token"']
    (profiles / f"{name}.toml").write_text("\n".join(lines + ([f'tls_ca = "{tls_ca}"'] if tls_ca else [])))


@pytest.fixture
def fakes(profiles: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fakes]:
    """Servers over TLS that want a token, and a profile of them that the environment names."""
    with serve_fakes(authority.issue("server"), TOKEN) as serving:
        write_profile(profiles, serving.address, tls_ca=authority.cert)
        monkeypatch.setenv("TESSERA_PROFILE", "lab")
        add_models(serving)
        yield serving


@pytest.mark.parametrize(("command", "arguments"), [call for call in EVERY_CALL if call.values[0] not in ABOUT_THIS_MACHINE])
def test_every_command_goes_over_tls_with_a_token(here: Path, command: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    result = tessera(*command, *(argument.format(here=here) for argument in arguments))
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("command", ABOUT_THIS_MACHINE)
def test_what_is_about_this_machine_is_refused(fakes: Fakes, command: tuple[str, ...]) -> None:
    result = tessera(*command)
    assert result.exit_code == 1
    assert f"`tessera {command[0]}` is about the stack that `tessera up` starts on this machine" in result.stderr
    assert "the profile lab: leave out --profile" in result.stderr


def test_status_asks_the_servers_of_the_profile(fakes: Fakes) -> None:
    fakes.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    result = tessera("status")
    assert result.exit_code == 1
    assert result.stdout.count("not serving") == 3
    fakes.health.set("", health_pb2.HealthCheckResponse.SERVING)
    result = tessera("status", "--json")
    assert result.exit_code == 0, result.stderr
    servers = [{"name": name, "address": fakes.address, "state": "serving", "reason": ""} for name in ("registry", "trainer", "inference")]
    assert json.loads(result.stdout) == {"healthy": True, "servers": servers}


def test_single_options_win_over_the_profile(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    away = tessera("--registry", nowhere, "models", "list").stderr
    assert f"the registry is not reachable at {nowhere}" in away
    assert "lab.toml" not in away, "the address is not that of the profile"
    (tmp_path / "other.token").write_text("another")
    refused = tessera("--token-file", tmp_path / "other.token", "models", "list")
    assert refused.exit_code == 1
    assert f"this token is not known here\nThe token came from {tmp_path / 'other.token'}" in refused.stderr
    monkeypatch.setenv("TESSERA_TOKEN", "third")
    assert "The token came from TESSERA_TOKEN" in tessera("models", "list").stderr
    monkeypatch.setenv("TESSERA_TOKEN", TOKEN)
    assert tessera("models", "list").exit_code == 0
    assert "another" not in refused.stderr.replace("other.token", "")


def test_a_wrong_token_is_traced_to_its_file(fakes: Fakes, profiles: Path) -> None:
    (profiles / "my.token").write_text("not-the-right-one")
    result = tessera("models", "list")
    assert result.exit_code == 1
    assert f"this token is not known here\nThe token came from {profiles / 'my.token'}." in result.stderr
    assert "not-the-right-one" not in result.stderr


def test_servers_that_are_away_are_named_with_the_profile(profiles: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    write_profile(profiles, nowhere)
    result = tessera("--profile", "lab", "models", "list")
    assert result.exit_code == 4
    assert f"the registry is not reachable at {nowhere}" in result.stderr
    assert f"{profiles / 'lab.toml'}; `tessera --profile lab status`" in result.stderr
    assert "tessera up" not in result.stderr
    status = tessera("--profile", "lab", "status")
    assert status.exit_code == 4
    assert status.stdout.count("unreachable") == 3
    assert f"registry: the server at {nowhere} cannot be reached: nobody listens there" in status.stderr


def test_several_servers_at_one_address_are_asked_in_turn_and_each_for_its_health(fakes: Fakes) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    result = tessera("--inference", f"ipv4:{nowhere},{fakes.address}", "status")
    assert result.exit_code == 4
    assert result.stdout.count("inference") == 2
    assert (result.stdout.count("unreachable"), result.stdout.count(" serving")) == (1, 3)
    assert f"inference: the server at {nowhere} cannot be reached: nobody listens there" in result.stderr
    one_lives = tessera("--registry", f"ipv4:{nowhere},{fakes.address}", "models", "list")
    assert one_lives.exit_code == 0, one_lives.stderr
    none_lives = tessera("--registry", f"ipv4:{nowhere},{nowhere}", "models", "list")
    assert none_lives.exit_code == 4
    assert f"the registry is not reachable at ipv4:{nowhere},{nowhere}" in none_lives.stderr
    wrong = tessera("--registry", f"{nowhere},{fakes.address}", "status")
    assert wrong.exit_code == 1
    assert "the address of several servers must read ipv4:IP:PORT,IP:PORT" in wrong.stderr


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        ({"ends": datetime.now(UTC) - timedelta(days=1)}, "its certificate has expired"),
        ({"host": "registry.example"}, "its certificate is for another name"),
        (None, "its certificate is not vouched for by those of tls_ca"),
    ],
)
def test_a_certificate_that_is_not_right_is_explained(
    profiles: Path, authority: Authority, tmp_path: Path, problem: dict[str, object] | None, said: str
) -> None:
    pair = Authority(tmp_path, "theirs").issue("server") if problem is None else authority.issue("server", **problem)
    with serve_fakes(pair, TOKEN) as serving:
        write_profile(profiles, serving.address, tls_ca=authority.cert)
        result = tessera("--profile", "lab", "models", "list")
    assert result.exit_code == 4
    assert f"the server at {serving.address} cannot be reached: {said}" in result.stderr
    assert "failed to connect" not in result.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("registry = ", "lab.toml is not a TOML file: "),
        ('registry = "a:1"\ntrainer = "a:2"\n', 'inference is missing; add inference = "host:port"'),
        ('registry = "a:1"\ntrainer = "a:2"\ninference = 3\n', 'inference is 3; write it as text, such as inference = "host:port"'),
        (
            'registry = "a:1"\ntrainer = "a:2"\ninference = "a:3"\ntoken = "secret"\n',
            "unknown key 'token'; known: registry, trainer, inference, tls_ca, token_file",
        ),
        ('registry = "a"\ntrainer = "a:2"\ninference = "a:3"\n', "the address must read host:port, not 'a'"),
        ('registry = "a:1"\ntrainer = "a:2"\ninference = "a:3"\ntls_ca = "no.pem"\n', "no.pem: No such file or directory"),
        ('registry = "a:1"\ntrainer = "a:2"\ninference = "a:3"\ntoken_file = "."\n', "profiles: Is a directory"),
    ],
)
def test_a_profile_that_cannot_be_used_is_explained(profiles: Path, text: str, said: str) -> None:
    (profiles / "lab.toml").write_text(text)
    result = tessera("--profile", "lab", "models", "list")
    assert result.exit_code == 1
    assert said in result.stderr
    assert "secret" not in result.stderr


def test_an_unknown_profile_lists_the_known_ones(profiles: Path) -> None:
    for name in ("compose", "lab"):
        write_profile(profiles, "127.0.0.1:1", name=name)
    result = tessera("--profile", "../lab", "models", "list")
    assert result.exit_code == 1
    assert f"unknown profile '../lab'; known: compose, lab. A profile is a file {profiles}/NAME.toml" in result.stderr
    assert tessera("--profile", "lap", "jobs", "list", "--help").exit_code == 0, "help needs no profile"


def test_a_profile_that_may_not_be_read_is_named(profiles: Path) -> None:
    (profiles / "lab.toml").mkdir()
    assert "lab.toml: Is a directory" in tessera("--profile", "lab", "models", "list").stderr
