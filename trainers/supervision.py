"""One training as a child process: started, listened to, killed when it is silent for too long, and never left behind."""

import asyncio
import json
import os
import signal
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from tessera.log_files import bound_log, log_tail

OUTPUT = "output.log"
"""What the child prints, in the attempt's directory."""
OUTPUT_LIMIT_BYTES = 16 * 2**20
"""What is printed beyond this replaces what was printed before it."""

_LONGEST_LINE = 2**20
_LONGEST_ERROR = 2000
_LAST_WORDS_S = 5.0

log = structlog.get_logger()
Message = dict[str, Any]


@dataclass(frozen=True)
class Ending:
    """How a child ended."""

    error: str = ""
    """Why it failed; empty if it has done its work."""
    permanent: bool = False
    """Whether another attempt would end the same way."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the finished network."""


async def supervise(
    command: Sequence[str], directory: Path, on_message: Callable[[Message], None], *, stall_timeout_s: float, stop_grace_s: float
) -> Ending:
    """Run a child in the directory of an attempt until it ends, and tell how.

    The child gets its own process group. When it has ended, whatever it left of that group is killed. Cancelling this call stops it:
    SIGTERM, and SIGKILL after `stop_grace_s`.

    Args:
        command: Program and arguments; the directory and `--progress-fd N` are added.
        directory: Of the attempt.
        on_message: Called with every message that the child sends.
        stall_timeout_s: The child is killed when it sends nothing for this long, seconds.
        stop_grace_s: Time that it gets to stop by itself, seconds.

    Raises:
        OSError: The program cannot be started.
    """
    read_fd, write_fd = os.pipe()
    try:
        process = await _start([*command, str(directory), "--progress-fd", str(write_fd)], directory / OUTPUT, write_fd)
    except BaseException:
        os.close(read_fd)
        raise
    finally:
        os.close(write_fd)
    pipe = os.fdopen(read_fd, "rb", buffering=0)
    child = _Child(process, on_message, directory / OUTPUT)
    listening = asyncio.create_task(child.listen(pipe))
    try:
        stalled = await child.wait(stall_timeout_s)
        _signal_group(process, signal.SIGKILL)  # what it left behind holds the pipe open
        with suppress(TimeoutError):
            await asyncio.wait_for(listening, _LAST_WORDS_S)
    except asyncio.CancelledError:
        await _stop(process, stop_grace_s)
        raise
    finally:
        listening.cancel()
        await asyncio.wait({listening})
        pipe.close()
    if stalled:
        return Ending(error=f"gave no sign of life for {stall_timeout_s:g} s and was killed")
    return _ending(process.returncode or 0, child.last, directory / OUTPUT)


class _Child:
    """A running child and what was heard of it."""

    def __init__(self, process: Process, on_message: Callable[[Message], None], output: Path) -> None:
        self.last: Message = {}  # its last word, if it was one: "done" or "error"
        self._output = output
        self._process = process
        self._on_message = on_message
        self._heard_s = time.monotonic()

    async def wait(self, stall_timeout_s: float) -> bool:
        """Wait until the child has ended; kill it when it is silent for too long, and answer True then."""
        ended = asyncio.create_task(self._process.wait())
        try:
            while not ended.done():
                silence_s = time.monotonic() - self._heard_s
                if silence_s >= stall_timeout_s:
                    _signal_group(self._process, signal.SIGKILL)
                    await ended
                    return True
                await asyncio.wait({ended}, timeout=stall_timeout_s - silence_s)
            return False
        finally:
            ended.cancel()

    async def listen(self, pipe: Any) -> None:
        """Hand on every message until nobody holds the other end of the pipe."""
        reader = asyncio.StreamReader(limit=_LONGEST_LINE)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            while True:
                try:
                    line = await reader.readline()
                except ValueError:
                    log.warning("the child sent a line that is too long", limit=_LONGEST_LINE)
                    continue
                if not line:
                    return
                self._heard_s = time.monotonic()
                with suppress(OSError):  # a full disk; the output was emptied all the same
                    bound_log(self._output, OUTPUT_LIMIT_BYTES)
                self._take(line)
        finally:
            transport.close()

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
            kind = message["type"]
        except (ValueError, TypeError, KeyError):
            log.warning("the child sent a line that is no message", line=line[:200].decode(errors="replace"))
            return
        if kind in ("done", "error"):
            self.last = message
        self._on_message(message)


async def _start(command: Sequence[str], output: Path, write_fd: int) -> Process:
    with output.open("ab") as file:
        return await asyncio.create_subprocess_exec(
            *command, stdin=DEVNULL, stdout=file, stderr=file, pass_fds=(write_fd,), start_new_session=True
        )


async def _stop(process: Process, grace_s: float) -> None:
    """End a child and its group, and wait until it has ended."""
    _signal_group(process, signal.SIGTERM)
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), grace_s)
    _signal_group(process, signal.SIGKILL)
    await process.wait()


def _signal_group(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _ending(code: int, last: Message, output: Path) -> Ending:
    """Return what an exit code and the last word mean together."""
    if last.get("type") == "error":
        message = str(last.get("message", ""))[:_LONGEST_ERROR]
        return Ending(error=message or "failed without a reason", permanent=last.get("permanent") is True)
    if code == 0 and last.get("type") == "done":
        return Ending(metrics=numbers(last.get("metrics")))
    if code < 0:
        how = f"was killed by {_signal_name(-code)}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
    else:
        how = f"exited with code {code} and did not say why"
    printed = _last_line(output)
    return Ending(error=f"the training process {how}" + (f"; it last printed: {printed}" if printed else ""))


def numbers(values: object) -> dict[str, float]:
    """Return what is a number of a mapping that a child sent."""
    if not isinstance(values, dict):
        return {}
    return {str(name): float(value) for name, value in values.items() if isinstance(value, int | float)}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_line(output: Path) -> str:
    lines = log_tail(output, 4096).split("\n")
    return lines[-1].strip()[:300]
