"""From rows to the messages of the contract."""

from typing import Any

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from services.inference.queued import tables
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.times import to_timestamp


def inference_message(row: tables.Inference, position: int = 0) -> pb.Inference:
    """Return a request with its attempts."""
    spec = spec_message(row.spec)
    return pb.Inference(
        id=row.id,
        model=spec.model,
        inputs=spec.blob,
        priority=spec.priority,
        state=pb.InferenceState.ValueType(row.state),
        position=position,
        rows=row.rows,
        rows_done=row.rows_done,
        attempts=[attempt_message(attempt) for attempt in row.attempts],
        error=row.error,
        cancel_requested=row.cancel_requested,
        version=row.version,
        runtime=row.runtime,
        result=pb.TensorsBlob(sha256=row.result_sha256, size_bytes=row.result_size) if row.result_sha256 else None,
        create_time=to_timestamp(row.create_time),
        start_time=_time(row.start_time),
        finish_time=_time(row.finish_time),
        expire_time=to_timestamp(row.expire_time),
        result_expire_time=_time(row.result_expire_time),
    )


def attempt_message(row: tables.Attempt) -> pb.InferenceAttempt:
    """Return an attempt."""
    return pb.InferenceAttempt(
        number=row.number, server=row.server, error=row.error, start_time=to_timestamp(row.start_time), finish_time=_time(row.finish_time)
    )


def spec_message(spec: dict[str, Any]) -> pb.SubmitInferenceRequest:
    """Return a spec as it was kept by `as_json`."""
    return json_format.ParseDict(spec, pb.SubmitInferenceRequest())


def as_json(spec: pb.SubmitInferenceRequest) -> dict[str, Any]:
    """Return a spec as it is kept in a row."""
    return json_format.MessageToDict(spec, preserving_proto_field_name=True)


def _time(moment: int | None) -> Timestamp | None:
    return None if moment is None else to_timestamp(moment)
