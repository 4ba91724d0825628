"""Whatever a caller or a worker sends, the trainer answers with what is wrong about it, on SQLite and on PostgreSQL."""

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict

from services.trainer.intake import Intake
from services.trainer.registry import Registry
from services.trainer.tables import Outcome
from services.trainer.validation import check_spec, complete_spec
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.errors import InvalidArgumentError, NotFoundError
from tests.fakes.describe import FAMILY
from tests.fixtures.trainer import TrainerCore

CONTROL = ["nul\0", "bell\a", "escape\x1b[2J"]


def spec(**changes: Any) -> pb.JobSpec:
    good = pb.JobSpec(family="fake", architecture="tiny", model="cells")
    good.hyperparameters.update({"epochs": 3})
    good.inputs.add(name="picture", sha256="a" * 64, size_bytes=5)
    good.MergeFrom(pb.JobSpec(**changes))
    return good


@pytest.mark.parametrize("text", CONTROL)
async def test_no_text_that_a_database_refuses_reaches_it(trainer_core: TrainerCore, text: str) -> None:
    job = trainer_core.submit()
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: trainer_core.jobs.get(text), "id"),
        (lambda: trainer_core.jobs.cancel(text), "id"),
        (lambda: trainer_core.jobs.list(model=text), "model"),
        (lambda: trainer_core.families.announce(text, []), "worker"),
        (lambda: trainer_core.families.announce("w", [pb.Family(name=text)]), "families[0].name"),
        (lambda: trainer_core.attempts.claim(text, "w", 1), "id"),
        (lambda: trainer_core.attempts.claim(job.id, text, 1), "worker"),
        (lambda: trainer_core.attempts.report(text, 1), "id"),
        (lambda: trainer_core.attempts.report(job.id, 1, experiment_id=text), "experiment_id"),
        (lambda: trainer_core.attempts.finish(text, 1, Outcome.SUCCEEDED), "id"),
    ]
    for call, field in calls:
        with pytest.raises(InvalidArgumentError) as caught:
            call()
        assert caught.value.field == field
    intake = Intake(trainer_core.jobs, trainer_core.families, cast(Registry, None))
    with pytest.raises(InvalidArgumentError) as caught:
        await intake.submit(spec(), text)
    assert caught.value.field == "idempotency_key"


@pytest.mark.parametrize("text", CONTROL)
def test_the_reason_of_a_failure_is_kept_without_what_a_database_refuses(trainer_core: TrainerCore, text: str) -> None:
    job = trainer_core.submit()
    trainer_core.attempts.claim(job.id, "w", 1)
    ended = trainer_core.attempts.finish(job.id, 1, Outcome.PERMANENT, error=text + "x" * 10_000)
    assert ended == trainer_core.jobs.get(job.id)
    assert (len(ended.error), ended.error.isprintable()) == (4096, True)


def test_ids_and_names_have_a_longest_and_unknown_ones_are_not_found(trainer_core: TrainerCore) -> None:
    job = trainer_core.submit()
    for call in (lambda: trainer_core.jobs.get("x" * 300), lambda: trainer_core.attempts.claim(job.id, "x" * 300, 1)):
        with pytest.raises(InvalidArgumentError, match="300 characters"):
            call()
    with pytest.raises(NotFoundError):
        trainer_core.jobs.get("")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["hyperparameters", "model_config"])
def test_a_number_that_json_has_not_is_refused(where: str, value: float) -> None:
    bad = spec()
    getattr(bad, where).update({"width": {"nested": [value]}})
    with pytest.raises(InvalidArgumentError, match="spec." + where):
        check_spec(complete_spec(bad), [ParseDict(FAMILY, pb.Family())])


@pytest.mark.parametrize("timeout", [Duration(seconds=10**18), Duration(seconds=-(10**18)), Duration(seconds=5, nanos=-1)])
def test_a_time_that_is_none_is_refused(trainer_core: TrainerCore, timeout: Duration) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_spec(complete_spec(spec(attempt_timeout=timeout)), [ParseDict(FAMILY, pb.Family())])
    assert caught.value.field == "spec.attempt_timeout"
    job = trainer_core.submit()
    trainer_core.attempts.claim(job.id, "w", 1)
    with pytest.raises(InvalidArgumentError) as caught:
        trainer_core.attempts.report(job.id, 1, progress=pb.Progress(eta=timeout))
    assert caught.value.field == "progress.eta"


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "integr"}, "'integr' is not valid"),
        ({"properties": {"lr": {"type": 7}}}, "properties.lr.type"),
        ({"properties": []}, "properties is not valid"),
        ({"properties": {"lr": {"$ref": "#/$defs/missing"}}}, "refers to '#/\\$defs/missing'"),
        ({"$ref": "https://example.org/schema.json"}, "refers to 'https://example.org/schema.json'"),
        ({"allOf": [{"$dynamicRef": "#nothing"}]}, "refers to '#nothing'"),
        ({"$ref": "#"}, "without end"),
        ({"pattern": "("}, "pattern is not valid"),
        ({"minimum": math.nan}, "nan|NaN"),
    ],
)
@pytest.mark.parametrize("where", ["hyperparameters_schema", "architectures.model_config_schema"])
def test_a_schema_that_nothing_can_be_checked_against_is_refused_when_a_worker_announces_it(
    trainer_core: TrainerCore, where: str, schema: dict[str, Any], message: str
) -> None:
    family = pb.Family(name="cells")
    if where == "hyperparameters_schema":
        family.hyperparameters_schema.update(schema)
    else:
        family.architectures.add(name="tiny").model_config_schema.update(schema)
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        trainer_core.families.announce("w", [family])
    assert caught.value.field == f"families[0].{where}"
    assert trainer_core.families.list() == []


def test_a_schema_may_refer_to_itself_as_long_as_the_values_end(trainer_core: TrainerCore) -> None:
    family = ParseDict(FAMILY, pb.Family())
    family.hyperparameters_schema.update(
        {
            "properties": {"tree": {"$ref": "#/$defs/tree"}, "loop": {"$ref": "#/properties/loop"}},
            "additionalProperties": True,
            "required": [],
            "$defs": {"tree": {"additionalProperties": {"$ref": "#/$defs/tree"}, "type": "object"}},
        }
    )
    trainer_core.families.announce("w", [family])
    (known,) = trainer_core.families.list()
    wanted = spec()
    wanted.hyperparameters.update({"tree": {"a": {"b": {}}}})
    check_spec(complete_spec(wanted), [known])
    wanted.hyperparameters.update({"tree": {"a": 1}})
    with pytest.raises(InvalidArgumentError, match=r"spec\.hyperparameters\.tree\.a"):
        check_spec(complete_spec(wanted), [known])
    wanted.hyperparameters.update({"tree": {}, "loop": 1})
    with pytest.raises(InvalidArgumentError, match="without end"):
        check_spec(complete_spec(wanted), [known])
