"""What the trainer asks of the registry: to keep the inputs of jobs, and to note the end of jobs that came to nothing."""

from services.trainer.outbox import Task
from services.trainer.tables import State
from tessera.api.common.v1.common_pb2 import Fence
from tessera.api.registry.v1 import registry_pb2
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.client.registry import RegistryClient
from tessera.errors import NotFoundError

INPUT_LEASE_S = 24 * 3600.0
"""Inputs are safe from garbage collection for this long after the submission; a worker keeps its own copy of them."""

_EXPERIMENT_STATES = {
    State.FAILED: registry_pb2.EXPERIMENT_STATE_FAILED,
    State.CANCELLED: registry_pb2.EXPERIMENT_STATE_CANCELLED,
}


class Registry:
    """The registry as the trainer sees it.

    Args:
        client: The registry's client.
    """

    def __init__(self, client: RegistryClient) -> None:
        self._client = client

    async def hold_inputs(self, job_id: str, spec: pb.JobSpec) -> None:
        """Make sure that the inputs of a job are stored, and keep them.

        Raises:
            NotFoundError: One is not stored.
            UnavailableError: The registry cannot be reached.
        """
        for index, file in enumerate(spec.inputs):
            try:
                await self._client.acquire_lease(f"job/{job_id}", INPUT_LEASE_S, blob_sha256=file.sha256)
            except NotFoundError as error:
                field = f"spec.inputs[{index}].sha256"
                raise NotFoundError(f"{field}: the registry has no blob {file.sha256}; upload it first", field=field) from error

    async def close_experiment(self, task: Task) -> None:
        """Note that a job ended without a version; workers that still believe in it can write no more.

        Raises:
            UnavailableError: The registry cannot be reached.
        """
        # One above the last attempt: whoever was given up and comes back now finds its token stale.
        fence = Fence(key=f"job/{task.job_id}", token=task.attempt + 1)
        await self._client.finish_experiment(task.experiment_id, _EXPERIMENT_STATES[task.state], error=task.error, fence=fence)
