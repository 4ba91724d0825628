"""The registry's client: experiments."""

from collections.abc import AsyncIterator, Mapping, Sequence

from tessera.api.common.v1.common_pb2 import Fence
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.client.calls import call, pages
from tessera.client.registry_base import RegistryCalls


class ExperimentCalls(RegistryCalls):
    """Calls about training runs."""

    async def create_experiment(self, experiment: pb.Experiment, fence: Fence | None = None) -> pb.Experiment:
        """Record the start of a run; with a fence a later attempt gets the record of the first. Raises StaleFenceError."""
        request = pb.CreateExperimentRequest(experiment=experiment, fence=fence)
        response = await call(self.stub.CreateExperiment, request, timeout_s=self.timeout_s, repeatable=fence is not None)
        return response.experiment

    async def log_metrics(self, experiment_id: str, epochs: Sequence[pb.EpochMetrics], fence: Fence | None = None) -> None:
        """Add the metrics of finished epochs; the same epoch again replaces it. Raises StaleFenceError, NotFoundError."""
        request = pb.LogMetricsRequest(experiment_id=experiment_id, epochs=epochs, fence=fence)
        await call(self.stub.LogMetrics, request, timeout_s=self.timeout_s, repeatable=True)

    async def finish_experiment(
        self,
        experiment_id: str,
        state: "pb.ExperimentState.ValueType",
        *,
        metrics: Mapping[str, float] | None = None,
        error: str = "",
        version: int = 0,
        fence: Fence | None = None,
    ) -> pb.Experiment:
        """Record how a run ended. Raises StaleFenceError, NotFoundError."""
        request = pb.FinishExperimentRequest(
            experiment_id=experiment_id, state=state, metrics=metrics, error=error, version=version, fence=fence
        )
        return (await call(self.stub.FinishExperiment, request, timeout_s=self.timeout_s, repeatable=True)).experiment

    async def get_experiment(self, experiment_id: str) -> pb.Experiment:
        """Return a run with its metrics per epoch. Raises NotFoundError."""
        request = pb.GetExperimentRequest(id=experiment_id)
        return (await call(self.stub.GetExperiment, request, timeout_s=self.timeout_s)).experiment

    async def list_experiments(self, filter: str = "", order_by: str = "") -> AsyncIterator[pb.Experiment]:  # noqa: A002
        """Yield runs without their metrics per epoch; filter and order as described at `ListExperimentsRequest`."""

        async def fetch(token: str) -> pb.ListExperimentsResponse:
            request = pb.ListExperimentsRequest(filter=filter, order_by=order_by, page_token=token)
            return await call(self.stub.ListExperiments, request, timeout_s=self.timeout_s)

        async for page in pages(fetch):
            for experiment in page.experiments:
                yield experiment
