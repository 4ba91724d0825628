"""TorchServe as the work of a process: started, started again when it ends, ended on SIGTERM. Its log goes to standard output."""

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from services.inference.torchserve.client import Client
from services.inference.torchserve.configuration import Configuration
from services.inference.torchserve.keys import Keys
from services.inference.torchserve.settings import ForegroundSettings
from tessera.blob_files import disk_errors
from tessera.errors import TesseraError, UnavailableError
from tessera.restarts import Restarts
from tessera.stack import die_with_parent

log = structlog.get_logger()


class ForegroundTorchServe:
    """A TorchServe that others dial.

    Args:
        settings: Where it listens, and its directory.

    Raises:
        FailedPreconditionError: TorchServe or Java is not installed.
    """

    name = "torchserve"

    def __init__(self, settings: ForegroundSettings) -> None:
        self._threads = settings.threads
        self._configuration = Configuration(
            settings.directory,
            settings.inference_port,
            settings.management_port,
            (settings.http_inference_port, settings.http_management_port),
            host=settings.host,
        )
        self._client = Client(*self._configuration.addresses, Keys(self._configuration.key_file))
        self._running = False

    async def start(self) -> None:
        """Begin to start it; `check` tells when it answers."""
        self._keeping = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End it and its workers at once: what they compute, its callers ask for again."""
        self._keeping.cancel()
        with suppress(asyncio.CancelledError):
            await self._keeping
        self._client.close()

    async def check(self) -> None:
        """Raise UnavailableError unless both APIs answer."""
        if not self._running:
            raise UnavailableError("TorchServe is being started")
        await asyncio.to_thread(self._client.ping)

    async def _keep(self) -> None:
        restarts = Restarts()
        while True:
            restarts.started()
            try:
                with disk_errors(), _alone_in(self._configuration.directory):
                    code = await self._run()
                log.error("TorchServe has ended; it is started again", exit_code=code)
            except TesseraError as error:
                log.error("TorchServe cannot start; it is tried again", reason=error.message)
            await asyncio.sleep(restarts.ended())

    async def _run(self) -> int:
        """Start it, and return its exit code once it has ended."""
        self._configuration.write()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), *self._configuration.command()),
            cwd=self._configuration.directory,
            env=self._configuration.environment(self._threads),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # its workers are in its group, and end with it
        )
        self._running = True
        try:
            return await process.wait()
        finally:
            self._running = False
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            await asyncio.to_thread(_reap, process.pid)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Keep a directory for this process, which frees it even if it is killed; UnavailableError if another has it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UnavailableError(f"another TorchServe runs in {directory}") from error
    finally:
        os.close(descriptor)


def _reap(group: int) -> None:
    """Wait for the killed processes of a group that have become our children: the first process of a container inherits orphans."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)
