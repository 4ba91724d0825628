"""Which version answers during a rollout, and what becomes of one that is worse; versions, registry and clock are a test's own."""

import asyncio
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from prometheus_client import REGISTRY

from services.inference.options import CallOptions, Priority
from services.inference.rollouts.shadows import MOST_AT_ONCE
from services.inference.rollouts.splitting import position
from services.inference.runtimes.runtime import Tensors
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import ConflictError, DeadlineExceededError, InvalidArgumentError, PermissionDeniedError, TesseraError, UnavailableError
from tests.fixtures.trial import INPUTS, KEYS, World, grown, metric, world
from tests.fixtures.waiting import until

__all__ = ["grown", "world"]


async def test_without_a_rollout_the_stable_version_answers_all(world: World) -> None:
    assert await world.calls(100) == {1: 100}


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 0), (10.0, 100), (50.0, 500), (100.0, 1000)])
async def test_calls_without_a_key_are_split_by_weight(world: World, weight: float, expected: int) -> None:
    world.follow(weight_percent=weight)
    assert (await world.calls(1000))[2] == pytest.approx(expected, abs=50 if 0 < weight < 100 else 0)


async def test_a_key_stays_where_it_is_and_moves_to_the_candidate_once_as_the_weight_grows(world: World) -> None:
    seen: list[set[str]] = []
    for revision, weight in enumerate((0.0, 10.0, 10.0, 50.0, 100.0), start=1):
        world.follow(weight_percent=weight, revision=revision)
        chosen = await world.by_key()
        assert chosen == await world.by_key()
        seen.append({key for key, version in chosen.items() if version == 2})
    assert seen[1] == seen[2]
    assert all(before <= after for before, after in pairwise(seen))
    assert [len(keys) for keys in seen] == [0, pytest.approx(200, abs=50), len(seen[1]), pytest.approx(1000, abs=100), 2000]


async def test_another_server_and_the_next_rollout_choose_the_same_keys(world: World) -> None:
    other = World()
    world.follow(weight_percent=30.0)
    other.follow(weight_percent=30.0, id=9, revision=99)
    assert await world.by_key() == await other.by_key()


def test_a_key_has_the_same_place_for_ever() -> None:
    assert position("m", "champion", "user-1") == pytest.approx(82.47081651644426, abs=1e-12)
    assert position("m", "champion", "user-1") != position("m", "steady", "user-1")
    assert 0 <= min(position("m", "a", key) for key in KEYS) < 1 < 99 < max(position("m", "a", key) for key in KEYS) < 100


async def test_a_version_that_is_asked_for_by_number_answers_itself(world: World) -> None:
    world.follow(weight_percent=100.0)
    assert (await world.begin(version=1))._served.version == 1
    world.follow(weight_percent=0.0, revision=2)
    assert (await world.begin(version=2))._served.version == 2


async def test_another_alias_has_no_part_in_it(world: World) -> None:
    world.follow(weight_percent=100.0)
    assert (await world.begin(alias="champion"))._served.version == 2
    assert (await world.begin(alias="steady"))._served.version == 1


async def test_a_call_that_names_a_runtime_is_answered_by_a_version_that_has_it(world: World) -> None:
    world.follow(weight_percent=100.0)
    for runtime, version in (("onnxruntime", 2), ("torchserve", 1)):
        prediction = await world.router.begin(ModelSelector(model="m"), CallOptions(runtime=runtime))
        assert prediction._served.version == version


async def test_while_the_candidate_is_not_loaded_the_stable_version_answers_all(world: World) -> None:
    world.follow(weight_percent=100.0, shadow_percent=100.0)
    del world.loaded[2]
    assert await world.calls(100) == {1: 100}
    world.loaded[2] = world.candidate
    assert await world.calls(100) == {2: 100}


@pytest.mark.parametrize("state", [pb.ROLLOUT_STATE_PROMOTED, pb.ROLLOUT_STATE_ROLLED_BACK, pb.ROLLOUT_STATE_SUPERSEDED])
async def test_the_end_of_a_rollout_ends_the_split(world: World, state: int) -> None:
    world.follow(weight_percent=100.0)
    assert world.rollouts.candidates() == {("m", 2)}
    world.follow(state=state, revision=2)
    assert await world.calls(10) == {1: 10}
    assert not world.rollouts.candidates()
    assert REGISTRY.get_sample_value("inference_rollout_weight_percent", {"model": "m", "alias": "champion"}) is None


async def test_what_the_registry_does_not_list_any_more_has_ended(world: World) -> None:
    world.follow(weight_percent=100.0)
    other = world.follow(alias="steady", id=2, revision=2)
    assert world.rollouts.replace([other]) == {("m", "champion"), ("m", "steady")}
    assert [trial.rollout for trial in world.rollouts] == [other]


