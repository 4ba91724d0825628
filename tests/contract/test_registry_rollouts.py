"""Rollouts in the registry, on SQLite and on PostgreSQL."""

from typing import Any

import pytest

from services.registry.tokens import PageRequest
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import ConflictError, FailedPreconditionError, InvalidArgumentError, NotFoundError
from tessera.times import to_duration
from tests.fixtures.artifacts import Artifact
from tests.fixtures.registry import RegistryCore

START: dict[str, Any] = {"model": "cells", "alias": "champion", "candidate_version": 2, "weight_percent": 10.0, "reason": "try it"}


@pytest.fixture
def cells(core: RegistryCore) -> RegistryCore:
    """A registry with a model of three versions, the first of which is the champion."""
    core.registry.models.create("cells", "", {})
    for seed in range(3):
        core.registry.versions.create("cells", Artifact("cells", seed).store(core.store), tags={})
    set_alias(core, 1)
    return core


def set_alias(core: RegistryCore, version: int, alias: str = "champion") -> pb.AliasChange:
    return core.registry.aliases.set("cells", alias, version, expected=None, actor="ann", reason="by hand")


def start(core: RegistryCore, **changes: Any) -> pb.Rollout:
    return core.registry.rollouts.start(pb.StartRolloutRequest(**(START | changes)), "ann")


def update(core: RegistryCore, **changes: Any) -> pb.Rollout:
    return core.registry.rollouts.update(pb.UpdateRolloutRequest(model="cells", **changes), "bob")


def end(core: RegistryCore, outcome: pb.RolloutState.ValueType, **changes: Any) -> pb.EndRolloutResponse:
    return core.registry.rollouts.end(pb.EndRolloutRequest(model="cells", outcome=outcome, **changes), "server")


def current(core: RegistryCore) -> pb.Rollout:
    return core.registry.rollouts.get("cells", "")


def champion(core: RegistryCore) -> int:
    return core.registry.models.get("cells").aliases["champion"]


def test_a_rollout_is_kept_as_it_was_started_with_the_guards_defaults(cells: RegistryCore) -> None:
    made = start(cells, shadow_percent=5.0, guard=pb.RolloutGuard(max_latency_ratio=2.0))
    assert made == current(cells)
    assert (made.stable_version, made.candidate_version, made.weight_percent, made.shadow_percent) == (1, 2, 10.0, 5.0)
    assert made.guard == pb.RolloutGuard(
        min_requests=200,
        max_error_rate_increase=0.01,
        max_latency_ratio=2.0,
        min_latency_increase=to_duration(0.005),
        window=to_duration(300),
    )
    assert (made.state, made.actor, made.reason) == (pb.ROLLOUT_STATE_ACTIVE, "ann", "try it")
    assert made.create_time.ToMicroseconds() == made.change_time.ToMicroseconds() == cells.clock.time
    assert list(cells.registry.models.get("cells").rollouts) == [made]
    assert champion(cells) == 1


def test_an_update_changes_what_it_names_and_nothing_else(cells: RegistryCore) -> None:
    made = start(cells, shadow_percent=5.0)
    update(cells, weight_percent=0.0, guard=pb.RolloutGuard(max_error_rate_increase=0.0))
    changed = update(cells, shadow_percent=0.0, reason="seen enough", expected_revision=current(cells).revision)
    assert (changed.weight_percent, changed.shadow_percent, changed.guard.max_error_rate_increase) == (0.0, 0.0, 0.0)
    assert (changed.guard.min_requests, changed.id, changed.create_time) == (200, made.id, made.create_time)
    assert (changed.actor, changed.reason) == ("bob", "seen enough")


def test_a_change_of_what_the_caller_has_not_seen_is_refused(cells: RegistryCore) -> None:
    made = start(cells)
    changed = update(cells, weight_percent=20.0)
    with pytest.raises(ConflictError, match=f"changed at revision {changed.revision}"):
        update(cells, weight_percent=30.0, expected_revision=made.revision)
    for outcome in (pb.ROLLOUT_STATE_PROMOTED, pb.ROLLOUT_STATE_ROLLED_BACK, pb.ROLLOUT_STATE_ABORTED):
        with pytest.raises(ConflictError):
            end(cells, outcome, expected_revision=made.revision)
    with pytest.raises(ConflictError, match="points at version 1, not at 3"):
        start(cells, expected_version=3)
    assert current(cells) == changed


def test_an_alias_has_one_rollout_at_a_time(cells: RegistryCore) -> None:
    set_alias(cells, 1, "steady")
    start(cells)
    with pytest.raises(FailedPreconditionError, match="rollout of version 2 already"):
        start(cells, candidate_version=3)
    start(cells, alias="steady", candidate_version=3)
    assert [rollout.alias for rollout in cells.registry.models.get("cells").rollouts] == ["champion", "steady"]


