"""Triton's ModelStatistics: the sums of loaded versions as messages."""

from collections.abc import Iterable

from services.inference.pool import Pool
from services.inference.served import ServedModel, State
from services.inference.statistics import Statistics, Sums
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.openinference.v2.open_inference_pb2 import InferBatchStatistics, InferStatistics, ModelStatistics, StatisticDuration
from tessera.errors import NotFoundError


def of(pool: Pool, chosen: ModelSelector) -> list[ModelStatistics]:
    """Return the statistics of every loaded version that is chosen: of all models without a name, of all versions without one.

    Raises:
        NotFoundError: A model or version is named that is not loaded here.
    """
    found = [
        slot.served for slot, aliases in pool.slots(chosen.model) if slot.state is State.READY and _chosen(chosen, slot.version, aliases)
    ]
    if chosen.model and not found:
        raise NotFoundError(f"no version of {chosen.model} that is asked for is loaded here", field="model.model")
    return [_statistics(served) for served in found if served]


def _chosen(chosen: ModelSelector, version: int, aliases: list[str]) -> bool:
    match chosen.WhichOneof("selector"):
        case "version":
            return chosen.version == version
        case "alias":
            return chosen.alias in aliases
    return True


def _statistics(served: ServedModel) -> ModelStatistics:
    statistics = served.statistics
    batches = sorted(statistics.by_size.items())
    return ModelStatistics(
        name=served.model,
        version=str(served.version),
        last_inference=statistics.last_ms,
        inference_count=sum(sums.rows for _, sums in batches),
        execution_count=sum(sums.batches(size) for size, sums in batches),
        inference_stats=_sums(statistics),
        batch_stats=[_batch(size, sums) for size, sums in batches],
    )


def _sums(statistics: Statistics) -> InferStatistics:
    every = statistics.by_size.values()
    requests = sum(sums.requests for sums in every)

    def together(seconds: Iterable[float]) -> StatisticDuration:
        return _duration(requests, sum(seconds))

    return InferStatistics(
        success=together(sums.total_s for sums in every),
        fail=_duration(statistics.failures, statistics.failed_s),
        queue=together(sums.queue_s for sums in every),
        compute_input=together(sums.decode_s for sums in every),
        compute_infer=together(sums.compute_s for sums in every),
        compute_output=together(sums.encode_s for sums in every),
    )


def _batch(size: int, sums: Sums) -> InferBatchStatistics:
    batches = sums.batches(size)
    return InferBatchStatistics(
        batch_size=size,
        compute_input=_duration(batches, sums.decode_s),
        compute_infer=_duration(batches, sums.compute_s / size),  # every request of a batch has brought the batch's time
        compute_output=_duration(batches, sums.encode_s),
    )


def _duration(count: int, seconds: float) -> StatisticDuration:
    return StatisticDuration(count=count, ns=int(seconds * 1e9))
