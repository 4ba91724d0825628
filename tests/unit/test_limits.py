"""The registry's limits of a model stand in place of the server's, and reach those who keep to them."""

import gc

import pytest
from prometheus_client import REGISTRY

from services.inference.limits import Limits, ModelLimits
from tessera.api.registry.v1.registry_pb2 import ServingLimits
from tessera.errors import ResourceExhaustedError

DEFAULTS = Limits(max_batch=32, threads=1, queue_size=1024)


class Follower:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[Limits] = []

    def apply(self, limits: Limits) -> None:
        self.told.append(limits)


def test_only_limits_that_are_set_stand_in_place_of_the_defaults() -> None:
    limits = ModelLimits(DEFAULTS)
    limits.learn("cells", ServingLimits(max_batch=8, max_memory_bytes=1 << 30))
    assert limits.of("cells") == Limits(max_batch=8, threads=1, queue_size=1024, max_memory_bytes=1 << 30)
    assert limits.of("other") == DEFAULTS
    limits.learn("cells", ServingLimits())
    assert limits.of("cells") == DEFAULTS


def test_followers_are_told_of_changes_of_their_model_alone() -> None:
    limits, follower, other = ModelLimits(DEFAULTS), Follower(), Follower()
    limits.follow("cells", follower)
    limits.follow("other", other)
    for _ in range(2):
        limits.learn("cells", ServingLimits(instances=3))
    limits.forget("cells")
    limits.forget("cells")
    assert ([told.instances for told in follower.told], other.told) == ([3, 0], [])


def test_followers_are_not_kept_alive() -> None:
    limits, follower = ModelLimits(DEFAULTS), Follower()
    told = follower.told
    limits.follow("cells", follower)
    del follower
    gc.collect()
    limits.learn("cells", ServingLimits(instances=3))
    assert told == []


def test_a_gate_lets_in_as_many_as_there_may_be_and_follows_the_limit() -> None:
    limits = ModelLimits(DEFAULTS)
    gate = limits.gate("gated")
    assert limits.gate("gated") is gate
    for _ in range(3):
        gate.enter()
    limits.learn("gated", ServingLimits(max_concurrency=3))
    with pytest.raises(ResourceExhaustedError, match="3 calls are in flight") as refused:
        gate.enter()
    assert refused.value.retry_after_s
    gate.leave()
    gate.enter()
    limits.learn("gated", ServingLimits())
    gate.enter()
    assert gate.in_flight == 4
    assert REGISTRY.get_sample_value("inference_shed_total", {"model": "gated", "reason": "concurrency"}) == 1
