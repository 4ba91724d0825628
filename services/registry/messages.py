"""From rows to the messages of the contract."""

from collections.abc import Iterable, Mapping

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from services.registry import tables
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.times import to_timestamp


def model_message(row: tables.Model) -> pb.Model:
    """Return a model with its aliases."""
    return pb.Model(
        name=row.name,
        description=row.description,
        tags={key: tag.value for key, tag in row.tags.items()},
        aliases={name: alias.number for name, alias in row.aliases.items()},
        latest_version=row.latest_version,
        create_time=to_timestamp(row.create_time),
        revision=row.revision,
        serving=pb.ServingLimits.FromString(row.serving) if row.serving else None,
        rollouts=[rollout_message(rollout) for rollout in row.rollouts],
    )


def version_message(row: tables.Version, *, manifest: bytes = b"") -> pb.Version:
    """Return a version, without its manifest unless it is given."""
    metrics = {key: metric.value for key, metric in row.metrics.items()}
    tags = {key: tag.value for key, tag in row.tags.items()}
    return listed_version_message(row, metrics=metrics, tags=tags, aliases=[alias.name for alias in row.aliases], manifest=manifest)


def listed_version_message(
    row: tables.Version, *, metrics: Mapping[str, float], tags: Mapping[str, str], aliases: Iterable[str], manifest: bytes = b""
) -> pb.Version:
    """Return a version whose labels and aliases were read for the whole page."""
    return pb.Version(
        model=row.model,
        version=row.number,
        state=pb.VersionState.ValueType(row.state),
        digest=row.digest,
        manifest_json=manifest,
        family=row.family,
        architecture=row.architecture,
        metrics=metrics,
        tags=tags,
        aliases=aliases,
        size_bytes=row.size_bytes,
        experiment_id=row.experiment_id,
        create_time=to_timestamp(row.create_time),
        revision=row.revision,
    )


def alias_message(row: tables.AliasChange) -> pb.AliasChange:
    """Return an entry of an alias's history."""
    return pb.AliasChange(
        model=row.model,
        alias=row.alias,
        from_version=row.from_version,
        to_version=row.to_version,
        actor=row.actor,
        reason=row.reason,
        time=to_timestamp(row.time),
        revision=row.revision,
    )


def rollout_message(row: tables.Rollout) -> pb.Rollout:
    """Return a rollout."""
    return pb.Rollout(
        id=row.id,
        model=row.model,
        alias=row.alias,
        stable_version=row.stable_version,
        candidate_version=row.candidate_version,
        weight_percent=row.weight_percent,
        shadow_percent=row.shadow_percent,
        guard=pb.RolloutGuard.FromString(row.guard),
        state=pb.RolloutState.ValueType(row.state),
        actor=row.actor,
        reason=row.reason,
        create_time=to_timestamp(row.create_time),
        change_time=to_timestamp(row.change_time),
        revision=row.revision,
    )


def experiment_message(row: tables.Experiment) -> pb.Experiment:
    """Return an experiment without its history."""
    return pb.Experiment(
        id=row.public_id,
        name=row.name,
        model=row.model,
        family=row.family,
        architecture=row.architecture,
        model_config=json_format.Parse(row.model_config, Struct()),
        hyperparameters=json_format.Parse(row.hyperparameters, Struct()),
        git_commit=row.git_commit,
        state=pb.ExperimentState.ValueType(row.state),
        error=row.error,
        metrics={key: metric.value for key, metric in row.metrics.items()},
        job_id=row.job_id,
        version=row.version,
        create_time=to_timestamp(row.create_time),
        finish_time=to_timestamp(row.finish_time) if row.finish_time is not None else None,
    )
