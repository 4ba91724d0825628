"""Calls about models, aliases and leases."""

# ruff: noqa: N802 (methods are named as in the contract)

import asyncio

from services.registry.calls.base import Calls, Context, fence_of, page_of
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import InvalidArgumentError
from tessera.rpc.auth import Role, current_identity, require
from tessera.times import timedelta_of


class ModelCalls(Calls):
    """See registry.proto for every method."""

    async def CreateModel(self, request: pb.CreateModelRequest, context: Context) -> pb.CreateModelResponse:
        """Register a name."""
        model = await self._change(self._registry.models.create, request.name, request.description, request.tags)
        return pb.CreateModelResponse(model=model)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Answer a model."""
        return pb.GetModelResponse(model=await asyncio.to_thread(self._registry.models.get, request.name))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Answer a page of models."""
        return await asyncio.to_thread(self._registry.models.page, page_of(request))

    async def UpdateModel(self, request: pb.UpdateModelRequest, context: Context) -> pb.UpdateModelResponse:
        """Change description, tags and limits."""
        description = request.description if request.HasField("description") else None
        serving = request.serving if request.HasField("serving") else None
        model = await self._change(
            self._registry.models.update, request.name, description, request.set_tags, request.remove_tags, serving=serving
        )
        return pb.UpdateModelResponse(model=model)

    async def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> pb.DeleteModelResponse:
        """Remove a model."""
        await self._change(self._registry.models.delete, request.name)
        return pb.DeleteModelResponse()

    async def SetAlias(self, request: pb.SetAliasRequest, context: Context) -> pb.SetAliasResponse:
        """Move an alias. Without a fence, which lets a job point at its own version only, this is for operators."""
        if not request.HasField("fence"):
            require(Role.OPERATOR, "SetAlias without the fence of a job")
        change = await self._change(
            self._registry.aliases.set,
            request.model,
            request.alias,
            request.version,
            expected=request.expected_version if request.HasField("expected_version") else None,
            actor=current_identity(),
            reason=request.reason,
            fence=fence_of(request),
        )
        return pb.SetAliasResponse(change=change)

    async def DeleteAlias(self, request: pb.DeleteAliasRequest, context: Context) -> pb.DeleteAliasResponse:
        """Remove an alias."""
        change = await self._change(
            self._registry.aliases.delete,
            request.model,
            request.alias,
            expected=request.expected_version if request.HasField("expected_version") else None,
            actor=current_identity(),
            reason=request.reason,
        )
        return pb.DeleteAliasResponse(change=change)

    async def ListAliasHistory(self, request: pb.ListAliasHistoryRequest, context: Context) -> pb.ListAliasHistoryResponse:
        """Answer a page of an alias's history."""
        return await asyncio.to_thread(self._registry.aliases.history, request.model, request.alias, page_of(request))

    async def AcquireLease(self, request: pb.AcquireLeaseRequest, context: Context) -> pb.AcquireLeaseResponse:
        """Protect a version or a blob."""
        ttl = timedelta_of(request.ttl, "ttl")
        match request.WhichOneof("target"):
            case "version":
                target = request.version
                return await asyncio.to_thread(self._registry.leases.acquire_version, request.holder, ttl, target.model, target.version)
            case "blob_sha256":
                return await asyncio.to_thread(self._registry.leases.acquire_blob, request.holder, ttl, request.blob_sha256)
        raise InvalidArgumentError("target: none given; it takes version or blob_sha256", field="target")

    async def ReleaseLease(self, request: pb.ReleaseLeaseRequest, context: Context) -> pb.ReleaseLeaseResponse:
        """End a lease."""
        await asyncio.to_thread(self._registry.leases.release, request.lease_id)
        return pb.ReleaseLeaseResponse()

    async def ListLeases(self, request: pb.ListLeasesRequest, context: Context) -> pb.ListLeasesResponse:
        """Answer a page of leases."""
        return await asyncio.to_thread(self._registry.leases.page, request.holder_prefix, page_of(request))
