"""One TorchServe process of our own: started, watched, ended, together with its Python workers."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from services.inference.torchserve.client import Client
from services.inference.torchserve.configuration import Configuration
from services.inference.torchserve.keys import Keys
from tessera.errors import TesseraError, UnavailableError
from tessera.log_files import bound_log, log_tail
from tessera.stack import die_with_parent

POLL_S = 0.1
LOG_LIMIT_BYTES = 16 * 1024 * 1024
TAIL_BYTES = 1000
_PREFIX = "tessera-torchserve-"


class TorchServeProcess:
    """TorchServe as a child process. The kernel kills it when the thread that started it ends, so that thread must live on.

    Args:
        log_file: Where its output goes.
        threads: Threads that a worker may use.
        start_timeout_s: Seconds that it may take to start.
        configure: Makes its configuration, anew for each start.
    """

    local = True
    owner = "embedded"

    def __init__(
        self,
        log_file: Path,
        *,
        threads: int,
        start_timeout_s: float,
        configure: Callable[[Path], Configuration] = Configuration.on_free_ports,
    ) -> None:
        self._log_file = log_file
        self._threads = threads
        self._start_timeout_s = start_timeout_s
        self._configure = configure
        self._directory = OwnDirectory()
        self._process: subprocess.Popen[bytes] | None = None
        self.model_store = self._directory.path / "store"
        self.model_store.mkdir(mode=0o700)

    def start(self) -> Client:
        """Start it and return once it answers.

        Raises:
            FailedPreconditionError: TorchServe or Java is not installed.
            UnavailableError: It does not start; the message holds the end of its log.
        """
        configuration = self._configure(self._directory.path)
        configuration.write()
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), *configuration.command()],
                cwd=configuration.directory,
                env=configuration.environment(self._threads),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # its workers are in its group, and end with it
            )
        client = Client(*configuration.addresses, Keys(configuration.key_file), configuration.max_message_bytes)
        try:
            self._await_answer(client)
        except BaseException:
            client.close()
            raise
        return client

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process else None

    def check(self) -> None:
        """Raise UnavailableError if the process has ended; keep its log small."""
        if self._process is None or self._process.poll() is not None:
            raise UnavailableError("TorchServe has ended")
        with suppress(OSError):  # a full disk; the log was emptied all the same
            bound_log(self._log_file, LOG_LIMIT_BYTES)

    def stop(self) -> None:
        """End it and its workers at once: nothing of theirs is worth keeping."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End it and remove its files."""
        self.stop()
        self._directory.remove()

    def _await_answer(self, client: Client) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while True:
            try:
                self.check()
            except UnavailableError:
                raise UnavailableError(f"TorchServe does not start; the end of its log:\n{log_tail(self._log_file, TAIL_BYTES)}") from None
            try:
                return client.ping()
            except TesseraError as error:
                if time.monotonic() > deadline:
                    raise UnavailableError(f"TorchServe does not answer after {self._start_timeout_s:g} s: {error.message}") from error
            time.sleep(POLL_S)


class OwnDirectory:
    """A temporary directory that only we can read; what killed processes left of theirs is removed when a new one is made.

    It lies where temporary files do because the path of a socket may have 108 characters only.
    """

    def __init__(self) -> None:
        for leftover in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
            self._remove_unused(leftover)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    @staticmethod
    def _remove_unused(path: Path) -> None:
        try:
            if path.stat().st_uid != os.getuid():
                return
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # removed meanwhile
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:  # of a process that lives
            pass
        finally:
            os.close(descriptor)
