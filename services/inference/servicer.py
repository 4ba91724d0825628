"""ServingService: what this server serves."""

import grpc

from services.inference.memory import MemoryBudget
from services.inference.pool import Pool
from services.inference.rollouts.trial import Trial
from services.inference.rollouts.windows import Summary
from services.inference.served import Slot
from tessera.api.inference.v1.serving_pb2 import (
    ListServedRequest,
    ListServedResponse,
    RolloutArm,
    RolloutShadow,
    ServedRollout,
    ServedState,
    ServedVersion,
)
from tessera.api.inference.v1.serving_pb2_grpc import ServingServiceServicer
from tessera.times import to_duration

Call = grpc.aio.ServicerContext[ListServedRequest, ListServedResponse]


class ServingServicer(ServingServiceServicer):
    """Tells operators about the pool.

    Args:
        pool: What is served.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ListServed(self, request: ListServedRequest, context: Call) -> ListServedResponse:  # noqa: N802 - its name in the API
        """Answer the versions that this server holds, and how its rollouts go."""
        versions = [_version(slot, aliases, self._pool.memory) for slot, aliases in self._pool.slots(request.model)]
        trials = sorted(self._pool.rollouts, key=lambda trial: (trial.rollout.model, trial.rollout.alias))
        rollouts = [_rollout(trial, self._pool) for trial in trials if request.model in ("", trial.rollout.model)]
        return ListServedResponse(versions=versions, revision=self._pool.revision, rollouts=rollouts)


def _version(slot: Slot, aliases: list[str], memory: MemoryBudget) -> ServedVersion:
    version = ServedVersion(
        model=slot.model, version=slot.version, state=ServedState.Value(f"SERVED_STATE_{slot.state.value}"), aliases=aliases
    )
    version.memory_bytes = memory.reserved_bytes(slot.model, slot.version)
    if slot.error:
        version.error = slot.error.message
    if slot.served:
        version.digest = slot.served.digest
        version.runtime = slot.served.manifest.runtime
        version.runtimes.extend(slot.served.runtimes)
        version.in_flight = slot.served.in_flight
        version.load_time.CopyFrom(to_duration(slot.finished - slot.created))
    return version


def _rollout(trial: Trial, pool: Pool) -> ServedRollout:
    rollout, shadows = trial.rollout, trial.shadows
    states = {slot.version: slot.state.value for slot, _ in pool.slots(rollout.model)}
    arms = [
        _arm(version, states.get(version, "UNSPECIFIED"), summary)
        for version, summary in zip((rollout.stable_version, rollout.candidate_version), trial.summaries(), strict=True)
    ]
    return ServedRollout(
        model=rollout.model,
        alias=rollout.alias,
        revision=rollout.revision,
        stable=arms[0],
        candidate=arms[1],
        halted=trial.halted.reason if trial.halted else "",
        shadow=RolloutShadow(
            requests=shadows.outcomes, rows=shadows.rows, agreeing_rows=shadows.agreeing, max_absolute_difference=shadows.max_abs
        ),
    )


def _arm(version: int, state: str, summary: Summary) -> RolloutArm:
    return RolloutArm(
        version=version,
        state=ServedState.Value(f"SERVED_STATE_{state}"),
        requests=summary.calls,
        failed=summary.failed,
        p50=to_duration(summary.p50_s),
        p95=to_duration(summary.p95_s),
    )
