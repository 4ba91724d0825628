"""Checks of what callers say about rollouts, and the guard's defaults."""

import math
from datetime import timedelta

from model_store.manifest import Manifest
from services.registry.tables import RolloutState
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import FailedPreconditionError, InvalidArgumentError
from tessera.times import timedelta_of, to_duration

MOST_REQUESTS = 2000
MOST_RATIO = 1000.0
LONGEST = timedelta(hours=24)
ENDINGS = (RolloutState.PROMOTED, RolloutState.ROLLED_BACK, RolloutState.ABORTED)


def default_guard() -> pb.RolloutGuard:
    """Return the guard of a rollout that says nothing about it."""
    return pb.RolloutGuard(
        min_requests=200,
        max_error_rate_increase=0.01,
        max_latency_ratio=1.5,
        min_latency_increase=to_duration(0.005),
        window=to_duration(300.0),
    )


def merged_guard(old: pb.RolloutGuard, new: pb.RolloutGuard) -> pb.RolloutGuard:
    """Return a guard after setting what another one sets. Raises InvalidArgumentError if a field is outside its range."""
    guard = pb.RolloutGuard()
    guard.CopyFrom(old)
    for field, value in new.ListFields():
        if isinstance(value, int | float):
            setattr(guard, field.name, value)
        else:
            getattr(guard, field.name).CopyFrom(value)
    _check_range(guard.min_requests, "guard.min_requests", 1, MOST_REQUESTS)
    _check_range(guard.max_error_rate_increase, "guard.max_error_rate_increase", 0.0, 1.0)
    _check_range(guard.max_latency_ratio, "guard.max_latency_ratio", 1.0, MOST_RATIO)
    _check_span(timedelta_of(guard.min_latency_increase, "guard.min_latency_increase"), "guard.min_latency_increase", timedelta())
    _check_span(timedelta_of(guard.window, "guard.window"), "guard.window", timedelta(seconds=1))
    return guard


def check_percent(value: float, field: str) -> float:
    """Return a share. Raises InvalidArgumentError if it is outside 0 to 100."""
    return _check_range(value, field, 0.0, 100.0)


def check_ending(outcome: int) -> RolloutState:
    """Return how a caller may end a rollout: promoted, rolled back or aborted. Raises InvalidArgumentError for anything else."""
    if outcome not in ENDINGS:
        known = ", ".join(state.name for state in ENDINGS)
        raise InvalidArgumentError(f"outcome: {outcome} is no way to end a rollout; it takes {known}", field="outcome")
    return RolloutState(outcome)


def check_interchangeable(stable: Manifest, candidate: Manifest) -> None:
    """Raise FailedPreconditionError unless every request that one version takes the other takes too, and answers alike."""
    sides = [
        {
            "task": manifest.task.name,
            "inputs": {spec.name: (spec.data_type, *spec.shape) for spec in manifest.inputs},
            "outputs": {spec.name: spec.data_type for spec in manifest.outputs},
        }
        for manifest in (stable, candidate)
    ]
    for what, value in sides[0].items():
        if value != sides[1][what]:
            raise FailedPreconditionError(
                f"the {what} of the stable version are {value}, those of the candidate {sides[1][what]}: its callers could not be answered",
                field="candidate_version",
            )


def _check_range(value: float, field: str, least: float, most: float) -> float:
    if not (math.isfinite(value) and least <= value <= most):
        raise InvalidArgumentError(f"{field}: {value:g} is outside {least:g} to {most:g}", field=field)
    return value


def _check_span(value: timedelta, field: str, least: timedelta) -> None:
    if not least <= value <= LONGEST:
        problem = f"{field}: {value.total_seconds():g} s is outside {least.total_seconds():g} s to 24 h"
        raise InvalidArgumentError(problem, field=field)
