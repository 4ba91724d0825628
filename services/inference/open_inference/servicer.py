"""GRPCInferenceService: the methods of the Open Inference Protocol, over the same versions as the typed services."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed_version
from typing import Any
from weakref import WeakKeyDictionary

import grpc

from model_store.manifest import Manifest
from services.inference.open_inference import metadata, repository, statistics
from services.inference.open_inference.codec import Codec
from services.inference.open_inference.wishes import infer_options, selector
from services.inference.pool import Pool
from services.inference.routing import Router
from services.inference.served import ServedModel, ServedTask
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.openinference.v2 import open_inference_pb2 as pb
from tessera.api.openinference.v2.open_inference_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server
from tessera.errors import TesseraError
from tessera.rpc.auth import Role
from tessera.rpc.server import Service
from tessera.tasks import tensors

Call = grpc.aio.ServicerContext[Any, Any]


def _check(manifest: Manifest) -> None:
    """Any tensors are right: the runtime compares them with the graph."""


TASK = ServedTask(tensors.NAME, tensors.REVISION, _check)
"""Of versions that no typed service asks."""
ROLES = {
    **dict.fromkeys(("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer"), Role.READER),
    **dict.fromkeys(("ModelStatistics", "RepositoryIndex"), Role.READER),
    **dict.fromkeys(("RepositoryModelLoad", "RepositoryModelUnload"), Role.OPERATOR),
}
EXTENSIONS = ("model_repository", "statistics", "parameters", "binary_tensor_data")


class OpenInferenceServicer(GRPCInferenceServiceServicer):
    """Answers the protocol.

    Args:
        router: Chooses versions for `ModelInfer`.
        pool: Where versions are.
    """

    def __init__(self, router: Router, pool: Pool) -> None:
        self._router = router
        self._pool = pool
        self._release = installed_version("tessera")
        self._codecs: WeakKeyDictionary[ServedModel, Codec] = WeakKeyDictionary()

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Call) -> pb.ModelInferResponse:  # noqa: N802 - its name in the API
        """Compute one request."""
        options = infer_options(request, context)
        chosen = selector(request.model_name, request.model_version, "model_version")
        try:
            prediction = await self._router.begin(chosen, options)
        except TesseraError as error:
            raise _in_terms_of(error, "model_name", "model_version") from None
        with prediction:
            codec = self._codec(prediction.served)
            wanted = codec.wanted(request)
            inputs = codec.decode(request) if codec.is_quick(request) else await asyncio.to_thread(codec.decode, request)
            outputs = await prediction.compute(inputs)
            return codec.answer(request, prediction, outputs, wanted)

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Call) -> pb.ServerLiveResponse:  # noqa: N802
        """Answer that the process runs."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Call) -> pb.ServerReadyResponse:  # noqa: N802
        """Answer whether the registry was read and the first versions are loaded."""
        try:
            await self._pool.check()
        except TesseraError:
            return pb.ServerReadyResponse(ready=False)
        return pb.ServerReadyResponse(ready=True)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Call) -> pb.ServerMetadataResponse:  # noqa: N802
        """Answer what this server is."""
        return pb.ServerMetadataResponse(name="tessera", version=self._release, extensions=EXTENSIONS)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Call) -> pb.ModelReadyResponse:  # noqa: N802
        """Answer whether a version is loaded; load none."""
        chosen = selector(request.name, request.version, "version")
        return pb.ModelReadyResponse(ready=metadata.is_ready(self._pool, chosen))

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Call) -> pb.ModelMetadataResponse:  # noqa: N802
        """Answer the tensors of a version."""
        with await self._find(selector(request.name, request.version, "version")) as served:
            return metadata.describe(self._pool, served)

    async def ModelStatistics(self, request: pb.ModelStatisticsRequest, context: Call) -> pb.ModelStatisticsResponse:  # noqa: N802
        """Answer what versions have done since they were loaded."""
        chosen = selector(request.name, request.version, "version")
        with _terms("name", "version"):
            return pb.ModelStatisticsResponse(model_stats=statistics.of(self._pool, chosen))

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Call) -> pb.RepositoryIndexResponse:  # noqa: N802
        """Answer what this server holds."""
        repository.check_repository(request.repository_name)
        return pb.RepositoryIndexResponse(models=repository.index(self._pool, only_ready=request.ready))

    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: Call
    ) -> pb.RepositoryModelLoadResponse:
        """Load a version, and keep it if it was named by its number."""
        repository.check_repository(request.repository_name)
        with _terms("model_name", "parameters"):
            await self._pool.load(repository.to_load(request))
        return pb.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: Call
    ) -> pb.RepositoryModelUnloadResponse:
        """Let go of versions that no alias names."""
        repository.check_repository(request.repository_name)
        with _terms("model_name", "parameters.version"):
            self._pool.unload(request.model_name, repository.to_unload(request))
        return pb.RepositoryModelUnloadResponse()

    def _codec(self, served: ServedModel) -> Codec:
        """Return the codec of a version, made for its first request."""
        codec = self._codecs.get(served)
        if codec is None:
            codec = self._codecs[served] = Codec(served.manifest, served.version, served.digest)
        return codec

    async def _find(self, chosen: ModelSelector) -> ServedModel:
        with _terms("name", "version"):
            return await self._pool.find(chosen)


def open_inference_service(router: Router, pool: Pool) -> Service:
    """Return the protocol as a service of a server."""
    descriptor = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    return Service(add_GRPCInferenceServiceServicer_to_server, OpenInferenceServicer(router, pool), descriptor, ROLES)


@contextmanager
def _terms(name: str, version: str) -> Iterator[None]:
    """Let errors about a selector name the fields of the protocol's request."""
    try:
        yield
    except TesseraError as error:
        raise _in_terms_of(error, name, version) from None


def _in_terms_of(error: TesseraError, name: str, version: str) -> TesseraError:
    error.field = {"model": name, "model.model": name, "model.version": version, "model.alias": version}.get(error.field, error.field)
    return error
