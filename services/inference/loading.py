"""From a version in the registry to a model that has proven that it answers as it should."""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import structlog
from safetensors.numpy import load_file

from model_store.manifest import FileEntry, Manifest
from model_store.version_files import VersionFiles, materialize, prune
from services.inference.batching import Batcher
from services.inference.engines import Engine, Engines
from services.inference.golden import Golden
from services.inference.limits import MAX_BATCH, ModelLimits
from services.inference.memory import MemoryBudget
from services.inference.metrics import EngineMetrics
from services.inference.proving import Prover, Subject
from services.inference.runtimes import Runtimes, carried_runtimes, graph_of
from services.inference.runtimes.runtime import RuntimeOptions
from services.inference.served import ServedModel, ServedTask
from tessera.api.registry.v1 import registry_pb2
from tessera.client.registry import RegistryClient
from tessera.errors import DataLossError, FailedPreconditionError, ResourceExhaustedError, TesseraError, UnavailableError
from tessera.tensors import Array

log = structlog.get_logger()


class Loader:
    """Loads versions.

    Args:
        registry: Where versions come from.
        cache_dir: Where their files are kept.
        cache_bytes: Most bytes of versions that are not loaded.
        tasks: Those that this server can serve.
        runtimes: Compute versions; closed with this object.
        memory: What they may take up.
        timeout_s: Seconds to fetch a version, and again to load and prove it.
        limits: How much of the server each model may take.
    """

    def __init__(
        self,
        registry: RegistryClient,
        cache_dir: Path,
        tasks: Iterable[ServedTask],
        runtimes: Runtimes,
        memory: MemoryBudget,
        *,
        timeout_s: float,
        cache_bytes: int,
        limits: ModelLimits,
    ) -> None:
        self._registry = registry
        self._cache_dir = cache_dir
        self._cache_bytes = cache_bytes
        self._tasks = {task.name: task for task in tasks}
        self._runtimes = runtimes
        self._prover = Prover(memory, timeout_s)
        self._timeout_s = timeout_s
        self._limits = limits

    async def load(self, model: str, number: int) -> ServedModel:
        """Fetch a version, verify it, load it in the runtime that it prefers, warm it up and check its golden example.

        In other runtimes that it carries a graph for it is loaded when a call asks for that, or when the preferred one does not work.

        Raises:
            NotFoundError: There is no such version, or one of its files is not in the store.
            FailedPreconditionError: It is deleted, this server cannot serve it, or it does not answer its golden example.
            DataLossError: Its manifest or a file is not what was registered.
            ResourceExhaustedError: There is not enough memory.
            UnavailableError: The registry cannot be reached, there is no room on the disk, no runtime of the version works now, or loading
                takes too long.
        """
        version = await self._registry.get_version(model, version=number)
        manifest = self._check(version)
        constants = await self._constants(manifest)
        engines = Engines(carried_runtimes(manifest), partial(self._load_engine, manifest, number))
        try:
            await engines.start()
        except BaseException:
            await engines.close()
            raise
        return ServedModel(manifest, number, version.digest, engines, self._limits.gate(model), constants=constants)

    async def _load_engine(self, manifest: Manifest, number: int, name: str) -> Engine:
        """Load a version in one runtime and prove it there."""
        most_rows = _most_rows(manifest)
        graph = graph_of(manifest, name)
        runtime = await asyncio.to_thread(self._runtimes.find, name)
        limits = self._limits.of(manifest.model)
        options = RuntimeOptions(threads=limits.threads, instances=limits.instances or runtime.instances)
        with ExitStack() as owned:
            files = owned.enter_context(await self._fetch(manifest, [graph, *manifest.files_in_role("golden")]))
            subject = Subject(
                manifest.model,
                number,
                runtime,
                options,
                graph_bytes=graph.size_bytes,
                max_rows=min(limits.max_batch, most_rows),
                max_memory_bytes=limits.max_memory_bytes,
                load=partial(runtime.load, manifest, files.folder / graph.path, options),
                golden=partial(Golden.load, manifest, files.folder),
            )
            loaded = await self._prover.prove(subject, owned)
            release = owned.pop_all().close
        metrics = EngineMetrics.of(manifest.model, name)
        regular = all(extent != -1 for spec in manifest.inputs for extent in spec.shape[1:])
        batcher = Batcher(
            loaded.run, metrics, self._limits.of(manifest.model), instances=runtime.instances, most_rows=most_rows, regular=regular
        )
        self._limits.follow(manifest.model, batcher)
        return Engine(loaded, batcher, release)

    async def _constants(self, manifest: Manifest) -> dict[str, Array]:
        """Return the arrays that the task of a version needs beside its graph."""
        wanted = manifest.files_in_role("constants")
        if not wanted:
            return {}
        with await self._fetch(manifest, wanted) as files:
            return {
                name: array for file in wanted for name, array in (await asyncio.to_thread(load_file, files.folder / file.path)).items()
            }

    async def _fetch(self, manifest: Manifest, wanted: Sequence[FileEntry]) -> VersionFiles:
        """Fetch files of a version; UnavailableError if that takes too long, or finds no room, of which there may be more later."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await materialize(self._registry.transfers, manifest, self._cache_dir, wanted)
        except ResourceExhaustedError as error:
            raise UnavailableError(f"the version's files find no room in the cache directory: {error.message}") from error
        except TimeoutError as error:
            raise UnavailableError(
                f"the version's files of {sum(file.size_bytes for file in wanted):,} bytes were not here within {self._timeout_s:g} s "
                "(TESSERA_INFERENCE_LOAD_TIMEOUT_S)"
            ) from error

    async def close(self) -> None:
        """End the runtimes. No version is loaded any more."""
        await asyncio.to_thread(self._runtimes.close)

    async def prune(self) -> None:
        """Remove files of versions that are not loaded, as far as they take up more than they may."""
        try:
            removed = await asyncio.to_thread(prune, self._cache_dir, self._cache_bytes)
        except TesseraError as error:
            log.warning("the cache could not be cleaned up", reason=error.message)
        else:
            if removed:
                log.info("versions removed from the cache", versions=removed)

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


def _most_rows(manifest: Manifest) -> int:
    """Return the most rows that a batch may ever have: 1 if the graph takes no other."""
    extents = {spec.shape[0] if spec.shape else 0 for spec in (*manifest.inputs, *manifest.outputs)}
    if extents == {-1}:
        return MAX_BATCH
    if extents == {1}:
        return 1
    raise FailedPreconditionError("the first axis of every input and output must be the batch: -1, or 1 in all of them")