async def test_a_candidate_that_fails_is_halted_at_once_and_rolled_back_with_the_numbers(world: World, grown: Callable[..., float]) -> None:
    labels = {"alias": "champion", "cause": "error_rate"}
    grown("inference_rollout_rollbacks_total", **labels)
    world.follow(revision=5)
    world.candidate.failure = TesseraError("broken")
    answers = await world.calls(1000)
    assert answers[2] == 40, "not one more than it takes to judge"
    await until(lambda: world.registry.ended)
    assert world.registry.ended == [("champion", 5, world.registry.ended[0][2])]
    assert "error rate 100.00% (40 of 40) against 0.00%" in world.registry.ended[0][2]
    assert grown("inference_rollout_rollbacks_total", **labels) == 1
    assert metric("inference_rollout_halted", alias="champion") == 1


async def test_deadlines_that_the_candidate_misses_count_as_failures(world: World) -> None:
    world.follow(weight_percent=100.0)
    assert (await world.calls(100, error=DeadlineExceededError("too late")))[2] == 40


async def test_a_candidate_that_is_slow_is_rolled_back(world: World) -> None:
    world.follow()
    trial = world.rollouts.of(("m", "champion"))
    assert trial
    for number in range(40):
        for arm, seconds in ((trial.stable, 0.010), (trial.candidate, 0.010 if number < 10 else 0.025)):
            arm.window.add(seconds)
    while not trial.halted:
        assert await world.call() in (1, 2)
    await until(lambda: world.registry.ended)
    assert "p50 latency 25.0 ms" in world.registry.ended[0][2] or "p95 latency 25.0 ms" in world.registry.ended[0][2]


@pytest.mark.parametrize("error", [InvalidArgumentError("bad image"), asyncio.CancelledError()])
async def test_what_callers_do_is_not_held_against_the_candidate(world: World, error: BaseException, grown: Callable[..., float]) -> None:
    labels = {"alias": "champion", "arm": "candidate", "outcome": "rejected"}
    grown("inference_rollout_requests_total", **labels)
    world.follow(weight_percent=100.0)
    assert await world.calls(200, error=error) == {2: 200}
    assert grown("inference_rollout_requests_total", **labels) == 200


async def test_a_failure_of_both_is_not_the_candidates(world: World) -> None:
    world.follow()
    assert (await world.calls(500, error=UnavailableError("the disk is gone")))[2] > 200


async def test_old_failures_are_forgotten(world: World) -> None:
    world.follow(weight_percent=100.0)
    await world.calls(39, error=ZeroDivisionError())
    world.now += 61
    assert await world.calls(200) == {2: 200}


async def test_the_registry_is_told_when_it_is_back_and_nothing_goes_to_the_candidate_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.inference.rollouts.rollouts.pause_s", lambda failures: 0.001)
    away = UnavailableError("no route to host")
    world.registry.failures = [away] * 5
    world.follow(weight_percent=100.0)
    await world.calls(40, error=ZeroDivisionError())
    assert await world.calls(100) == {1: 100}
    await until(lambda: world.registry.ended)
    assert world.registry.tries == 6


