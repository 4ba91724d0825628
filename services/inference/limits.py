"""How much of this server a model may take: the server's defaults, and what the registry says of a model instead, followed live."""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Protocol
from weakref import WeakSet

from services.inference.metrics import ModelMetrics
from tessera.api.registry.v1.registry_pb2 import ServingLimits
from tessera.errors import ResourceExhaustedError

MAX_BATCH = 1024
"""Most rows that any batch may have."""
RETRY_CONCURRENCY_S = 0.1
"""When a call that was one too many should come again: calls take milliseconds, and nobody knows which ends first."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one model.

    Args:
        max_batch: Most rows in a batch, 1 to 1024.
        threads: Threads that one batch may use, 1 or more; counts when a version is loaded, all others count at once.
        queue_size: Most requests that wait for a version, 1 or more.
        instances: Batches of a version computed at the same time, up to 64; 0 for as many as suit the runtime.
        max_concurrency: Most calls at once, from decoding to the encoded answer; 0 for any number.
        max_memory_bytes: Most memory that a version may need; 0 for what the server has.
    """

    max_batch: int
    threads: int
    queue_size: int
    instances: int = 0
    max_concurrency: int = 0
    max_memory_bytes: int = 0

    def overridden(self, serving: ServingLimits) -> "Limits":
        """Return these limits with every one that the registry sets in place of ours."""
        return replace(self, **{field.name: value for field, value in serving.ListFields()})


class Follower(Protocol):
    """What has to do with the limits of a model."""

    def apply(self, limits: Limits) -> None:
        """Keep to these limits from now on."""


class Gate:
    """Counts the calls of one model on this server, whatever version and runtime answers them.

    Args:
        model: Name of the model.
        limits: Of the model.
    """

    def __init__(self, model: str, limits: Limits) -> None:
        self.in_flight = 0
        self._metrics = ModelMetrics.of(model)
        self._most = limits.max_concurrency

    def apply(self, limits: Limits) -> None:
        """Keep to these limits from now on; calls that are in flight stay."""
        self._most = limits.max_concurrency

    def enter(self) -> None:
        """Count a call. Raises ResourceExhaustedError, and counts the refusal, if there are as many as there may be."""
        if self._most and self.in_flight >= self._most:
            self._metrics.shed("concurrency")
            raise ResourceExhaustedError(
                f"model {self._metrics.model}: {self.in_flight} calls are in flight, the most that it may have",
                retry_after_s=RETRY_CONCURRENCY_S,
            )
        self.in_flight += 1

    def leave(self) -> None:
        """Count the end of a call that was let in."""
        self.in_flight -= 1


class ModelLimits:
    """The limits of every model on this server, as the registry has them now.

    Args:
        defaults: For what the registry leaves open.
    """

    def __init__(self, defaults: Limits) -> None:
        self._defaults = defaults
        self._of: dict[str, Limits] = {}
        self._gates: dict[str, Gate] = {}
        self._followers: defaultdict[str, WeakSet[Follower]] = defaultdict(WeakSet)

    def of(self, model: str) -> Limits:
        """Return the limits of a model."""
        return self._of.get(model, self._defaults)

    def gate(self, model: str) -> Gate:
        """Return the one gate of a model."""
        if model not in self._gates:
            self._gates[model] = Gate(model, self.of(model))
            self.follow(model, self._gates[model])
        return self._gates[model]

    def follow(self, model: str, follower: Follower) -> None:
        """Tell a follower of every change, for as long as somebody else keeps it alive."""
        self._followers[model].add(follower)

    def learn(self, model: str, serving: ServingLimits) -> None:
        """Take over what the registry says of a model now, and tell its followers if that changes anything."""
        before, limits = self.of(model), self._defaults.overridden(serving)
        self._of[model] = limits
        if limits != before:
            for follower in list(self._followers.get(model, ())):
                follower.apply(limits)

    def forget(self, model: str) -> None:
        """Take a model back to the defaults that the registry does not know any more."""
        self.learn(model, ServingLimits())
        del self._of[model]