def test_promoting_moves_the_alias_and_ends_the_rollout_at_once(cells: RegistryCore) -> None:
    made = start(cells)
    ended = end(cells, pb.ROLLOUT_STATE_PROMOTED, expected_revision=made.revision, reason="better")
    assert ended.rollout == current(cells)
    assert ended.rollout.state == pb.ROLLOUT_STATE_PROMOTED
    assert (ended.change.from_version, ended.change.to_version, ended.change.actor, ended.change.reason) == (1, 2, "server", "better")
    assert cells.registry.aliases.history("cells", "champion", PageRequest()).changes[0] == ended.change
    assert champion(cells) == 2
    assert not cells.registry.models.get("cells").rollouts


@pytest.mark.parametrize("outcome", [pb.ROLLOUT_STATE_ROLLED_BACK, pb.ROLLOUT_STATE_ABORTED])
def test_giving_up_leaves_the_alias(cells: RegistryCore, outcome: pb.RolloutState.ValueType) -> None:
    made = start(cells)
    ended = end(cells, outcome, expected_revision=made.revision, reason="2 of 10 failed")
    assert (ended.rollout.state, ended.rollout.actor, ended.rollout.reason) == (outcome, "server", "2 of 10 failed")
    assert not ended.HasField("change")
    assert champion(cells) == 1
    for change in (lambda: update(cells, weight_percent=1.0), lambda: end(cells, outcome, expected_revision=ended.rollout.revision)):
        with pytest.raises(FailedPreconditionError, match="no active rollout"):
            change()
    assert start(cells).id > made.id


@pytest.mark.parametrize(("version", "state"), [(2, pb.ROLLOUT_STATE_PROMOTED), (3, pb.ROLLOUT_STATE_SUPERSEDED)])
def test_moving_the_alias_by_hand_ends_its_rollout(cells: RegistryCore, version: int, state: pb.RolloutState.ValueType) -> None:
    start(cells)
    set_alias(cells, 1)
    assert current(cells).state == pb.ROLLOUT_STATE_ACTIVE, "it was not moved"
    set_alias(cells, version)
    ended = current(cells)
    assert (ended.state, ended.actor, ended.reason) == (state, "ann", "by hand")


def test_deleting_the_alias_ends_its_rollout(cells: RegistryCore) -> None:
    start(cells)
    cells.registry.aliases.delete("cells", "champion", expected=None, actor="bob", reason="")
    assert current(cells).state == pb.ROLLOUT_STATE_SUPERSEDED


def test_a_version_on_trial_cannot_be_deleted(cells: RegistryCore) -> None:
    made = start(cells)
    with pytest.raises(FailedPreconditionError, match="held by the rollout of 'champion'"):
        cells.registry.versions.delete("cells", 2)
    end(cells, pb.ROLLOUT_STATE_ABORTED, expected_revision=made.revision)
    cells.registry.versions.delete("cells", 2)
    with pytest.raises(FailedPreconditionError, match="retired"):
        start(cells)


def test_the_history_of_rollouts_only_grows(cells: RegistryCore) -> None:
    start(cells)
    update(cells, weight_percent=50.0, reason="looks good")
    end(cells, pb.ROLLOUT_STATE_PROMOTED)
    pages: list[pb.Rollout] = []
    token = None
    while token != "":
        page = cells.registry.rollouts.history("cells", "champion", PageRequest(size=2, token=token or ""))
        pages += page.changes
        token = page.next_page_token
    assert [(change.state, change.weight_percent, change.actor, change.reason) for change in pages] == [
        (pb.ROLLOUT_STATE_PROMOTED, 50.0, "server", "rollout promoted"),
        (pb.ROLLOUT_STATE_ACTIVE, 50.0, "bob", "looks good"),
        (pb.ROLLOUT_STATE_ACTIVE, 10.0, "ann", "try it"),
    ]
    assert cells.registry.rollouts.history("cells", "", PageRequest()).changes == pages
    assert not cells.registry.rollouts.history("cells", "other", PageRequest()).changes


def test_watchers_see_every_change_and_a_promotion_after_the_move_of_the_alias(cells: RegistryCore) -> None:
    since = cells.registry.models.page(PageRequest()).revision
    made = start(cells)
    ended = end(cells, pb.ROLLOUT_STATE_PROMOTED)
    events, newest = cells.registry.changes.after(since, "cells", 10)
    assert [event.WhichOneof("event") for event in events] == ["rollout_changed", "alias_changed", "rollout_changed"]
    assert events[0].rollout_changed == made
    assert events[2].rollout_changed == ended.rollout
    assert [event.revision for event in events] == [made.revision, ended.change.revision, ended.rollout.revision]
    assert newest == ended.rollout.revision


