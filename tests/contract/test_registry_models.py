"""Models, aliases and experiments, on SQLite and on PostgreSQL."""

import math

import pytest

from services.registry.tokens import PageRequest
from tessera.api.common.v1 import common_pb2
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import (
    AlreadyExistsError,
    ConflictError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StaleFenceError,
)
from tests.fixtures.artifacts import Artifact
from tests.fixtures.registry import RegistryCore

BAD_NAMES = ["", "x" * 300, "../etc", "a/b", ".hidden", "Capital", "new\nline", "nul\0", "tab\t", "é", "a b"]


def make_versions(core: RegistryCore, count: int, model: str = "cells") -> None:
    core.registry.models.create(model, "", {})
    for seed in range(count):
        core.registry.versions.create(model, Artifact(model, seed).store(core.store), tags={})


def set_alias(core: RegistryCore, version: int, expected: int | None, alias: str = "champion", reason: str = "") -> pb.AliasChange:
    return core.registry.aliases.set("cells", alias, version, expected=expected, actor="ann", reason=reason)


def test_a_model_is_kept_as_it_was_described(core: RegistryCore) -> None:
    made = core.registry.models.create("cells", "Cells of a puzzle", {"site": "lab", "empty": ""})
    assert made == core.registry.models.get("cells")
    assert (made.description, dict(made.tags), made.latest_version, made.revision) == (
        "Cells of a puzzle",
        {"site": "lab", "empty": ""},
        0,
        1,
    )


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused_wherever_it_appears(core: RegistryCore, name: str) -> None:
    for call in (
        lambda: core.registry.models.create(name, "", {}),
        lambda: core.registry.models.get(name),
        lambda: core.registry.models.delete(name),
        lambda: core.registry.versions.delete(name, 1),
        lambda: core.registry.versions.create(name, b"{}", tags={}),
        lambda: core.registry.aliases.history(name, "", PageRequest()),
    ):
        with pytest.raises(InvalidArgumentError):
            call()


def test_a_name_is_given_once(core: RegistryCore) -> None:
    core.registry.models.create("cells", "", {})
    with pytest.raises(AlreadyExistsError, match="cells"):
        core.registry.models.create("cells", "", {})


