"""Keeps one process alive: starts it, watches its health, starts it again when it dies, stops it in the end."""

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from tessera.errors import FailedPreconditionError, TesseraError
from tessera.log_files import bound_log, log_tail
from tessera.restarts import Restarts
from tessera.stack.program import Program

DIE_WITH_PARENT = Path(__file__).with_name("die_with_parent.py")
HEALTH_INTERVAL_S = 1.0
START_INTERVAL_S = 0.1
STOP_GRACE_S = 8.0
START_ATTEMPTS = 3
LOG_LIMIT_BYTES = 16 * 1024 * 1024
TAIL_BYTES = 2000


class State(StrEnum):
    """Where a process stands."""

    WAITING = "waiting"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    RESTARTING = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


class Keeper:
    """Keeps the process of one program alive.

    Args:
        program: What to run.
        log_file: Where its output goes.
        on_change: Called after every change of `state`.
    """

    def __init__(self, program: Program, log_file: Path, on_change: Callable[[], None]) -> None:
        self.program = program
        self.log_file = log_file
        self.state = State.WAITING
        self.pid: int | None = None
        self.restarts = 0
        self.ready = asyncio.Event()
        """Set once the process has been healthy for the first time."""
        self._on_change = on_change

    async def keep(self) -> None:
        """Run the process until cancelled; it is gone when this returns.

        Raises:
            FailedPreconditionError: It ended several times without ever becoming healthy; the message holds the end of its log.
        """
        attempts = Restarts()
        try:
            while True:
                attempts.started()
                code = await self._run_once()
                pause_s = attempts.ended()
                if not self.ready.is_set() and attempts.failures >= START_ATTEMPTS:
                    self._set(State.FAILED)
                    raise FailedPreconditionError(
                        f"{self.program.name} does not start (exit code {code}). The end of {self.log_file}:\n{self.log_tail()}"
                    )
                self.restarts += 1
                self._set(State.RESTARTING)
                await asyncio.sleep(pause_s)
        except asyncio.CancelledError:
            self._set(State.STOPPED)
            raise

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        return log_tail(self.log_file, TAIL_BYTES)

    async def _run_once(self) -> int:
        process = await self._spawn()
        self.pid = process.pid
        self._set(State.STARTING)
        followers = [asyncio.create_task(self._follow_health()), asyncio.create_task(self._bound_log())]
        try:
            return await process.wait()
        finally:
            for task in followers:
                task.cancel()
            await _end(process)
            self.pid = None

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self.log_file.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(DIE_WITH_PARENT), str(os.getpid()), *self.program.command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.program.env},
                start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor alone, which then stops all in order
            )

    async def _follow_health(self) -> None:
        while True:
            try:
                await self.program.check()
            except TesseraError:
                if self.state is State.HEALTHY:
                    self._set(State.UNHEALTHY)
            else:
                self.ready.set()
                if self.state is not State.HEALTHY:
                    self._set(State.HEALTHY)
            await asyncio.sleep(HEALTH_INTERVAL_S if self.ready.is_set() else START_INTERVAL_S)

    async def _bound_log(self) -> None:
        while True:
            with suppress(OSError):  # a full disk; the log was emptied all the same
                await asyncio.to_thread(bound_log, self.log_file, LOG_LIMIT_BYTES)
            await asyncio.sleep(HEALTH_INTERVAL_S)

    def _set(self, state: State) -> None:
        self.state = state
        self._on_change()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_GRACE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
