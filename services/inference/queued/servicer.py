"""QueuedInferenceService over gRPC: a thin adapter that reads requests and writes answers."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc

from services.inference.options import call_options
from services.inference.queued.dispatcher import Dispatcher
from services.inference.queued.inferences import Inferences, Wishes
from services.inference.queued.intake import Intake
from services.inference.queued.store import Store
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.api.inference.v1.ptychography_pb2 import SubmitReconstructionRequest, SubmitReconstructionResponse
from tessera.api.inference.v1.queued_pb2_grpc import QueuedInferenceServiceServicer
from tessera.blob_files import BlobRef
from tessera.changes import Changes
from tessera.client.wishes import RUNTIME_KEY
from tessera.errors import FailedPreconditionError, NotFoundError
from tessera.names import check_name
from tessera.rpc.auth import Role
from tessera.tensor_files import load_tensors
from tessera.tensors import to_proto

ROLES = {
    "SubmitInference": Role.READER,
    "GetInference": Role.READER,
    "ListInferences": Role.READER,
    "WatchInference": Role.READER,
    "GetResult": Role.READER,
    "CancelInference": Role.READER,
}

MESSAGE_OVERHEAD = 64 << 10
"""Bytes of a message that are not tensors, at the most."""

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True)
class Desk:
    """What the servicer stands before.

    Args:
        intake: Takes requests in.
        inferences: The requests.
        changes: Requests as streams.
        dispatcher: To be woken.
        store: Where results are.
        message_bytes: Largest message that is sent.
    """

    intake: Intake
    inferences: Inferences
    changes: Changes[pb.Inference]
    dispatcher: Dispatcher
    store: Store
    message_bytes: int


def require(desk: Desk | None) -> Desk:
    """Return the desk of a server that has one; FailedPreconditionError says what to set on one that has not."""
    if desk is None:
        raise FailedPreconditionError(
            "this server does not queue inference: set TESSERA_INFERENCE_DATABASE_URL and TESSERA_INFERENCE_REDIS_URL"
        )
    return desk


def wishes_of(context: Context) -> Wishes:
    """Return what a caller asked for beside the message. Raises InvalidArgumentError if it is malformed."""
    options = call_options(context)
    if options.runtime:
        check_name(options.runtime, RUNTIME_KEY)
    return Wishes(options.sticky_key, options.runtime)


async def submit_reconstruction(desk: Desk | None, request: SubmitReconstructionRequest, context: Context) -> SubmitReconstructionResponse:
    """Answer PtychographyService.SubmitReconstruction: queue the reconstruction of a scan.

    Raises:
        FailedPreconditionError: This server has no queue.
        TesseraError: See `Intake.submit_reconstruction`.
    """
    desk = require(desk)
    inference, created = await desk.intake.submit_reconstruction(request, wishes_of(context))
    desk.dispatcher.wake()
    return SubmitReconstructionResponse(inference=inference, created=created)


class QueuedInferenceServicer(QueuedInferenceServiceServicer):
    """Queued inference.

    Args:
        desk: What is behind it; None on a server without a database and a Redis for it.
    """

    def __init__(self, desk: Desk | None) -> None:
        self._configured = desk

    @property
    def _desk(self) -> Desk:
        return require(self._configured)

    async def SubmitInference(self, request: pb.SubmitInferenceRequest, context: Context) -> pb.SubmitInferenceResponse:  # noqa: N802
        """Queue a request."""
        desk = self._desk
        inference, created = await desk.intake.submit(request, wishes_of(context))
        desk.dispatcher.wake()
        return pb.SubmitInferenceResponse(inference=inference, created=created)

    async def GetInference(self, request: pb.GetInferenceRequest, context: Context) -> pb.GetInferenceResponse:  # noqa: N802
        """Answer one request."""
        return pb.GetInferenceResponse(inference=await asyncio.to_thread(self._desk.inferences.get, request.id))

    async def ListInferences(self, request: pb.ListInferencesRequest, context: Context) -> pb.ListInferencesResponse:  # noqa: N802
        """Answer a page of requests."""
        inferences, token = await asyncio.to_thread(
            self._desk.inferences.list,
            page_size=request.page_size,
            page_token=request.page_token,
            state=request.state,
            model=request.model,
        )
        return pb.ListInferencesResponse(inferences=inferences, next_page_token=token)

    async def WatchInference(  # noqa: N802
        self, request: pb.WatchInferenceRequest, context: Context
    ) -> AsyncIterator[pb.WatchInferenceResponse]:
        """Stream a request until it has ended."""
        async for inference in self._desk.changes.watch(request.id):
            yield pb.WatchInferenceResponse(inference=inference)

    async def GetResult(self, request: pb.GetResultRequest, context: Context) -> pb.GetResultResponse:  # noqa: N802
        """Answer the outputs of a request."""
        desk = self._desk
        inference = await asyncio.to_thread(desk.inferences.get_succeeded, request.id)
        response = pb.GetResultResponse(inference=inference)
        if not request.blob_only and inference.result.size_bytes <= desk.message_bytes - MESSAGE_OVERHEAD:
            response.tensors.CopyFrom(await _read_result(desk.store, inference))
        return response

    async def CancelInference(self, request: pb.CancelInferenceRequest, context: Context) -> pb.CancelInferenceResponse:  # noqa: N802
        """Ask a request to stop."""
        inference = await asyncio.to_thread(self._desk.inferences.cancel, request.id)
        self._desk.changes.tell(inference.id)
        self._desk.dispatcher.wake()
        return pb.CancelInferenceResponse(inference=inference)


async def _read_result(store: Store, inference: pb.Inference) -> pb.NamedTensors:
    """Return the outputs of a request, which are small. Raises NotFoundError if the registry has them no longer."""
    with store.folder() as folder:
        file = folder / "result.safetensors"
        try:
            await store.download(BlobRef(inference.result.sha256, inference.result.size_bytes), file)
        except NotFoundError as error:
            raise NotFoundError(f"the result of request {inference.id} is gone: {error.message}", field="id") from error
        arrays = await asyncio.to_thread(load_tensors, file)
    return pb.NamedTensors(tensors={name: to_proto(array) for name, array in arrays.items()})
