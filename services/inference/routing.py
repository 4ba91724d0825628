"""Which version answers a call."""

from functools import partial

from services.inference.calls import Prediction, Watcher
from services.inference.options import CallOptions
from services.inference.pool import Pool
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.names import DEFAULT_ALIAS


class Router:
    """Chooses the version for each call.

    Args:
        pool: Where versions are.
        watchers: Are told how every call ended.
    """

    def __init__(self, pool: Pool, watchers: tuple[Watcher, ...] = ()) -> None:
        self._pool = pool
        self._watchers = watchers

    async def begin(self, selector: ModelSelector, options: CallOptions) -> Prediction:
        """Return a prediction of the version that shall answer: the one that is asked for by number, else the one that the alias points
        at or, for its share of the calls, the one that has a rollout there and is ready. Enter it (`with`) before anything else is awaited.

        Raises:
            TesseraError: See `Pool.find`.
        """
        served = await self._pool.find(selector)
        trial = self._pool.rollouts.of((selector.model, selector.alias or DEFAULT_ALIAS))
        if trial is None or selector.WhichOneof("selector") == "version":
            return Prediction(served, options, self._watchers)
        ready = partial(self._pool.ready, selector.model, trial.rollout.candidate_version)
        candidate = ready()
        if candidate and candidate.carries(options.runtime) and trial.chooses_candidate(options.sticky_key):
            return Prediction(candidate, options, (*self._watchers, trial.watch_candidate))
        return Prediction(served, options, (*self._watchers, trial.watch_stable(ready)))
