"""A model of a reconstruction: one version, chosen once, that computes batch after batch as any call is computed."""

from typing import Self

import numpy as np
from numpy.typing import NDArray

from model_store.manifest import Manifest
from services.inference.calls import Prediction
from services.inference.options import CallOptions
from services.inference.patience import patiently
from services.inference.ptychography.task import kind_of, size_of
from services.inference.routing import Router
from services.inference.runtimes.runtime import Tensors
from services.inference.served import ServedModel
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.inference.v1.serving_pb2 import AnsweredBy
from tessera.errors import InvalidArgumentError
from tessera.tasks import ptychography
from tessera.tasks.ptychography.signatures import Kind, from_channels


class Model:
    """A version of a network or an engine, see `choose`.

    Args:
        router: Where it is computed.
        selector: What was asked for.
        options: The caller's wishes.
        served: What was chosen.
        field: Path of the request field that named it, for errors.

    Attributes:
        manifest: Of the version.
        kind: Network or engine.
        answered_by: Who computed, and how the last batch came about; empty before the first.
    """

    def __init__(self, router: Router, selector: ModelSelector, options: CallOptions, served: ServedModel, field: str) -> None:
        self.manifest: Manifest = served.manifest
        self.kind: Kind = kind_of(served.manifest)
        self.answered_by = AnsweredBy()
        self._router = router
        self._selector = selector
        self._pinned = ModelSelector(model=served.model, version=served.version)
        self._options = options
        self._field = field
        self._constants = served.constants

    @classmethod
    async def choose(cls, router: Router, selector: ModelSelector, options: CallOptions, field: str) -> Self:
        """Choose the version that is to compute everything, as for any call.

        Args:
            router: Where models are.
            selector: What was asked for.
            options: The caller's wishes, with a sticky key: calls with an equal one get the same version during a rollout.
            field: Path of the request field that named it, for errors.

        Raises:
            FailedPreconditionError: It is a model of another task.
            TesseraError: See `Router.begin`.
        """
        prediction = await router.begin(selector, options)
        prediction.require_task(ptychography.NAME)
        return cls(router, selector, options, prediction.served, field)

    @property
    def probe(self) -> NDArray[np.complex64] | None:
        """The probe that it was trained with, (modes, N, N); None if it has none."""
        probe = self._constants.get("probe")
        return None if probe is None else from_channels(probe)

    def require_size(self, size: int) -> None:
        """Raise InvalidArgumentError unless it is for frames of this size."""
        if size_of(self.manifest) != size:
            needed = size_of(self.manifest)
            raise InvalidArgumentError(
                f"the frames have {size} x {size} pixels; {self._pinned.model} version {self._pinned.version} is for {needed} x {needed}",
                field=self._field,
            )

    async def compute(self, inputs: Tensors) -> Tensors:
        """Return the outputs for one batch, or one step; waits while the model is busy. Raises as `Prediction.compute` does."""
        return await patiently(lambda: self._compute(inputs))

    async def _compute(self, inputs: Tensors) -> Tensors:
        with await self._begin() as prediction:
            outputs = await prediction.compute(inputs)
            answered_by = AnsweredBy()
            prediction.sign(answered_by)
        self.answered_by = answered_by
        return outputs

    async def _begin(self) -> Prediction:
        """Return a prediction of the chosen version, as part of a rollout as long as that goes on."""
        prediction = await self._router.begin(self._selector, self._options)
        if prediction.served.version == self._pinned.version:
            return prediction
        return await self._router.begin(self._pinned, self._options)  # the alias was moved meanwhile
