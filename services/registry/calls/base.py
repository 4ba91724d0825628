"""What all calls share: threads for what blocks, the signal that wakes watchers, and readers of common request fields."""

import asyncio
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

import grpc

from services.registry.core import Registry
from services.registry.streams import Transfers
from services.registry.tokens import PageRequest
from tessera.api.common.v1 import common_pb2

P = ParamSpec("P")
T = TypeVar("T")

Context = grpc.aio.ServicerContext[Any, Any]


class Signal:
    """Wakes whoever waits for the next change of this process. Other processes' changes are found by looking now and then."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def next(self) -> asyncio.Event:
        """Return the event of the next change; taken before reading, it misses nothing."""
        return self._next

    def fire(self) -> None:
        """Say that something has changed."""
        self._next.set()
        self._next = asyncio.Event()


class Calls:
    """Base of the calls. The event loop must be running."""

    def __init__(self, registry: Registry, transfers: Transfers) -> None:
        self._registry = registry
        self._transfers = transfers
        self._signal = Signal()

    async def _change(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run something that changes what watchers see, and wake them."""
        result = await asyncio.to_thread(function, *args, **kwargs)
        self._signal.fire()
        return result


class FencedRequest(Protocol):
    """A request with an optional fence."""

    @property
    def fence(self) -> common_pb2.Fence:
        """The fence."""

    def HasField(self, field_name: Any) -> bool:  # noqa: N802
        """Tell whether a field is set."""


class ListRequest(Protocol):
    """A request for a page."""

    page_size: int
    page_token: str


def fence_of(request: FencedRequest) -> common_pb2.Fence | None:
    """Return the fence of a request, if it has one."""
    return request.fence if request.HasField("fence") else None


def page_of(request: ListRequest) -> PageRequest:
    """Return what a request says about the page it wants."""
    return PageRequest(request.page_size, request.page_token, getattr(request, "filter", ""), getattr(request, "order_by", ""))
