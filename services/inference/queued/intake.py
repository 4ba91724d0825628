"""How a request comes in: completed, known already or checked, its inputs stored and held, queued."""

import asyncio
import uuid
from collections.abc import Mapping
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from model_store.manifest import Manifest
from services.inference.queued.computing import InlineTensors, check_inputs
from services.inference.queued.inferences import Inferences, Wishes
from services.inference.queued.store import LONGEST_WAIT, Store
from tessera import telemetry
from tessera.api.common.v1.common_pb2 import ModelSelector, Tensor
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.blob_files import BlobRef
from tessera.client.registry import RegistryClient
from tessera.errors import InvalidArgumentError
from tessera.names import check_name
from tessera.tensor_files import common_rows, dump_tensors
from tessera.tensors import Array, from_proto
from tessera.texts import check_text
from tessera.times import timedelta_of

LONGEST_KEY = 256
SHORTEST = timedelta(seconds=1)
LONGEST_TTL = timedelta(days=30)
DEFAULT_SPAN = timedelta(hours=24)
MOST_ATTEMPTS = 10
DEFAULT_ATTEMPTS = 3


class Intake:
    """Takes requests in.

    Args:
        inferences: Where they are kept.
        store: Where their inputs are.
        registry: Knows the models.
    """

    def __init__(self, inferences: Inferences, store: Store, registry: RegistryClient) -> None:
        self._inferences = inferences
        self._store = store
        self._registry = registry

    async def submit(self, request: pb.SubmitInferenceRequest, wishes: Wishes) -> tuple[pb.Inference, bool]:
        """Queue a request, or find the one that the key stands for.

        Returns:
            The request, and whether it was made now.

        Raises:
            InvalidArgumentError: A field is out of its range, or tensors in the message are not the inputs of the model.
            AlreadyExistsError: The key was used for another request.
            NotFoundError: No such model, version or alias, or the inputs are not stored in the registry.
            UnavailableError: The registry, which keeps the inputs, cannot be reached.
        """
        tensors = _inline(request.tensors.tensors) if request.WhichOneof("inputs") == "tensors" else None
        data = await asyncio.to_thread(dump_tensors, tensors) if tensors is not None else b""
        spec = complete(request, BlobRef.of_bytes(data) if tensors is not None else _blob(request))
        if (known := await asyncio.to_thread(self._inferences.find_submitted, spec)) is not None:
            return known, False
        manifest = await self._manifest(spec.model)
        if tensors is not None:
            check_inputs(manifest, InlineTensors({n: a.shape for n, a in tensors.items()}, {n: a.dtype for n, a in tensors.items()}))
            await self._store.upload_bytes(data)
        inference_id = uuid.uuid4().hex
        await self._store.hold_inputs(inference_id, spec.blob.sha256)
        return await asyncio.to_thread(self._inferences.submit, inference_id, spec, wishes, trace=telemetry.inject())

    async def _manifest(self, selector: ModelSelector) -> Manifest:
        """Return the manifest of the version that a request would be computed by now."""
        check_name(selector.model, "model.model")
        by_number = selector.WhichOneof("selector") == "version"
        if by_number and selector.version < 1:
            raise InvalidArgumentError(f"version {selector.version}; versions are numbered from 1", field="model.version")
        version = selector.version if by_number else None
        alias = selector.alias if selector.WhichOneof("selector") == "alias" else None
        return Manifest.parse((await self._registry.get_version(selector.model, version=version, alias=alias)).manifest_json)


def complete(request: pb.SubmitInferenceRequest, inputs: BlobRef) -> pb.SubmitInferenceRequest:
    """Return a request with its defaults filled in and its inputs as a blob.

    Raises:
        InvalidArgumentError: A field is out of its range.
    """
    spec = pb.SubmitInferenceRequest()
    spec.model.CopyFrom(request.model)
    spec.blob.sha256, spec.blob.size_bytes = inputs.sha256, inputs.size_bytes
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


def _inline(messages: Mapping[str, Tensor]) -> dict[str, Array]:
    """Return the tensors of a message, sorted by name: equal tensors make equal files."""
    tensors = {name: from_proto(messages[name], f"tensors.{name}") for name in sorted(messages)}
    common_rows({name: array.shape for name, array in tensors.items()}, "tensors")
    return tensors


def _blob(request: pb.SubmitInferenceRequest) -> BlobRef:
    if request.WhichOneof("inputs") != "blob":
        raise InvalidArgumentError("no inputs: set tensors or blob", field="inputs")
    try:
        return BlobRef(request.blob.sha256, request.blob.size_bytes)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(error.message, field=f"blob.{error.field}") from error