def test_rollouts_are_listed_over_all_models(cells: RegistryCore) -> None:
    set_alias(cells, 1, "steady")
    start(cells)
    end(cells, pb.ROLLOUT_STATE_ABORTED)
    start(cells, candidate_version=3)
    start(cells, alias="steady")
    everything = cells.registry.rollouts.page(PageRequest(order_by="create_time desc"))
    assert [(one.alias, one.candidate_version) for one in everything.rollouts] == [("steady", 2), ("champion", 3), ("champion", 2)]
    first = cells.registry.rollouts.page(PageRequest(size=1, filter='state = ACTIVE AND model = "cells"'))
    second = cells.registry.rollouts.page(PageRequest(size=1, token=first.next_page_token, filter='state = ACTIVE AND model = "cells"'))
    assert [one.alias for one in [*first.rollouts, *second.rollouts]] == ["champion", "steady"]
    assert not second.next_page_token


BAD_STARTS: list[tuple[dict[str, Any], str]] = [
    ({"model": "No"}, "model"),
    ({"alias": "7"}, "alias"),
    ({"candidate_version": 0}, "version"),
    ({"candidate_version": 1}, "candidate_version"),
    ({"weight_percent": 100.1}, "weight_percent"),
    ({"weight_percent": float("nan")}, "weight_percent"),
    ({"shadow_percent": -1.0}, "shadow_percent"),
    ({"reason": "x" * 1025}, "reason"),
    ({"guard": pb.RolloutGuard(min_requests=0)}, "guard.min_requests"),
    ({"guard": pb.RolloutGuard(min_requests=2001)}, "guard.min_requests"),
    ({"guard": pb.RolloutGuard(max_error_rate_increase=1.5)}, "guard.max_error_rate_increase"),
    ({"guard": pb.RolloutGuard(max_latency_ratio=0.5)}, "guard.max_latency_ratio"),
    ({"guard": pb.RolloutGuard(max_latency_ratio=float("inf"))}, "guard.max_latency_ratio"),
    ({"guard": pb.RolloutGuard(min_latency_increase=to_duration(-1))}, "guard.min_latency_increase"),
    ({"guard": pb.RolloutGuard(window=to_duration(0.5))}, "guard.window"),
]


def test_a_rollout_that_cannot_be_is_refused(cells: RegistryCore) -> None:
    for changes, field in BAD_STARTS:
        with pytest.raises(InvalidArgumentError) as caught:
            start(cells, **changes)
        assert caught.value.field == field
    with pytest.raises(NotFoundError, match="never had a rollout"):
        current(cells)


def test_a_rollout_needs_a_model_an_alias_and_a_version(cells: RegistryCore) -> None:
    for changes in ({"model": "dots"}, {"alias": "nowhere"}, {"candidate_version": 9}):
        with pytest.raises(NotFoundError):
            start(cells, **changes)
    with pytest.raises(NotFoundError):
        cells.registry.rollouts.history("dots", "", PageRequest())


def test_a_rollout_ends_only_as_promoted_rolled_back_or_aborted(cells: RegistryCore) -> None:
    start(cells)
    for outcome in (pb.ROLLOUT_STATE_UNSPECIFIED, pb.ROLLOUT_STATE_ACTIVE, pb.ROLLOUT_STATE_SUPERSEDED):
        with pytest.raises(InvalidArgumentError, match="PROMOTED, ROLLED_BACK, ABORTED"):
            end(cells, outcome)
    with pytest.raises(InvalidArgumentError, match="the revision that was judged"):
        end(cells, pb.ROLLOUT_STATE_ROLLED_BACK)


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"task": {"name": "lego_parts", "revision": 1}}, "task"),
    ({"inputs": [{"name": "picture", "data_type": "FP32", "shape": [-1, 3, 64, 64]}]}, "inputs"),
    ({"inputs": [{"name": "image", "data_type": "FP32", "shape": [-1, 3, 32, 32]}]}, "inputs"),
    ({"outputs": [{"name": "logits", "data_type": "FP16", "shape": [-1, 950]}]}, "outputs"),
]


def test_a_version_that_takes_other_requests_cannot_stand_in(cells: RegistryCore) -> None:
    for changes, what in OTHERS:
        other = cells.registry.versions.create("cells", Artifact("cells", 9, changes=changes).store(cells.store), tags={})
        with pytest.raises(FailedPreconditionError, match=f"the {what} of the stable version are"):
            start(cells, candidate_version=other.version)


def test_a_version_may_have_other_classes(cells: RegistryCore) -> None:
    wider = {"outputs": [{"name": "logits", "data_type": "FP32", "shape": [-1, 1000]}]}
    cells.registry.versions.create("cells", Artifact("cells", 9, changes=wider).store(cells.store), tags={})
    assert start(cells, candidate_version=4).candidate_version == 4
