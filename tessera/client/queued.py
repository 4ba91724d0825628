"""Queued inference: requests that are computed when there is room, and whose results are kept for a while."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from google.protobuf.duration_pb2 import Duration

from tessera.api.common.v1.common_pb2 import DataType, Tensor
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.api.inference.v1.ptychography_pb2 import ReconstructionPlan, SubmitReconstructionRequest, SubmitReconstructionResponse
from tessera.api.inference.v1.ptychography_pb2_grpc import PtychographyServiceStub
from tessera.api.inference.v1.queued_pb2_grpc import QueuedInferenceServiceStub
from tessera.blob_files import BlobRef
from tessera.client.calls import call, pages, selector
from tessera.client.registry import RegistryClient
from tessera.client.streams import resumed
from tessera.client.wishes import metadata
from tessera.errors import InvalidArgumentError
from tessera.times import to_duration

if TYPE_CHECKING:
    from tessera.api.inference.v1.ptychography_pb2_grpc import PtychographyServiceAsyncStub
    from tessera.api.inference.v1.queued_pb2_grpc import QueuedInferenceServiceAsyncStub
    from tessera.tasks.ptychography.scan import Scan
    from tessera.tensors import Array

PRIORITIES = {"high": pb.INFERENCE_PRIORITY_HIGH, "normal": pb.INFERENCE_PRIORITY_NORMAL, "low": pb.INFERENCE_PRIORITY_LOW}
FINISHED = frozenset({pb.INFERENCE_STATE_SUCCEEDED, pb.INFERENCE_STATE_FAILED, pb.INFERENCE_STATE_CANCELLED, pb.INFERENCE_STATE_EXPIRED})
"""States in which a request stays."""

INLINE_BYTES = 8 << 20
"""Inputs up to this size travel in the message, larger ones through the registry's blob store."""

PATIENCE_S = 60.0
"""A server that restarts is back much earlier."""

WATCH_IDLE_TIMEOUT_S = 600.0
"""A queued request may be silent for long; a broken connection is found by keepalive much earlier than this."""


