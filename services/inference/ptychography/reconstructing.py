"""One reconstruction from beginning to end, for a caller who waits as for the queue."""

import uuid
from dataclasses import replace

from services.inference.limits import ModelLimits
from services.inference.options import CallOptions
from services.inference.ptychography.course import Course
from services.inference.ptychography.listener import Listener
from services.inference.ptychography.models import Model
from services.inference.ptychography.plan import Plan
from services.inference.ptychography.result import Result
from services.inference.ptychography.source import Source
from services.inference.routing import Router
from tessera.errors import InvalidArgumentError


class Reconstructor:
    """Reconstructs scans.

    Args:
        router: Where models are computed.
        limits: How many rows go into a batch of each model.
    """

    def __init__(self, router: Router, limits: ModelLimits) -> None:
        self._router = router
        self._limits = limits

    async def reconstruct(self, plan: Plan, options: CallOptions, source: Source, listener: Listener) -> Result:
        """Reconstruct a scan; each model is computed by one version from beginning to end.

        Args:
            plan: What to do.
            options: The caller's wishes, with the deadline of the whole.
            source: The frames.
            listener: Is told how far it is.

        Raises:
            InvalidArgumentError: The scan is not fit for the plan.
            FailedPreconditionError: A model is not what the plan needs.
            TesseraError: See `Source.wait`, `Router.begin`, `Prediction.compute` and `Listener.progressed`; ResourceExhaustedError of a
                busy model only after a while.
        """
        options = replace(options, sticky_key=options.sticky_key or uuid.uuid4().hex)
        network, engine = await self._models(plan, options)
        await source.wait(0)
        return await Course(plan, source, listener, network, engine).run(self._limits.of(plan.model.model).max_batch)

    async def _models(self, plan: Plan, options: CallOptions) -> tuple[Model | None, Model | None]:
        """Return the network and the engine of a plan."""
        first = await Model.choose(self._router, plan.model, options, "plan.model")
        if plan.refine_with is None:
            return (first, None) if first.kind == "network" else (None, first)
        if first.kind != "network":
            message = f"{plan.model.model} is an engine, which begins by itself; refine_with goes on from what a network found"
            raise InvalidArgumentError(message, field="plan.model")
        second = await Model.choose(self._router, plan.refine_with, options, "plan.refine_with")
        if second.kind != "engine":
            raise InvalidArgumentError(f"{plan.refine_with.model} is a network; refine_with names an engine", field="plan.refine_with")
        return first, second
