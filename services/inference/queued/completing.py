"""Requests as they are kept: every field within its range, with its default where it was not set."""

from datetime import timedelta
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration

from services.inference.ptychography.plan import parse_plan
from services.inference.queued.store import LONGEST_WAIT
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.api.inference.v1.ptychography_pb2 import SubmitReconstructionRequest
from tessera.blob_files import BlobRef
from tessera.errors import InvalidArgumentError
from tessera.texts import check_text
from tessera.times import timedelta_of

LONGEST_KEY = 256
SHORTEST = timedelta(seconds=1)
LONGEST_TTL = timedelta(days=30)
DEFAULT_SPAN = timedelta(hours=24)
MOST_ATTEMPTS = 10
DEFAULT_ATTEMPTS = 3

S = TypeVar("S", pb.SubmitInferenceRequest, SubmitReconstructionRequest)


def complete(request: pb.SubmitInferenceRequest, inputs: BlobRef) -> pb.SubmitInferenceRequest:
    """Return a request for a model with its inputs as a blob.

    Raises:
        InvalidArgumentError: A field is out of its range.
    """
    blob = pb.TensorsBlob(sha256=inputs.sha256, size_bytes=inputs.size_bytes)
    return _complete(request, pb.SubmitInferenceRequest(model=request.model, blob=blob))


def complete_reconstruction(request: SubmitReconstructionRequest) -> SubmitReconstructionRequest:
    """Return a request for a reconstruction.

    Raises:
        InvalidArgumentError: A field is out of its range, no scan is named, or the plan has a probe: a row of the queue is no place for it.
    """
    parse_plan(request.plan)
    if request.plan.HasField("probe"):
        raise InvalidArgumentError("a queued reconstruction takes its probe from the file of the scan: put it there", field="plan.probe")
    if not request.HasField("scan"):
        raise InvalidArgumentError("no scan: upload it to the registry, and name it here", field="scan")
    check_blob(request.scan, "scan")
    return _complete(request, SubmitReconstructionRequest(plan=request.plan, scan=request.scan))


def check_blob(blob: pb.TensorsBlob, field: str) -> BlobRef:
    """Return the name of a blob. Raises InvalidArgumentError, with the field, if it is none."""
    try:
        return BlobRef(blob.sha256, blob.size_bytes)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(error.message, field=f"{field}.{error.field}") from error


def _complete(request: S, spec: S) -> S:
    """Fill in what all requests have: who is first, and how long and how often it is tried."""
    if request.priority not in pb.InferencePriority.values():
        known = (name.removeprefix("INFERENCE_PRIORITY_") for name in pb.InferencePriority.keys()[1:])
        raise InvalidArgumentError.unknown("priority", str(request.priority), known, field="priority")
    spec.priority = request.priority or pb.INFERENCE_PRIORITY_LOW
    spec.expire_after.FromTimedelta(_span(request.expire_after if request.HasField("expire_after") else None, LONGEST_WAIT, "expire_after"))
    spec.result_ttl.FromTimedelta(_span(request.result_ttl if request.HasField("result_ttl") else None, LONGEST_TTL, "result_ttl"))
    if not 0 <= request.max_attempts <= MOST_ATTEMPTS:
        message = f"max_attempts is {request.max_attempts}; it takes 1 to {MOST_ATTEMPTS}, or 0 for {DEFAULT_ATTEMPTS}"
        raise InvalidArgumentError(message, field="max_attempts")
    spec.max_attempts = request.max_attempts or DEFAULT_ATTEMPTS
    spec.idempotency_key = check_text(request.idempotency_key, "idempotency_key", LONGEST_KEY)
    return spec


def _span(duration: Duration | None, longest: timedelta, field: str) -> timedelta:
    """Return a span of time that was asked for, or the default; InvalidArgumentError if it is out of range."""
    span = DEFAULT_SPAN if duration is None else timedelta_of(duration, field)
    if not SHORTEST <= span <= longest:
        raise InvalidArgumentError(f"{field}: {span.total_seconds():g} s is outside 1 s to {longest.days} days", field=field)
    return span
