"""`tessera rollout`: what it asks the servers, and what it tells people."""

import json

import pytest

from tessera.api.inference.v1 import serving_pb2
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.times import to_duration
from tests.unit.cli_fakes import Fakes, tessera


@pytest.fixture
def started(fakes: Fakes) -> Fakes:
    """Servers with a rollout of version 2 for the champion of `puzzle`."""
    result = tessera("rollout", "start", "puzzle", "--version", 2)
    assert result.exit_code == 0, result.stderr
    return fakes


def newest(fakes: Fakes) -> pb.Rollout:
    return fakes.registry.rollouts[-1]


def test_a_rollout_begins_with_a_tenth_of_the_requests_and_the_registrys_guard(started: Fakes) -> None:
    rollout = newest(started)
    assert (rollout.model, rollout.alias, rollout.candidate_version) == ("puzzle", "champion", 2)
    assert (rollout.weight_percent, rollout.shadow_percent, rollout.guard.min_requests) == (10.0, 0.0, 200)


def test_every_option_reaches_the_registry(fakes: Fakes) -> None:
    options = {
        "--version": 2,
        "--alias": "candidate",
        "--weight": 2.5,
        "--shadow": 5,
        "--min-requests": 50,
        "--max-error-rate-increase": 0,
        "--max-latency-ratio": 3,
        "--window": 30,
        "--reason": "try it",
    }
    result = tessera("rollout", "start", "puzzle", "--json", *(word for option in options.items() for word in option))
    assert result.exit_code == 0, result.stderr
    rollout = newest(fakes)
    assert rollout.guard == pb.RolloutGuard(min_requests=50, max_error_rate_increase=0.0, max_latency_ratio=3.0, window=to_duration(30))
    assert (rollout.alias, rollout.weight_percent, rollout.shadow_percent, rollout.reason) == ("candidate", 2.5, 5.0, "try it")
    shown = json.loads(result.stdout)
    assert (shown["state"], shown["weight_percent"], shown["guard"]["window"]) == ("ACTIVE", 2.5, 30.0)


def test_a_change_leaves_what_it_does_not_name(started: Fakes) -> None:
    assert tessera("rollout", "set", "puzzle", "--max-latency-ratio", 2).exit_code == 0
    assert (newest(started).weight_percent, newest(started).guard.max_latency_ratio, newest(started).guard.min_requests) == (10, 2, 200)
    assert tessera("rollout", "set", "puzzle", "--weight", 0).exit_code == 0
    assert (newest(started).weight_percent, newest(started).guard.max_latency_ratio) == (0, 2)


@pytest.mark.parametrize(("command", "state"), [("promote", pb.ROLLOUT_STATE_PROMOTED), ("abort", pb.ROLLOUT_STATE_ABORTED)])
def test_a_rollout_is_ended_as_it_was_seen(started: Fakes, command: str, state: pb.RolloutState.ValueType) -> None:
    result = tessera("rollout", command, "puzzle", "--reason", "enough", "--json")
    assert result.exit_code == 0, result.stderr
    assert (newest(started).state, newest(started).reason) == (state, "enough")
    assert json.loads(result.stdout)["state"] == pb.RolloutState.Name(state).removeprefix("ROLLOUT_STATE_")


def test_the_status_has_the_live_numbers_of_the_server(started: Fakes) -> None:
    arm = serving_pb2.RolloutArm(version=1, state=serving_pb2.SERVED_STATE_READY, requests=900, failed=1, p50=to_duration(0.0042))
    served = serving_pb2.ServedRollout(model="puzzle", alias="champion", stable=arm, halted="error rate 5.00% (5 of 100)")
    served.candidate.version, served.candidate.state = 2, serving_pb2.SERVED_STATE_LOADING
    served.shadow.requests["compared"] = 40
    served.shadow.rows, served.shadow.agreeing_rows, served.shadow.max_absolute_difference = 40, 39, 0.125
    started.inference.rollouts = [served]
    shown = json.loads(tessera("rollout", "status", "puzzle", "--json").stdout)
    assert (shown["rollout"]["candidate_version"], shown["server"]["stable"]["requests"]) == (2, 900)
    result = tessera("rollout", "status", "puzzle")
    assert [line.split() for line in result.stdout.splitlines()[-2:]] == [
        ["1", "READY", "900", "1", "4.2", "0.0"],
        ["2", "LOADING", "0", "0", "0.0", "0.0"],
    ]
    assert "sends nothing more to version 2: error rate 5.00% (5 of 100)" in result.stderr
    assert "copies: 40 compared; 39 of 40 rows agree, greatest difference 0.125" in result.stderr


def test_the_status_is_told_without_the_inference_server_too(started: Fakes, monkeypatch: pytest.MonkeyPatch, nowhere: str) -> None:
    monkeypatch.setenv("TESSERA_REGISTRY_ADDRESS", started.address)
    result = tessera("rollout", "status", "puzzle", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["server"] is None
    assert "no live numbers" in result.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("alias", "set", "puzzle", "champion", 3), "champion has a rollout of version 2; this ends it without promoting it"),
        (("alias", "set", "puzzle", "champion", 2), "champion has a rollout of version 2; this ends it as promoted"),
        (("alias", "delete", "puzzle", "champion"), "champion has a rollout of version 2; this ends it without promoting it"),
        (("promote", "puzzle"), "champion has a rollout of version 2; this ends it without promoting it"),
    ],
)
def test_whoever_moves_an_alias_by_hand_is_told_what_becomes_of_its_rollout(started: Fakes, command: tuple[object, ...], said: str) -> None:
    result = tessera(*command)
    assert result.exit_code == 0, result.stderr
    assert said in result.stderr


def test_an_alias_that_stays_or_has_no_rollout_needs_no_words(started: Fakes) -> None:
    for command in (("alias", "set", "puzzle", "champion", 1), ("alias", "set", "puzzle", "candidate", 2)):
        assert "rollout" not in tessera(*command).stderr
