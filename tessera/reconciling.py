"""Brings the world in line with a database, again and again: what the rows say shall be elsewhere too.

Every pass looks at the rows and does what is missing, so that a crash or a server that was away is made good by the next pass.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog

from tessera.errors import TesseraError

log = structlog.get_logger()

Step = Callable[[], Awaitable[None]]


class Reconciler:
    """A component that makes passes; derive from it and list the steps.

    Args:
        prepare: Makes sure that the rows can be looked at; a pass begins only after that.
        interval_s: Time between two passes, seconds.
    """

    name = "reconciler"

    def __init__(self, prepare: Step, interval_s: float) -> None:
        self._prepare = prepare
        self._interval_s = interval_s
        self._wake = asyncio.Event()
        self._failing: set[str] = set()
        self._stopping = False
        self._loop: asyncio.Task[None] | None = None

    def steps(self) -> Sequence[Step]:
        """Return what a pass consists of; doing a step twice does no harm."""
        return ()

    async def start(self) -> None:
        """Begin the passes."""
        self._loop = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End them; what is left is done after the next start."""
        self._stopping = True
        self._wake.set()
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait({self._loop})

    async def check(self) -> None:
        """Return always: what cannot be done now is done later."""

    def wake(self) -> None:
        """Ask for a pass now; call it after a change."""
        self._wake.set()

    async def reconcile(self) -> None:
        """Make one pass. A step that fails is logged and tried again with the next pass; the others go on."""
        if not await self._attempt(self._prepare):
            return
        for step in self.steps():
            if not self._stopping:
                await self._attempt(step)

    async def _run(self) -> None:
        # A library may swallow the one CancelledError that `stop` sends while it opens a connection, hence the flag.
        while not self._stopping:
            self._wake.clear()
            await self.reconcile()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._wake.wait()

    async def _attempt(self, step: Step) -> bool:
        """Make a step and tell whether it succeeded."""
        name = getattr(step, "__name__", str(step)).strip("_")
        try:
            await step()
        except TesseraError as error:
            if name not in self._failing:  # once, not with every pass
                log.warning("cannot do this now, will try again", step=name, reason=error.message)
            self._failing.add(name)
        except Exception:
            log.exception("a step failed, will try again", step=name)
        else:
            if name in self._failing:
                log.info("can do this again", step=name)
            self._failing.discard(name)
            return True
        return False
