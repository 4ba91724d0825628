"""Keeps libraries from telling what is no news here. Everything not named below is still told."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_QUIET_LOGGERS = {
    # Tells at every start which accelerators there are not.
    "lightning.pytorch": logging.WARNING,
    "lightning.pytorch.utilities.rank_zero": logging.WARNING,
    # Warns once for each torchvision operator that torchvision is not installed; nothing here uses it.
    "torch.onnx._internal.exporter._registration": logging.ERROR,
}
_QUIET_WARNINGS = (
    # Examples lie in memory already; worker processes would only copy them around.
    ".*does not have many workers.*",
    # Small puzzles have fewer steps an epoch than the logging interval.
    "The number of training batches .* is smaller than the logging interval",
    # torch 2.13 declares a class old that Lightning and torch.export themselves still use.
    ".*LeafSpec.* is deprecated",
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the loggers and warnings above while the block runs."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for message in _QUIET_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        for name, level in _QUIET_LOGGERS.items():
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(level)
        yield
