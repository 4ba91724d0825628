"""From a version in the registry to a model that has proven that it answers as it should."""

import asyncio
import hashlib
from collections.abc import Iterable
from pathlib import Path

import structlog

from model_store.manifest import Manifest
from model_store.version_files import materialize
from services.inference.batching import Batcher
from services.inference.golden import Golden
from services.inference.metrics import ModelMetrics
from services.inference.runtimes import find_runtime
from services.inference.runtimes.runtime import LoadedModel, RuntimeOptions
from services.inference.served import ServedModel, ServedTask
from tessera.api.registry.v1 import registry_pb2
from tessera.client.registry import RegistryClient
from tessera.errors import DataLossError, FailedPreconditionError

log = structlog.get_logger()


class Loader:
    """Loads versions.

    Args:
        registry: Where versions come from.
        cache_dir: Where their files are kept.
        tasks: Those that this server can serve.
        threads: Threads that one batch may use.
        instances: Batches of a version computed at the same time.
        max_batch: Most rows in a batch.
        queue_size: Most requests that wait for a version.
    """

    def __init__(
        self,
        registry: RegistryClient,
        cache_dir: Path,
        tasks: Iterable[ServedTask],
        *,
        threads: int,
        instances: int,
        max_batch: int,
        queue_size: int,
    ) -> None:
        self._registry = registry
        self._cache_dir = cache_dir
        self._tasks = {task.name: task for task in tasks}
        self._options = RuntimeOptions(threads=threads)
        self._instances = instances
        self._max_batch = max_batch
        self._queue_size = queue_size

    async def load(self, model: str, number: int) -> ServedModel:
        """Fetch a version, verify it, load it, warm it up and check its golden example.

        Raises:
            NotFoundError: There is no such version, or one of its files is not in the store.
            FailedPreconditionError: It is deleted, this server cannot serve it, or it does not answer its golden example.
            DataLossError: Its manifest or a file is not what was registered.
            UnavailableError: The registry cannot be reached.
        """
        version = await self._registry.get_version(model, version=number)
        manifest = self._check(version)
        load = find_runtime(manifest.runtime)
        directory = await materialize(self._registry.stub, manifest, self._cache_dir)
        max_rows = _max_rows(manifest, self._max_batch)
        loaded = await asyncio.to_thread(load, manifest, directory, self._options)
        try:
            await asyncio.to_thread(_prove, loaded, Golden.load(manifest, directory), max_rows)
        except BaseException:
            await asyncio.to_thread(loaded.close)
            raise
        metrics = ModelMetrics.of(model)
        batcher = Batcher(loaded.run, metrics, max_rows=max_rows, queue_size=self._queue_size, instances=self._instances)
        return ServedModel(manifest, number, version.digest, loaded, batcher)

    def _check(self, version: registry_pb2.Version) -> Manifest:
        """Return the manifest of a version that this server can serve."""
        if version.state != registry_pb2.VERSION_STATE_READY:
            raise FailedPreconditionError(f"{version.model} version {version.version} is deleted")
        if hashlib.sha256(version.manifest_json).hexdigest() != version.digest:
            raise DataLossError(f"the manifest of {version.model} version {version.version} does not have its digest {version.digest}")
        manifest = Manifest.parse(version.manifest_json)
        task = self._tasks.get(manifest.task.name)
        if task is None:
            known = ", ".join(sorted(self._tasks))
            raise FailedPreconditionError(f"the version is for the task {manifest.task.name!r}; this server knows {known}")
        if task.revision != manifest.task.revision:
            raise FailedPreconditionError(
                f"the version was trained with revision {manifest.task.revision} of the preprocessing of {task.name}; "
                f"this server has revision {task.revision}"
            )
        task.check(manifest)
        return manifest


def _max_rows(manifest: Manifest, limit: int) -> int:
    """Return the most rows in a batch: 1 if the graph takes no other, else `limit`."""
    extents = {spec.shape[0] if spec.shape else 0 for spec in (*manifest.inputs, *manifest.outputs)}
    if extents == {-1}:
        return limit
    if extents == {1}:
        return 1
    raise FailedPreconditionError("the first axis of every input and output must be the batch: -1, or 1 in all of them")


def _prove(loaded: LoadedModel, golden: Golden, max_rows: int) -> None:
    """Warm up and check; blocking."""
    golden.warm_up(loaded.run, max_rows)
    golden.check(loaded.run, max_rows)