class QueuedInferenceClient:
    """Typed calls to queued inference.

    Every method raises the `tessera.errors.TesseraError` that matches the status, as `RegistryClient` does; `FailedPreconditionError`
    means that the server has no queue.

    Args:
        channel: To an inference server, from `tessera.rpc.channel.open_channel`; the caller closes it.
        registry: Where large inputs and results are.
        timeout_s: Deadline of one call, retries included.

    Example:
        answer = await queued.submit({"image": images}, "puzzle", idempotency_key="scan-7")
        async for inference in queued.watch(answer.inference.id):
            print(inference.position, inference.rows_done, inference.rows)
        logits = (await queued.result(answer.inference.id))["logits"]
    """

    def __init__(self, channel: grpc.aio.Channel, registry: RegistryClient, timeout_s: float = 10.0) -> None:
        self.stub: QueuedInferenceServiceAsyncStub = QueuedInferenceServiceStub(channel)
        self.ptychography_stub: PtychographyServiceAsyncStub = PtychographyServiceStub(channel)
        self.registry = registry
        self.timeout_s = timeout_s

    async def submit(
        self,
        inputs: "Mapping[str, Array] | BlobRef",
        model: str,
        *,
        version: int | None = None,
        alias: str | None = None,
        priority: str = "low",
        expire_after_s: float | None = None,
        result_ttl_s: float | None = None,
        max_attempts: int = 0,
        idempotency_key: str = "",
        runtime: str = "",
        sticky_key: str = "",
    ) -> pb.SubmitInferenceResponse:
        """Queue a request. The same key again answers the same request, with `created` False.

        Args:
            inputs: Every input of the model, all with the same number of rows (first axis); or a safetensors file that the registry has.
            model: Its name.
            version: An exact version; or
            alias: an alias. The alias `champion` if neither is given.
            priority: `high`, `normal` or `low`.
            expire_after_s: Drop it if it is not computed within this time, 1 s to 7 days; by default 24 h.
            result_ttl_s: How long the result is kept, 1 s to 30 days; by default 24 h.
            max_attempts: Attempts that may fail, 1 to 10; 0 means 3.
            idempotency_key: At most 256 characters.
            runtime: That shall compute it; empty for the one that the version prefers.
            sticky_key: Equal keys are computed by the same version during a rollout.

        Raises:
            InvalidArgumentError: Tensors that the model does not take, or a value out of its range.
            NotFoundError: No such model, version, alias or blob.
            AlreadyExistsError: The key was used for another request.
        """
        request = pb.SubmitInferenceRequest(
            model=selector(model, version, alias),
            priority=_priority(priority),
            expire_after=_duration(expire_after_s),
            result_ttl=_duration(result_ttl_s),
            max_attempts=max_attempts,
            idempotency_key=idempotency_key,
        )
        await self._add_inputs(request, inputs)
        wishes = metadata(runtime=runtime, sticky_key=sticky_key)
        return await call(self.stub.SubmitInference, request, timeout_s=self.timeout_s, repeatable=bool(idempotency_key), metadata=wishes)

    async def submit_reconstruction(
        self,
        scan: "Scan | Path | BlobRef",
        plan: ReconstructionPlan,
        *,
        priority: str = "low",
        expire_after_s: float | None = None,
        result_ttl_s: float | None = None,
        max_attempts: int = 0,
        idempotency_key: str = "",
        runtime: str = "",
        sticky_key: str = "",
    ) -> SubmitReconstructionResponse:
        """Queue the reconstruction of a scan. The same key again answers the same request, with `created` False.

        Args:
            scan: A scan, which is uploaded to the registry without its truth; or its file in our own form, here or in the registry already
                (`tessera.tasks.ptychography.files.write_scan`).
            plan: From `tessera.client.ptychography.reconstruction_plan`, without a probe: that lies beside the scan.
            priority: See `submit`, as for all that follows.
            expire_after_s: See there.
            result_ttl_s: See there.
            max_attempts: See there.
            idempotency_key: See there.
            runtime: That shall compute every model of the plan; empty for the one that each version prefers.
            sticky_key: See there.

        Raises:
            InvalidArgumentError: The file is no scan, or a value is out of its range.
            FailedPreconditionError: A model of the plan is none of ptychography.
            NotFoundError: No such model, version, alias or blob.
            AlreadyExistsError: The key was used for another request.
        """
        request = SubmitReconstructionRequest(
            plan=plan,
            priority=_priority(priority),
            expire_after=_duration(expire_after_s),
            result_ttl=_duration(result_ttl_s),
            max_attempts=max_attempts,
            idempotency_key=idempotency_key,
        )
        blob = scan if isinstance(scan, BlobRef) else await self._upload_scan(scan)
        request.scan.sha256, request.scan.size_bytes = blob.sha256, blob.size_bytes
        return await call(
            self.ptychography_stub.SubmitReconstruction,
            request,
            timeout_s=self.timeout_s,
            repeatable=bool(idempotency_key),
            metadata=metadata(runtime=runtime, sticky_key=sticky_key),
        )

    async def get(self, inference_id: str) -> pb.Inference:
        """Return a request with its attempts. Raises NotFoundError."""
        return (await call(self.stub.GetInference, pb.GetInferenceRequest(id=inference_id), timeout_s=self.timeout_s)).inference

    async def list(
        self, *, state: "pb.InferenceState.ValueType" = pb.INFERENCE_STATE_UNSPECIFIED, model: str = ""
    ) -> AsyncIterator[pb.Inference]:
        """Yield the requests, newest first; all, or those in one state or of one model."""

        async def fetch(token: str) -> pb.ListInferencesResponse:
            request = pb.ListInferencesRequest(state=state, model=model, page_token=token)
            return await call(self.stub.ListInferences, request, timeout_s=self.timeout_s)

        async for page in pages(fetch):
            for inference in page.inferences:
                yield inference

    async def watch(self, inference_id: str) -> AsyncGenerator[pb.Inference, None]:
        """Yield the request as it stands, then again after every change, until it has ended.

        The stream is opened again whenever the server goes away.

        Raises:
            NotFoundError: No such request.
            UnavailableError: The server has been away for a minute.
        """

        def open_stream() -> grpc.aio.UnaryStreamCall[pb.WatchInferenceRequest, pb.WatchInferenceResponse]:
            return self.stub.WatchInference(pb.WatchInferenceRequest(id=inference_id))

        stream = resumed(open_stream, idle_timeout_s=WATCH_IDLE_TIMEOUT_S, what="inference watch", patience_s=PATIENCE_S)
        async with aclosing(stream) as messages:
            async for message in messages:
                yield message.inference
                if message.inference.state in FINISHED:
                    return

    async def result(self, inference_id: str) -> "dict[str, Array]":
        """Return the outputs by name, those of a reconstruction as `ReconstructionPart` in the API describes them and its `corner`, float64
        (x, y); they must fit into memory.

        Raises:
            FailedPreconditionError: The request has not SUCCEEDED; the message says how it stands.
            NotFoundError: No such request, or its result has expired.
        """
        import tempfile

        from tessera.tensor_files import load_tensors

        response = await self._get_result(inference_id, blob_only=False)
        if response.HasField("tensors"):
            return {name: _array(tensor) for name, tensor in response.tensors.tensors.items()}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "result.safetensors"
            await self.registry.download_file(_ref(response.inference.result), file)
            return await asyncio.to_thread(load_tensors, file)

    async def download_result(self, inference_id: str, destination: Path) -> pb.Inference:
        """Write the outputs to a safetensors file, however large, and return the request. Raises as `result` does."""
        response = await self._get_result(inference_id, blob_only=True)
        await self.registry.download_file(_ref(response.inference.result), destination)
        return response.inference

    async def cancel(self, inference_id: str) -> pb.Inference:
        """Ask a request to stop and return it as it stands. One that has ended stays as it is. Raises NotFoundError."""
        request = pb.CancelInferenceRequest(id=inference_id)
        return (await call(self.stub.CancelInference, request, timeout_s=self.timeout_s, repeatable=True)).inference

    async def _get_result(self, inference_id: str, *, blob_only: bool) -> pb.GetResultResponse:
        return await call(self.stub.GetResult, pb.GetResultRequest(id=inference_id, blob_only=blob_only), timeout_s=self.timeout_s)

    async def _upload_scan(self, scan: "Scan | Path") -> BlobRef:
        import dataclasses
        import tempfile

        from tessera.tasks.ptychography.files import write_scan

        if isinstance(scan, Path):
            return await self.registry.upload_file(scan)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "scan.safetensors"
            await asyncio.to_thread(write_scan, file, dataclasses.replace(scan, truth=None))
            return await self.registry.upload_file(file)

    async def _add_inputs(self, request: pb.SubmitInferenceRequest, inputs: "Mapping[str, Array] | BlobRef") -> None:
        from tessera.tensor_files import dump_tensors
        from tessera.tensors import to_proto

        if not isinstance(inputs, BlobRef) and sum(array.nbytes for array in inputs.values()) > INLINE_BYTES:
            inputs = await self.registry.upload_bytes(await asyncio.to_thread(dump_tensors, inputs))
        if isinstance(inputs, BlobRef):
            request.blob.sha256, request.blob.size_bytes = inputs.sha256, inputs.size_bytes
        else:
            request.tensors.CopyFrom(pb.NamedTensors(tensors={name: to_proto(array) for name, array in inputs.items()}))


def _priority(name: str) -> "pb.InferencePriority.ValueType":
    if name not in PRIORITIES:
        raise InvalidArgumentError.unknown("priority", name, PRIORITIES, field="priority")
    return PRIORITIES[name]


def _duration(seconds: float | None) -> Duration | None:
    return None if seconds is None else to_duration(seconds)


def _array(tensor: Tensor) -> "Array":
    """Return an output as it was computed: unlike an input it may hold NaN."""
    import numpy as np

    from tessera.tensors import DTYPES

    dtype = DTYPES[DataType.Name(tensor.data_type).removeprefix("DATA_TYPE_")]
    return np.frombuffer(tensor.data, dtype.newbyteorder("<")).astype(dtype).reshape(tensor.shape)


def _ref(blob: pb.TensorsBlob) -> BlobRef:
    return BlobRef(blob.sha256, blob.size_bytes)
