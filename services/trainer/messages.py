"""From rows to the messages of the contract."""

from typing import Any

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from services.trainer import tables
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.times import to_timestamp


def job_message(row: tables.Job) -> pb.Job:
    """Return a job with its attempts; one that is ENDING looks as if it ran, for how it ends is not known."""
    ending = row.state == tables.State.ENDING
    job = pb.Job(
        id=row.id,
        spec=spec_message(row.spec),
        state=pb.JOB_STATE_RUNNING if ending else pb.JobState.ValueType(row.state),
        attempts=[attempt_message(attempt) for attempt in row.attempts],
        error="" if ending else row.error,
        version=row.version,
        experiment_id=row.experiment_id,
        cancel_requested=row.cancel_requested,
        create_time=to_timestamp(row.create_time),
        start_time=_time(row.start_time),
        finish_time=_time(row.finish_time),
    )
    if row.progress is not None:
        json_format.ParseDict(row.progress, job.progress)
    return job


def attempt_message(row: tables.Attempt) -> pb.Attempt:
    """Return an attempt."""
    return pb.Attempt(
        number=row.number,
        worker=row.worker,
        resumed_from_epoch=row.resumed_from_epoch,
        error=row.error,
        start_time=to_timestamp(row.start_time),
        finish_time=_time(row.finish_time),
    )


def spec_message(spec: dict[str, Any]) -> pb.JobSpec:
    """Return a spec as it was kept by `as_json`."""
    return json_format.ParseDict(spec, pb.JobSpec())


def as_json(message: pb.JobSpec | pb.Progress | pb.Family) -> dict[str, Any]:
    """Return a message as it is kept in a row."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def _time(moment: int | None) -> Timestamp | None:
    return None if moment is None else to_timestamp(moment)
