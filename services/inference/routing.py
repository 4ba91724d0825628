"""Which version answers a call."""

from services.inference.calls import Prediction, Watcher
from services.inference.options import CallOptions
from services.inference.pool import Pool
from tessera.api.common.v1.common_pb2 import ModelSelector


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
        """Return a prediction of the version that shall answer. Enter it (`with`) before anything else is awaited.

        Raises:
            TesseraError: See `Pool.find`.
        """
        return Prediction(await self._pool.find(selector), options, self._watchers)
