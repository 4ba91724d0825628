"""How a job comes in: completed, known already or checked, its inputs held, queued."""

import asyncio
import uuid

from services.trainer.families import Families
from services.trainer.jobs import Jobs
from services.trainer.registry import Registry
from services.trainer.validation import check_spec, complete_spec
from tessera import telemetry
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.texts import check_text

LONGEST_KEY = 256


class Intake:
    """Takes jobs in.

    Args:
        jobs: Where they are kept.
        families: What can be trained.
        registry: Where their inputs are.
    """

    def __init__(self, jobs: Jobs, families: Families, registry: Registry) -> None:
        self._jobs = jobs
        self._families = families
        self._registry = registry

    async def submit(self, spec: pb.JobSpec, idempotency_key: str) -> tuple[pb.Job, bool]:
        """Queue a job, or find the one that the key stands for.

        Returns:
            The job, and whether it was made now.

        Raises:
            InvalidArgumentError: The spec cannot be trained, or the key is no text of at most 256 characters.
            AlreadyExistsError: The key was used with another spec.
            NotFoundError: An input is not stored in the registry.
            UnavailableError: The registry cannot be asked for the inputs.
        """
        check_text(idempotency_key, "idempotency_key", LONGEST_KEY)
        complete = complete_spec(spec)
        if (known := await asyncio.to_thread(self._jobs.find_submitted, complete, idempotency_key)) is not None:
            return known, False
        check_spec(complete, await asyncio.to_thread(self._families.list))
        job_id = uuid.uuid4().hex
        await self._registry.hold_inputs(job_id, [file.sha256 for file in complete.inputs])
        return await asyncio.to_thread(self._jobs.submit, job_id, complete, idempotency_key=idempotency_key, trace=telemetry.inject())
