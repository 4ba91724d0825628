"""The registry's record of a training, written while it runs."""

import asyncio
from contextlib import suppress
from functools import partial

import structlog

from tessera.api.common.v1.common_pb2 import Fence
from tessera.api.registry.v1 import registry_pb2
from tessera.api.trainer.v1 import trainer_pb2
from tessera.client.registry import RegistryClient
from tessera.errors import FailedPreconditionError, InvalidArgumentError
from trainers.lineage import git_commit
from trainers.patience import patiently

_MOST_EPOCHS = 500

log = structlog.get_logger()


class ExperimentLog:
    """One experiment; every attempt at a job writes to the same one, fenced by its number.

    Args:
        registry: The registry's client.
        job: The job.
        attempt: Number of the attempt.
    """

    def __init__(self, registry: RegistryClient, job: trainer_pb2.Job, attempt: int) -> None:
        self.id = ""
        self._registry = registry
        self._job = job
        self._fence = Fence(key=f"job/{job.id}", token=attempt)
        self._epochs: asyncio.Queue[registry_pb2.EpochMetrics | None] = asyncio.Queue()

    async def begin(self) -> str:
        """Make the record, or find that of the attempts before, and return its id. From here on they can write nothing more.

        Raises:
            StaleFenceError: A later attempt has begun.
        """
        spec = self._job.spec
        wanted = registry_pb2.Experiment(
            name=spec.name,
            model=spec.model,
            family=spec.family,
            architecture=spec.architecture,
            model_config=spec.model_config,
            hyperparameters=spec.hyperparameters,
            git_commit=await asyncio.to_thread(git_commit),
            job_id=self._job.id,
        )
        experiment = await patiently("create experiment", partial(self._registry.create_experiment, wanted, self._fence))
        self.id = experiment.id
        return self.id

    def add(self, epoch: int, metrics: dict[str, float]) -> None:
        """Note the metrics of a finished epoch, which may be noted twice; they are written when the registry can be reached.

        What is not written yet when this process is killed comes again when the next attempt resumes.
        """
        self._epochs.put_nowait(registry_pb2.EpochMetrics(epoch=epoch, metrics=metrics))

    def close(self) -> None:
        """Say that no more epochs will come."""
        self._epochs.put_nowait(None)

    async def write(self) -> None:
        """Write the epochs as they come, until `close`.

        Raises:
            StaleFenceError: A later attempt has begun.
        """
        closed = False
        while not closed:
            batch = [await self._epochs.get()]
            with suppress(asyncio.QueueEmpty):
                while len(batch) < _MOST_EPOCHS:
                    batch.append(self._epochs.get_nowait())
            closed = None in batch
            epochs = [epoch for epoch in batch if epoch is not None]
            if epochs:
                await self._log(epochs)

    async def _log(self, epochs: list[registry_pb2.EpochMetrics]) -> None:
        try:
            await patiently("log metrics", partial(self._registry.log_metrics, self.id, epochs, self._fence))
        except (InvalidArgumentError, FailedPreconditionError) as error:  # a record of the work, not the work
            log.warning("the registry does not take these metrics", reason=error.message)