@pytest.mark.parametrize(
    ("tags", "description", "field"),
    [
        ({f"k{index}": "" for index in range(65)}, "", "tags"),
        ({"": ""}, "", "tags"),
        ({"two words": ""}, "", "tags"),
        ({"key": "x" * 513}, "", "tags.key"),
        ({"key": "nul\0"}, "", "tags.key"),
        ({}, "x" * 4097, "description"),
    ],
)
def test_labels_and_descriptions_have_limits(core: RegistryCore, tags: dict[str, str], description: str, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        core.registry.models.create("cells", description, tags)
    assert caught.value.field == field


def test_the_largest_labels_fit(core: RegistryCore) -> None:
    tags = {"k" * 126 + f"{index:02}": "\U0001f9e9" * 512 for index in range(64)}
    assert dict(core.registry.models.create("cells", "", tags).tags) == tags


def test_an_update_changes_what_it_names_and_nothing_else(core: RegistryCore) -> None:
    core.registry.models.create("cells", "old", {"a": "1", "b": "2"})
    core.registry.models.update("cells", None, {"b": "3", "c": "4"}, ["a", "never-there"])
    model = core.registry.models.update("cells", "new", {}, [])
    assert (model.description, dict(model.tags), model.revision) == ("new", {"b": "3", "c": "4"}, 3)


def test_a_model_goes_only_after_its_versions_and_its_numbers_are_never_given_again(core: RegistryCore) -> None:
    make_versions(core, 2)
    core.registry.versions.delete("cells", 1)
    with pytest.raises(FailedPreconditionError, match="1 live version"):
        core.registry.models.delete("cells")
    core.registry.versions.delete("cells", 2)
    core.registry.models.delete("cells")
    with pytest.raises(NotFoundError):
        core.registry.models.get("cells")
    assert not core.registry.models.page(PageRequest()).models
    core.registry.models.create("cells", "anew", {})
    assert core.registry.versions.create("cells", Artifact(seed=9).store(core.store), tags={}).version == 3


def test_an_alias_moves_only_from_where_the_caller_believes_it_is(core: RegistryCore) -> None:
    make_versions(core, 2)
    set_alias(core, 1, expected=0)
    for expected in (0, 2):
        with pytest.raises(ConflictError, match="points at version 1"):
            set_alias(core, 2, expected=expected)
    change = set_alias(core, 2, expected=1)
    assert (change.from_version, change.to_version) == (1, 2)
    assert dict(core.registry.models.get("cells").aliases) == {"champion": 2}
    with pytest.raises(ConflictError, match="points at nothing"):
        set_alias(core, 2, expected=1, alias="candidate")


def test_the_history_of_an_alias_only_grows(core: RegistryCore) -> None:
    make_versions(core, 2)
    set_alias(core, 1, expected=0, reason="first")
    set_alias(core, 2, expected=None, alias="candidate")
    set_alias(core, 2, expected=1, reason="better")
    core.registry.aliases.delete("cells", "champion", expected=2, actor="bob", reason="broken")
    history = core.registry.aliases.history("cells", "champion", PageRequest())
    assert [(change.from_version, change.to_version, change.actor, change.reason) for change in history.changes] == [
        (2, 0, "bob", "broken"),
        (1, 2, "ann", "better"),
        (0, 1, "ann", "first"),
    ]
    first = core.registry.aliases.history("cells", "", PageRequest(size=3))
    second = core.registry.aliases.history("cells", "", PageRequest(size=3, token=first.next_page_token))
    assert [change.alias for change in [*first.changes, *second.changes]] == ["champion", "champion", "candidate", "champion"]
    assert not second.next_page_token


def test_an_alias_needs_a_good_name_and_a_version_that_lives(core: RegistryCore) -> None:
    make_versions(core, 1)
    for alias in [*BAD_NAMES, "17"]:
        with pytest.raises(InvalidArgumentError):
            set_alias(core, 1, expected=0, alias=alias)
    for version, error in [(0, InvalidArgumentError), (2, NotFoundError)]:
        with pytest.raises(error):
            set_alias(core, version, expected=0)
    core.registry.versions.delete("cells", 1)
    with pytest.raises(FailedPreconditionError, match="retired"):
        set_alias(core, 1, expected=0)
    with pytest.raises(NotFoundError, match="no alias"):
        core.registry.aliases.delete("cells", "champion", expected=None, actor="", reason="")
    with pytest.raises(NotFoundError, match="dots"):
        core.registry.aliases.history("dots", "", PageRequest())


def fence(token: int) -> common_pb2.Fence:
    return common_pb2.Fence(key="job/1", token=token)


def test_an_experiment_keeps_its_epochs_and_how_it_ended(core: RegistryCore) -> None:
    make_versions(core, 1)
    wanted = pb.Experiment(name="Try one", model="cells", family="puzzle_cells", job_id="1", git_commit="abc")
    wanted.hyperparameters.update({"lr": 0.004, "epochs": 80, "schedule": ["warm", None, True]})
    made = core.registry.experiments.create(wanted)
    epochs = [pb.EpochMetrics(epoch=2, metrics={"loss": math.nan}), pb.EpochMetrics(epoch=1, metrics={"loss": 3.0})]
    core.registry.experiments.log(made.id, epochs)
    core.registry.experiments.log(made.id, [pb.EpochMetrics(epoch=2, metrics={"loss": 1.0, "top1": 0.5})])
    for _ in range(2):
        core.registry.experiments.finish(made.id, pb.EXPERIMENT_STATE_SUCCEEDED, metrics={"top1": 0.99}, version=1)
    kept = core.registry.experiments.get(made.id)
    assert [(epoch.epoch, dict(epoch.metrics)) for epoch in kept.history] == [(1, {"loss": 3.0}), (2, {"loss": 1.0, "top1": 0.5})]
    assert (kept.state, dict(kept.metrics), kept.version, kept.hyperparameters) == (
        pb.EXPERIMENT_STATE_SUCCEEDED,
        {"top1": 0.99},
        1,
        wanted.hyperparameters,
    )
    assert kept.HasField("finish_time")
    page = core.registry.experiments.page(PageRequest(filter='metrics.top1 > 0.9 AND state = SUCCEEDED AND job_id = "1"'))
    assert [(found.id, len(found.history)) for found in page.experiments] == [(made.id, 0)]


def test_an_ended_experiment_stays_as_it_ended(core: RegistryCore) -> None:
    made = core.registry.experiments.create(pb.Experiment())
    core.registry.experiments.finish(made.id, pb.EXPERIMENT_STATE_FAILED, metrics={}, error="\x1b[31mred\x1b[0m nul\0 " + "x" * 5000)
    assert core.registry.experiments.get(made.id).error.startswith("[31mred[0m nul x")
    with pytest.raises(FailedPreconditionError, match="FAILED"):
        core.registry.experiments.finish(made.id, pb.EXPERIMENT_STATE_CANCELLED, metrics={})
    with pytest.raises(FailedPreconditionError, match="has ended"):
        core.registry.experiments.log(made.id, [pb.EpochMetrics(epoch=1)])


def test_a_later_attempt_takes_the_experiment_over_and_the_earlier_one_is_shut_out(core: RegistryCore) -> None:
    first = core.registry.experiments.create(pb.Experiment(name="run"), fence(1))
    core.registry.experiments.log(first.id, [pb.EpochMetrics(epoch=1)], fence(1))
    core.registry.experiments.finish(first.id, pb.EXPERIMENT_STATE_FAILED, metrics={"x": 1.0}, error="lost power", fence=fence(1))
    assert core.registry.experiments.create(pb.Experiment(name="run"), fence(1)).state == pb.EXPERIMENT_STATE_FAILED
    again = core.registry.experiments.create(pb.Experiment(name="run"), fence(2))
    assert (again.id, again.state, again.error, dict(again.metrics)) == (first.id, pb.EXPERIMENT_STATE_RUNNING, "", {})
    for stale in (
        lambda: core.registry.experiments.log(first.id, [pb.EpochMetrics(epoch=2)], fence(1)),
        lambda: core.registry.experiments.create(pb.Experiment(), fence(1)),
        lambda: core.registry.experiments.finish(first.id, pb.EXPERIMENT_STATE_CANCELLED, metrics={}, fence=fence(1)),
    ):
        with pytest.raises(StaleFenceError, match="attempt 2"):
            stale()
    assert [epoch.epoch for epoch in core.registry.experiments.get(first.id).history] == [1]


def test_experiments_refuse_what_they_cannot_keep(core: RegistryCore) -> None:
    made = core.registry.experiments.create(pb.Experiment(model="cells"))
    for call, error in [
        (lambda: core.registry.experiments.create(pb.Experiment(model="../x")), InvalidArgumentError),
        (lambda: core.registry.experiments.create(pb.Experiment(name="x" * 257)), InvalidArgumentError),
        (lambda: core.registry.experiments.create(pb.Experiment(), common_pb2.Fence(key="", token=1)), InvalidArgumentError),
        (lambda: core.registry.experiments.create(pb.Experiment(), common_pb2.Fence(key="k", token=0)), InvalidArgumentError),
        (lambda: core.registry.experiments.log(made.id, []), InvalidArgumentError),
        (lambda: core.registry.experiments.log(made.id, [pb.EpochMetrics(epoch=0)]), InvalidArgumentError),
        (lambda: core.registry.experiments.log("nobody", [pb.EpochMetrics(epoch=1)]), NotFoundError),
        (lambda: core.registry.experiments.finish(made.id, pb.EXPERIMENT_STATE_RUNNING, metrics={}), InvalidArgumentError),
        (lambda: core.registry.experiments.finish(made.id, pb.EXPERIMENT_STATE_FAILED, metrics={"x": math.nan}), InvalidArgumentError),
        (lambda: core.registry.experiments.finish(made.id, pb.EXPERIMENT_STATE_SUCCEEDED, metrics={}, version=3), NotFoundError),
        (lambda: core.registry.experiments.get("nobody"), NotFoundError),
    ]:
        with pytest.raises(error):
            call()
    unkeepable = pb.Experiment()
    unkeepable.model_config.update({"width": math.inf})
    with pytest.raises(InvalidArgumentError, match="model_config"):
        core.registry.experiments.create(unkeepable)
