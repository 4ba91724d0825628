"""Calls about experiments."""

# ruff: noqa: N802 (methods are named as in the contract)

import asyncio

from services.registry.calls.base import Calls, Context, fence_of, page_of
from tessera.api.registry.v1 import registry_pb2 as pb


class ExperimentCalls(Calls):
    """See registry.proto for every method. Experiments are not watched."""

    async def CreateExperiment(self, request: pb.CreateExperimentRequest, context: Context) -> pb.CreateExperimentResponse:
        """Start a record."""
        experiment = await asyncio.to_thread(self._registry.experiments.create, request.experiment, fence_of(request))
        return pb.CreateExperimentResponse(experiment=experiment)

    async def LogMetrics(self, request: pb.LogMetricsRequest, context: Context) -> pb.LogMetricsResponse:
        """Add the metrics of epochs."""
        await asyncio.to_thread(self._registry.experiments.log, request.experiment_id, request.epochs, fence_of(request))
        return pb.LogMetricsResponse()

    async def FinishExperiment(self, request: pb.FinishExperimentRequest, context: Context) -> pb.FinishExperimentResponse:
        """Record how a run ended."""
        experiment = await asyncio.to_thread(
            self._registry.experiments.finish,
            request.experiment_id,
            request.state,
            metrics=request.metrics,
            error=request.error,
            version=request.version,
            fence=fence_of(request),
        )
        return pb.FinishExperimentResponse(experiment=experiment)

    async def GetExperiment(self, request: pb.GetExperimentRequest, context: Context) -> pb.GetExperimentResponse:
        """Answer an experiment with its history."""
        return pb.GetExperimentResponse(experiment=await asyncio.to_thread(self._registry.experiments.get, request.id))

    async def ListExperiments(self, request: pb.ListExperimentsRequest, context: Context) -> pb.ListExperimentsResponse:
        """Answer a page of experiments."""
        return await asyncio.to_thread(self._registry.experiments.page, page_of(request))
