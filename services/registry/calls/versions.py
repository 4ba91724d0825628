"""Calls about versions and garbage collection."""

# ruff: noqa: N802 (methods are named as in the contract)

import asyncio
from functools import partial

from services.registry.calls.base import Calls, Context, fence_of, page_of
from services.registry.garbage import DEFAULT_GRACE
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.times import timedelta_of


class VersionCalls(Calls):
    """See registry.proto for every method. What reads whole blobs runs among the transfers."""

    async def CreateVersion(self, request: pb.CreateVersionRequest, context: Context) -> pb.CreateVersionResponse:
        """Make a version."""
        create = partial(
            self._registry.versions.create,
            request.model,
            request.manifest_json,
            tags=request.tags,
            key=request.idempotency_key,
            fence=fence_of(request),
        )
        version = await self._transfers.run(create)
        self._signal.fire()
        return pb.CreateVersionResponse(version=version)

    async def GetVersion(self, request: pb.GetVersionRequest, context: Context) -> pb.GetVersionResponse:
        """Answer a version with its manifest."""
        return pb.GetVersionResponse(version=await asyncio.to_thread(self._registry.versions.get, request.selector))

    async def ListVersions(self, request: pb.ListVersionsRequest, context: Context) -> pb.ListVersionsResponse:
        """Answer a page of versions."""
        return await asyncio.to_thread(self._registry.versions.page, request.model, page_of(request))

    async def UpdateVersion(self, request: pb.UpdateVersionRequest, context: Context) -> pb.UpdateVersionResponse:
        """Change the tags of a version."""
        version = await self._change(self._registry.versions.update, request.model, request.version, request.set_tags, request.remove_tags)
        return pb.UpdateVersionResponse(version=version)

    async def VerifyVersion(self, request: pb.VerifyVersionRequest, context: Context) -> pb.VerifyVersionResponse:
        """Read all of a version again."""
        return await self._transfers.run(partial(self._registry.versions.verify, request.model, request.version))

    async def DeleteVersion(self, request: pb.DeleteVersionRequest, context: Context) -> pb.DeleteVersionResponse:
        """Retire a version."""
        await self._change(self._registry.versions.delete, request.model, request.version)
        return pb.DeleteVersionResponse()

    async def CollectGarbage(self, request: pb.CollectGarbageRequest, context: Context) -> pb.CollectGarbageResponse:
        """Remove blobs that nothing needs."""
        grace = timedelta_of(request.grace, "grace") if request.HasField("grace") else DEFAULT_GRACE
        return await self._transfers.collect(partial(self._registry.garbage.collect, grace, dry_run=request.dry_run))
