"""Whether a job can be trained: its spec against what the workers have announced."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.struct_pb2 import Struct

from services.trainer.schemas import find_mistake, values_of
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.errors import InvalidArgumentError
from tessera.names import check_alias, check_name, check_sha256, shown
from tessera.texts import check_text
from tessera.times import timedelta_of

MAX_ATTEMPTS = 3
MOST_ATTEMPTS = 10
ATTEMPT_TIMEOUT_S = 24 * 3600
LONGEST_ATTEMPT_S = 30 * 24 * 3600
LONGEST_NAME = 256
LARGEST_INPUT = 2 * 1024**3


def complete_spec(spec: pb.JobSpec) -> pb.JobSpec:
    """Return a copy in which everything that was left out has its default, so that equal wishes are equal specs."""
    complete = pb.JobSpec()
    complete.CopyFrom(spec)
    complete.max_attempts = spec.max_attempts or MAX_ATTEMPTS
    if not spec.HasField("attempt_timeout"):
        complete.attempt_timeout.FromSeconds(ATTEMPT_TIMEOUT_S)
    complete.model_config.MergeFrom(Struct())  # set, if empty: what comes back from the database is compared with this
    complete.hyperparameters.MergeFrom(Struct())
    return complete


def check_spec(spec: pb.JobSpec, families: Iterable[pb.Family]) -> None:
    """Make sure that a complete spec can be trained by one of the families.

    Raises:
        InvalidArgumentError: It cannot; the message names the field, and what is known instead of an unknown name.
    """
    check_name(spec.model, "spec.model")
    if spec.alias:
        check_alias(spec.alias, "spec.alias")
    check_text(spec.name, "spec.name", LONGEST_NAME)
    if not 1 <= spec.max_attempts <= MOST_ATTEMPTS:
        raise InvalidArgumentError(f"spec.max_attempts takes 1 to {MOST_ATTEMPTS}, not {spec.max_attempts}", field="spec.max_attempts")
    if not 0 < timedelta_of(spec.attempt_timeout, "spec.attempt_timeout").total_seconds() <= LONGEST_ATTEMPT_S:
        raise InvalidArgumentError("spec.attempt_timeout takes more than 0 s and at most 30 days", field="spec.attempt_timeout")
    family = _pick("family", spec.family, families, field="spec.family")
    architecture = _pick("architecture", spec.architecture, family.architectures, field="spec.architecture")
    _check_settings("model_config value", spec.model_config, architecture.model_config_schema, field="spec.model_config")
    _check_settings("hyperparameter", spec.hyperparameters, family.hyperparameters_schema, field="spec.hyperparameters")
    _check_inputs(spec.inputs, family.inputs)


def _pick(what: str, name: str, candidates: Iterable[Any], *, field: str) -> Any:
    by_name = {candidate.name: candidate for candidate in candidates}
    if name not in by_name:
        raise InvalidArgumentError.unknown(what, name, by_name, field=field)
    return by_name[name]


def _check_settings(what: str, settings: Struct, schema: Struct, *, field: str) -> None:
    """Check one group of settings against its JSON schema."""
    values, rules = values_of(settings, field), values_of(schema, field)
    known = rules.get("properties", {})
    if rules.get("additionalProperties") is False:
        for name in values:
            if name not in known:
                raise InvalidArgumentError.unknown(what, name, known, field=f"{field}.{name}")
    if (error := find_mistake(values, rules, field)) is not None:
        path = ".".join([field, *map(str, error.absolute_path)])
        raise InvalidArgumentError(f"{path}: {error.message}", field=path)


def _check_inputs(inputs: Iterable[pb.InputFile], requirements: Iterable[pb.InputRequirement]) -> None:
    known = {requirement.name: requirement for requirement in requirements}
    given: set[str] = set()
    for index, file in enumerate(inputs):
        field = f"spec.inputs[{index}]"
        if file.name not in known:
            raise InvalidArgumentError.unknown("input", file.name, known, field=f"{field}.name")
        if file.name in given:
            raise InvalidArgumentError(f"{field}.name: the input {shown(file.name)} is given twice", field=f"{field}.name")
        given.add(file.name)
        check_sha256(file.sha256, f"{field}.sha256")
        if not 0 <= file.size_bytes <= LARGEST_INPUT:
            raise InvalidArgumentError(f"{field}.size_bytes is {file.size_bytes}; it takes 0 to 2 GiB", field=f"{field}.size_bytes")
    for name, requirement in known.items():
        if requirement.required and name not in given:
            raise InvalidArgumentError(f"spec.inputs: the input {name!r} is missing ({requirement.description})", field="spec.inputs")
