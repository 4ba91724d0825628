"""From the files of a finished attempt to a version in the registry: each step may be repeated, by this attempt or a later one."""

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from model_store.artifact_files import MANIFEST_FILE, check_file_magic
from model_store.manifest import Manifest
from tessera.api.common.v1.common_pb2 import Fence
from tessera.api.registry.v1 import registry_pb2
from tessera.api.trainer.v1 import trainer_pb2
from tessera.client.aliases import move_alias_once
from tessera.client.registry import RegistryClient
from tessera.errors import DataLossError, InvalidArgumentError
from trainers.patience import patiently


class Publisher:
    """Publishes what an attempt made. Every call waits while the registry is away.

    Args:
        registry: The registry's client.
        job: The job.
        attempt: Number of the attempt: the fencing token.
    """

    def __init__(self, registry: RegistryClient, job: trainer_pb2.Job, attempt: int) -> None:
        self._registry = registry
        self._job = job
        self._fence = Fence(key=f"job/{job.id}", token=attempt)

    async def publish(self, artifact: Path, experiment_id: str, metrics: Mapping[str, float]) -> int:
        """Register the version, point the alias at it, end the experiment, and return the version's number.

        Args:
            artifact: Directory with the manifest and the files that it lists.
            experiment_id: Of the attempt.
            metrics: Of the finished network.

        Raises:
            InvalidArgumentError: The artifact cannot become a version.
            DataLossError: A file is not the one that the manifest describes.
            StaleFenceError: A later attempt has begun.
        """
        manifest = await asyncio.to_thread(_read_manifest, artifact, self._job.spec.model, experiment_id)
        for entry in manifest.files:
            path = artifact / entry.path
            await asyncio.to_thread(check_file_magic, path, entry.role)
            ref = await patiently("upload", partial(self._registry.upload_file, path))
            if ref != entry.blob:
                raise DataLossError(f"{entry.path} is not the file that the manifest describes")
        version = await self._create_version(manifest)
        if alias := self._job.spec.alias:
            move = partial(move_alias_once, self._registry, self._job.spec.model, alias, version)
            await patiently("set alias", partial(move, reason=f"job {self._job.id}", fence=self._fence))
        state = registry_pb2.EXPERIMENT_STATE_SUCCEEDED
        finish = partial(self._registry.finish_experiment, experiment_id, state, metrics=metrics, version=version, fence=self._fence)
        await patiently("finish experiment", finish)
        return version

    async def _create_version(self, manifest: Manifest) -> int:
        model = self._job.spec.model
        await patiently("register model", partial(self._registry.ensure_model, model))
        create = partial(
            self._registry.create_version,
            model,
            manifest.canonical_json(),
            idempotency_key=f"job/{self._job.id}",
            fence=self._fence,
        )
        return (await patiently("create version", create)).version


def _read_manifest(artifact: Path, model: str, experiment_id: str) -> Manifest:
    try:
        manifest = Manifest.parse((artifact / MANIFEST_FILE).read_bytes())
    except FileNotFoundError:
        raise InvalidArgumentError(f"the training ended without {MANIFEST_FILE}", field="manifest") from None
    if manifest.model != model:
        raise InvalidArgumentError(f"the manifest is for model {manifest.model!r}, the job for {model!r}", field="manifest.model")
    if manifest.lineage.experiment_id != experiment_id:  # by it the trainer finds the version of a worker that could not report it
        named = f"the manifest names experiment {manifest.lineage.experiment_id!r}, the job's is {experiment_id!r}"
        raise InvalidArgumentError(named, field="manifest.lineage.experiment_id")
    return manifest
