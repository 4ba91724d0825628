"""From rows to the messages of the contract."""

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from services.inference.queued import tables
from services.inference.queued.specs import inputs_of, selector_of, spec_of
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.api.inference.v1.ptychography_pb2 import SubmitReconstructionRequest
from tessera.times import to_timestamp


def inference_message(row: tables.Inference, position: int = 0) -> pb.Inference:
    """Return a request with its attempts."""
    spec = spec_of(row)
    return pb.Inference(
        id=row.id,
        model=selector_of(spec),
        inputs=inputs_of(spec),
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
        reconstruction=None if isinstance(spec, pb.SubmitInferenceRequest) else _status(row, spec),
    )


def attempt_message(row: tables.Attempt) -> pb.InferenceAttempt:
    """Return an attempt."""
    return pb.InferenceAttempt(
        number=row.number, server=row.server, error=row.error, start_time=to_timestamp(row.start_time), finish_time=_time(row.finish_time)
    )


def _status(row: tables.Inference, spec: SubmitReconstructionRequest) -> pb.ReconstructionStatus:
    """Return how far a reconstruction is, and with which engine."""
    status = json_format.ParseDict(row.reconstruction or {}, pb.ReconstructionStatus())
    if spec.plan.HasField("refine_with"):
        status.refine_with.CopyFrom(spec.plan.refine_with)
    return status


def _time(moment: int | None) -> Timestamp | None:
    return None if moment is None else to_timestamp(moment)
