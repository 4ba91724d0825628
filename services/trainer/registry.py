"""What the trainer asks of the registry: to keep the inputs of jobs, and what came of jobs whose workers are gone."""

from collections.abc import Sequence
from contextlib import suppress

from services.trainer.outbox import Task
from tessera.api.common.v1.common_pb2 import Fence
from tessera.api.registry.v1 import registry_pb2
from tessera.client.aliases import move_alias_once
from tessera.client.registry import RegistryClient
from tessera.errors import NotFoundError

INPUT_LEASE_S = 24 * 3600.0
"""How long inputs are safe from garbage collection unless that is renewed, seconds; the longest that the registry allows."""


class Registry:
    """The registry as the trainer sees it.

    Args:
        client: The registry's client.
    """

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    async def hold_inputs(self, job_id: str, digests: Sequence[str]) -> None:
        """Make sure that the inputs of a job are stored, and keep them for a while.

        Raises:
            NotFoundError: One is not stored.
            UnavailableError: The registry cannot be reached.
        """
        for index, digest in enumerate(digests):
            try:
                await self._client.acquire_lease(f"job/{job_id}", INPUT_LEASE_S, blob_sha256=digest)
            except NotFoundError as error:
                field = f"spec.inputs[{index}].sha256"
                raise NotFoundError(f"{field}: the registry has no blob {digest}; upload it first", field=field) from error

    async def release_inputs(self, job_id: str, digests: Sequence[str]) -> None:
        """Keep the inputs of a job no longer. Raises UnavailableError if the registry cannot be reached."""
        for digest in digests:
            with suppress(NotFoundError):  # gone already
                held = await self._client.acquire_lease(f"job/{job_id}", INPUT_LEASE_S, blob_sha256=digest)  # answers the same lease
                await self._client.release_lease(held.lease_id)

    async def settle(self, task: Task) -> int:
        """Find out what came of a job that is to end without a version, and end its experiment accordingly; may be repeated.

        A version moves the job's alias too, unless a person asked to stop.

        Returns:
            The version that a worker has made and could not report; 0 if there is none, and then there never will be.

        Raises:
            StaleFenceError: The registry knows a later attempt.
            FailedPreconditionError: The experiment has ended in another way.
            UnavailableError: The registry cannot be reached.
        """
        # One above the last attempt, and before anybody looks: whoever was given up and comes back now finds its token stale.
        fence = Fence(key=f"job/{task.job_id}", token=task.attempt + 1)
        wanted = registry_pb2.Experiment(model=task.model, family=task.family, job_id=task.job_id)
        experiment = await self._client.create_experiment(wanted, fence)
        of_experiment = f'model = "{task.model}" AND experiment_id = "{experiment.id}"'
        made = [version async for version in self._client.list_versions(filter=of_experiment, order_by="version")]
        if not made:
            state = registry_pb2.EXPERIMENT_STATE_CANCELLED if task.cancel_requested else registry_pb2.EXPERIMENT_STATE_FAILED
            await self._client.finish_experiment(experiment.id, state, error=task.error, fence=fence)
            return 0
        version = made[0]  # workers make one; whatever follows is somebody's copy
        if task.alias and not task.cancel_requested:
            reason = f"job {task.job_id}"
            await move_alias_once(self._client, task.model, task.alias, version.version, reason=reason, fence=fence)
        succeeded = registry_pb2.EXPERIMENT_STATE_SUCCEEDED
        await self._client.finish_experiment(experiment.id, succeeded, metrics=version.metrics, version=version.version, fence=fence)
        return version.version