async def test_a_server_without_the_role_keeps_its_calls_from_the_candidate(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.inference.rollouts.rollouts.pause_s", lambda failures: 0.001)
    world.registry.failures = [PermissionDeniedError("EndRollout needs the role publisher")] * 1_000_000
    world.follow(weight_percent=100.0)
    await world.calls(40, error=ZeroDivisionError())
    await until(lambda: world.registry.tries > 3)
    assert await world.calls(100) == {1: 100}
    world.follow(state=pb.ROLLOUT_STATE_ABORTED, revision=2)
    await until(lambda: not world.rollouts._tasks)


async def test_a_rollout_that_a_person_changes_meanwhile_is_judged_anew(world: World) -> None:
    world.registry.failures = [ConflictError("it was changed")]
    world.follow(weight_percent=100.0)
    await world.calls(40, error=ZeroDivisionError())
    await until(lambda: world.registry.tries)
    assert await world.calls(10) == {1: 10}
    world.follow(weight_percent=100.0, revision=2)
    assert (await world.calls(10, error=ZeroDivisionError()))[2] == 2, "it is still as bad"
    await until(lambda: world.registry.ended)
    assert world.registry.ended[0][1] == 2


async def test_copies_are_compared_at_low_priority_and_callers_see_nothing_of_it(world: World, grown: Callable[..., float]) -> None:
    counters = [
        ("inference_shadow_rows_total", {"output": "y"}),
        ("inference_shadow_agreeing_rows_total", {"output": "y"}),
        ("inference_shadow_max_absolute_difference_count", {"output": "y"}),
        ("inference_shadow_requests_total", {"alias": "champion", "outcome": "compared"}),
    ]
    for name, labels in counters:
        grown(name, **labels)
    world.candidate.outputs = {"y": np.array([[0.0, 0.5]])}
    world.follow(weight_percent=0.0, shadow_percent=100.0)
    trial = world.rollouts.of(("m", "champion"))
    assert trial
    for done in range(1, 6):
        assert await world.call() == 1
        await until(lambda done=done: trial.shadows.outcomes["compared"] == done)  # type: ignore[misc]
    assert [grown(name, **labels) for name, labels in counters] == [5, 0, 5, 5]
    assert (trial.shadows.rows, trial.shadows.agreeing, trial.shadows.max_abs) == (5, 0, 1.0)
    assert {options.priority for options in world.candidate.asked} == {Priority.LOW}
    assert trial.candidate.window.summary(60).calls == 0, "copies are no part of the judgement"


@pytest.mark.parametrize(
    ("failure", "outputs", "outcome"),
    [
        (TesseraError("the model failed"), None, "failed"),
        (ZeroDivisionError(), None, "failed"),
        (None, {"z": np.zeros((1, 2))}, "incomparable"),
    ],
)
async def test_a_copy_that_fails_harms_nobody(world: World, failure: Exception | None, outputs: Tensors | None, outcome: str) -> None:
    world.candidate.failure = failure
    world.candidate.outputs = outputs or world.candidate.outputs
    world.follow(weight_percent=0.0, shadow_percent=100.0)
    trial = world.rollouts.of(("m", "champion"))
    assert trial
    assert await world.calls(3) == {1: 3}
    await until(lambda: trial.shadows.outcomes[outcome] == 3)
    await until(lambda: world.candidate.in_flight == 0)


async def test_copies_that_find_no_room_are_dropped_and_a_candidate_is_held_while_it_computes(world: World) -> None:
    world.candidate.gate = asyncio.Event()
    world.follow(weight_percent=0.0, shadow_percent=100.0)
    trial = world.rollouts.of(("m", "champion"))
    assert trial
    assert await world.calls(MOST_AT_ONCE + 5) == {1: MOST_AT_ONCE + 5}
    assert trial.shadows.outcomes == {"dropped": 5}
    assert world.candidate.in_flight == MOST_AT_ONCE
    world.candidate.gate.set()
    await until(lambda: trial.shadows.outcomes["compared"] == MOST_AT_ONCE)
    await until(lambda: world.candidate.in_flight == 0)


async def test_copies_keep_no_more_memory_than_they_may(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    call_bytes = INPUTS["x"].nbytes + world.candidate.outputs["y"].nbytes
    monkeypatch.setattr("services.inference.rollouts.shadows.MOST_BYTES", 2 * call_bytes)
    world.candidate.gate = asyncio.Event()
    world.follow(weight_percent=0.0, shadow_percent=100.0)
    trial = world.rollouts.of(("m", "champion"))
    assert trial
    await world.calls(3)
    assert trial.shadows.outcomes == {"dropped": 1}
    world.candidate.gate.set()
    await until(lambda: trial.shadows.outcomes["compared"] == 2)
    await world.calls(2)
    await until(lambda: trial.shadows.outcomes["compared"] == 4)


async def test_a_candidate_that_was_unloaded_during_a_call_gets_no_copy_of_it(world: World) -> None:
    world.follow(weight_percent=0.0, shadow_percent=100.0)
    with await world.begin() as prediction:
        await prediction.compute(INPUTS)
        del world.loaded[2]
    assert world.candidate.in_flight == 0
    await asyncio.sleep(0)
    assert world.candidate.asked == [], "it would be loaded again, and never be unloaded"


async def test_a_server_that_stops_gives_its_copies_up(world: World) -> None:
    world.candidate.gate = asyncio.Event()
    world.follow(weight_percent=0.0, shadow_percent=100.0)
    await world.calls(3)
    await world.rollouts.stop()
    assert world.candidate.in_flight == 0


async def test_only_a_share_of_what_the_stable_version_answers_is_copied(world: World) -> None:
    world.follow(weight_percent=50.0, shadow_percent=20.0)
    answers = await world.calls(1000)
    trial = world.rollouts.of(("m", "champion"))
    assert trial
    await until(lambda: world.candidate.in_flight == 0)
    assert trial.shadows.outcomes.total() == pytest.approx(answers[1] * 0.2, abs=40)


async def test_failed_calls_are_not_copied(world: World) -> None:
    world.follow(weight_percent=0.0, shadow_percent=100.0)
    await world.calls(5, error=InvalidArgumentError("bad image"))
    assert not world.candidate.asked
