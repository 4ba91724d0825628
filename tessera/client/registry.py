"""The registry: models, versions and aliases; with blobs, experiments, rollouts and the event stream from the modules beside this one."""

from collections.abc import AsyncIterator, Mapping, Sequence

from tessera.api.common.v1.common_pb2 import Fence
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.client.calls import call, pages, selector
from tessera.client.registry_blobs import BlobCalls
from tessera.client.registry_experiments import ExperimentCalls
from tessera.client.registry_rollouts import RolloutCalls
from tessera.client.registry_watch import WatchCalls
from tessera.errors import AlreadyExistsError, NotFoundError
from tessera.times import to_duration

LONG_TIMEOUT_S = 900.0
"""For calls that read every byte of a version (2 GiB) or of the store."""


class RegistryClient(BlobCalls, ExperimentCalls, RolloutCalls, WatchCalls):
    """Typed calls to the registry.

    Every method raises the `tessera.errors.TesseraError` that matches the status: `UnavailableError` if the registry cannot be reached,
    `DeadlineExceededError` after `timeout_s`, `InvalidArgumentError` naming the field, and what its own docstring adds. Reads, and writes
    that may safely happen twice, are tried again while the registry is unavailable.

    Example:
        async with open_channel("127.0.0.1:8010") as channel:
            registry = RegistryClient(channel)
            version = await registry.get_version("puzzle", alias="champion")
    """

    async def create_model(self, name: str, description: str = "", tags: Mapping[str, str] | None = None) -> pb.Model:
        """Register a model. Raises AlreadyExistsError if the name is taken."""
        request = pb.CreateModelRequest(name=name, description=description, tags=tags)
        return (await call(self.stub.CreateModel, request, timeout_s=self.timeout_s)).model

    async def ensure_model(self, name: str, description: str = "") -> pb.Model:
        """Return the model and register it first if it is not there."""
        try:
            return await self.get_model(name)
        except NotFoundError:
            pass
        try:
            return await self.create_model(name, description)
        except AlreadyExistsError:  # somebody else registered it in between
            return await self.get_model(name)

    async def get_model(self, name: str) -> pb.Model:
        """Return a model with its aliases. Raises NotFoundError."""
        return (await call(self.stub.GetModel, pb.GetModelRequest(name=name), timeout_s=self.timeout_s)).model

    async def list_models(self, filter: str = "", order_by: str = "") -> AsyncIterator[pb.Model]:  # noqa: A002 - its name in the API
        """Yield the models; filter and order as described at `ListModelsRequest`."""

        async def fetch(token: str) -> pb.ListModelsResponse:
            request = pb.ListModelsRequest(filter=filter, order_by=order_by, page_token=token)
            return await call(self.stub.ListModels, request, timeout_s=self.timeout_s)

        async for page in pages(fetch):
            for model in page.models:
                yield model

    async def update_model(
        self,
        name: str,
        *,
        description: str | None = None,
        set_tags: Mapping[str, str] | None = None,
        remove_tags: Sequence[str] = (),
        serving: pb.ServingLimits | None = None,
    ) -> pb.Model:
        """Change description and tags, and replace the limits that hold on every server. Raises NotFoundError."""
        request = pb.UpdateModelRequest(name=name, description=description, set_tags=set_tags, remove_tags=remove_tags, serving=serving)
        return (await call(self.stub.UpdateModel, request, timeout_s=self.timeout_s, repeatable=True)).model

    async def delete_model(self, name: str) -> None:
        """Remove a model. Raises FailedPreconditionError while it has a live version, NotFoundError."""
        await call(self.stub.DeleteModel, pb.DeleteModelRequest(name=name), timeout_s=self.timeout_s)

    async def create_version(
        self,
        model: str,
        manifest_json: bytes,
        *,
        idempotency_key: str = "",
        fence: Fence | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> pb.Version:
        """Register the next version of a model; the blobs of its manifest must be stored.

        With an idempotency key the call may be repeated and answers the version that the first one made.

        Raises:
            FailedPreconditionError: A blob is missing.
            StaleFenceError: A later attempt has written under the fence's key.
            NotFoundError: No such model.
        """
        request = pb.CreateVersionRequest(model=model, manifest_json=manifest_json, idempotency_key=idempotency_key, fence=fence, tags=tags)
        return (await call(self.stub.CreateVersion, request, timeout_s=LONG_TIMEOUT_S, repeatable=bool(idempotency_key))).version

    async def get_version(self, model: str, *, version: int | None = None, alias: str | None = None) -> pb.Version:
        """Return a version with its manifest, by number or by alias; by the alias `champion` if neither is given. Raises NotFoundError."""
        request = pb.GetVersionRequest(selector=selector(model, version, alias))
        return (await call(self.stub.GetVersion, request, timeout_s=self.timeout_s)).version

    async def list_versions(self, model: str = "", filter: str = "", order_by: str = "") -> AsyncIterator[pb.Version]:  # noqa: A002
        """Yield versions without manifests, of one model or of all; filter and order as described at `ListVersionsRequest`."""

        async def fetch(token: str) -> pb.ListVersionsResponse:
            request = pb.ListVersionsRequest(model=model, filter=filter, order_by=order_by, page_token=token)
            return await call(self.stub.ListVersions, request, timeout_s=self.timeout_s)

        async for page in pages(fetch):
            for version in page.versions:
                yield version

    async def update_version(
        self, model: str, version: int, *, set_tags: Mapping[str, str] | None = None, remove_tags: Sequence[str] = ()
    ) -> pb.Version:
        """Change the tags of a version. Raises NotFoundError."""
        request = pb.UpdateVersionRequest(model=model, version=version, set_tags=set_tags, remove_tags=remove_tags)
        return (await call(self.stub.UpdateVersion, request, timeout_s=self.timeout_s, repeatable=True)).version

    async def verify_version(self, model: str, version: int) -> pb.VerifyVersionResponse:
        """Have the registry read every file of a version again and compare digests. Raises NotFoundError."""
        request = pb.VerifyVersionRequest(model=model, version=version)
        return await call(self.stub.VerifyVersion, request, timeout_s=LONG_TIMEOUT_S, repeatable=True)

    async def delete_version(self, model: str, version: int) -> None:
        """Retire a version. Raises FailedPreconditionError while an alias or a lease holds it, NotFoundError."""
        request = pb.DeleteVersionRequest(model=model, version=version)
        await call(self.stub.DeleteVersion, request, timeout_s=self.timeout_s)

    async def set_alias(
        self, model: str, alias: str, version: int, *, expected_version: int | None = None, reason: str = "", fence: Fence | None = None
    ) -> pb.AliasChange:
        """Point an alias at a version; with `expected_version` (0: must not exist) only if it stands there.

        Raises:
            ConflictError: The alias stands elsewhere.
            StaleFenceError: A later attempt has written under the fence's key.
            NotFoundError: No such model or version.
        """
        request = pb.SetAliasRequest(
            model=model, alias=alias, version=version, expected_version=expected_version, reason=reason, fence=fence
        )
        return (await call(self.stub.SetAlias, request, timeout_s=self.timeout_s)).change

    async def delete_alias(self, model: str, alias: str, *, expected_version: int | None = None, reason: str = "") -> pb.AliasChange:
        """Remove an alias; its history stays. Raises ConflictError if it stands elsewhere, NotFoundError."""
        request = pb.DeleteAliasRequest(model=model, alias=alias, expected_version=expected_version, reason=reason)
        return (await call(self.stub.DeleteAlias, request, timeout_s=self.timeout_s)).change

    async def alias_history(self, model: str, alias: str = "") -> AsyncIterator[pb.AliasChange]:
        """Yield who moved an alias (empty: any of the model) when, from where, to where, why; newest first. Raises NotFoundError."""

        async def fetch(token: str) -> pb.ListAliasHistoryResponse:
            request = pb.ListAliasHistoryRequest(model=model, alias=alias, page_token=token)
            return await call(self.stub.ListAliasHistory, request, timeout_s=self.timeout_s)

        async for page in pages(fetch):
            for change in page.changes:
                yield change

    async def acquire_lease(
        self, holder: str, ttl_s: float, *, model: str = "", version: int = 0, blob_sha256: str = ""
    ) -> pb.AcquireLeaseResponse:
        """Protect a version (`model` and `version`) or a blob from deletion for `ttl_s` seconds (1 s to 24 h, a blob to 30 days), or
        renew that.

        Raises:
            NotFoundError: No such version or blob.
        """
        request = pb.AcquireLeaseRequest(holder=holder)
        request.ttl.CopyFrom(to_duration(ttl_s))
        if blob_sha256:
            request.blob_sha256 = blob_sha256
        else:
            request.version.CopyFrom(pb.VersionRef(model=model, version=version))
        return await call(self.stub.AcquireLease, request, timeout_s=self.timeout_s, repeatable=True)

    async def release_lease(self, lease_id: str) -> None:
        """End a lease early; one that is gone already is fine."""
        await call(self.stub.ReleaseLease, pb.ReleaseLeaseRequest(lease_id=lease_id), timeout_s=self.timeout_s, repeatable=True)

    async def list_leases(self, holder_prefix: str = "") -> AsyncIterator[pb.Lease]:
        """Yield the leases of holders whose names begin so, sorted by holder. Takes the role operator."""

        async def fetch(token: str) -> pb.ListLeasesResponse:
            request = pb.ListLeasesRequest(holder_prefix=holder_prefix, page_token=token)
            return await call(self.stub.ListLeases, request, timeout_s=self.timeout_s)

        async for page in pages(fetch):
            for lease in page.leases:
                yield lease

    async def collect_garbage(self, grace_s: float | None = None, *, dry_run: bool = False) -> pb.CollectGarbageResponse:
        """Remove blobs that nothing refers to and that are older than `grace_s` seconds (default 24 h); only report with `dry_run`."""
        request = pb.CollectGarbageRequest(dry_run=dry_run)
        if grace_s is not None:
            request.grace.CopyFrom(to_duration(grace_s))
        return await call(self.stub.CollectGarbage, request, timeout_s=LONG_TIMEOUT_S, repeatable=True)
