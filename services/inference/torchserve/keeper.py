"""Keeps a TorchServe alive, and in it the models that shall be there, whatever dies."""

import os
import threading
import time
from pathlib import Path
from typing import Protocol

import structlog

from services.inference.metrics import TORCHSERVE_MODELS
from services.inference.torchserve.client import Client
from services.inference.torchserve.settings import TorchServeSettings
from services.inference.torchserve.statuses import RETRY_AFTER_S
from tessera.errors import DeadlineExceededError, NotFoundError, TesseraError, UnavailableError
from tessera.restarts import Restarts

log = structlog.get_logger()

WATCH_S = 0.5
DOUBT_S = 1.0
"""TorchServe calls a worker READY for a quarter of a second after its death, so its word counts again only after this time."""
RETRY_REFUSED_S = 10.0
"""A model that worked before and that TorchServe does not take any more is not tried at every look."""


class Backend(Protocol):
    """A TorchServe: our own process, or one that is dialled. Used by one thread."""

    model_store: Path
    owner: str
    """Part of the names of all that is registered."""
    local: bool
    """Whether its processes are on this machine."""

    def start(self) -> Client:
        """Start or reach it; a TesseraError says why that is not possible."""

    def check(self) -> None:
        """Raise a TesseraError if it is gone."""

    def stop(self) -> None:
        """End what `start` began; it may be called again then."""

    def close(self) -> None:
        """End it for good."""


class Registration:
    """A model that shall be in TorchServe.

    Args:
        name: Unique; TorchServe never sees it again.
        workers: Python workers.
    """

    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self.archive = f"{name}.mar"
        """File name in the model store."""
        self.workers = workers
        self.registered = False
        self.unwanted = False
        self.ready = threading.Event()
        self.settled = threading.Event()
        """Set once it was ready for the first time, has failed, or is gone."""
        self.error: TesseraError | None = None
        self.pids: list[int] = []
        """Of the workers that were ready when it was looked at last."""
        self.lost_at = 0.0
        self.look_at = 0.0
        """When to look after it again, on the clock of `time.monotonic`."""

    def lose(self, look_after_s: float = 0.0) -> None:
        """It cannot compute; look after it again after so many seconds."""
        now = time.monotonic()
        if self.ready.is_set():
            self.lost_at = now
            self.ready.clear()
        self.look_at = now + look_after_s

    def settle(self, error: TesseraError | None = None) -> None:
        """Tell whoever waits how it ended."""
        self.error = error
        self.settled.set()


class Keeper:
    """A thread that starts TorchServe, registers models, and does both again when TorchServe or a worker dies.

    All management calls are made in that thread, so they are never at odds; predictions are made by many.

    Args:
        backend: The TorchServe; closed with this object.
        settings: Timeouts.
    """

    def __init__(self, backend: Backend, settings: TorchServeSettings) -> None:
        self._backend = backend
        self._settings = settings
        self._client: Client | None = None
        self._registrations: list[Registration] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        # The thread that starts TorchServe must live as long as that may: the kernel ties the one to the other.
        self._thread = threading.Thread(target=self._run, name="torchserve", daemon=True)
        self._thread.start()

    @property
    def model_store(self) -> Path:
        """Where archives go."""
        return self._backend.model_store

    @property
    def owner(self) -> str:
        """Whose registrations these are."""
        return self._backend.owner

    def add(self, registration: Registration) -> None:
        """Register a model and return when its workers are ready.

        Raises:
            FailedPreconditionError: The worker cannot load the graph, or TorchServe is not installed.
            UnavailableError: TorchServe does not start, or cannot be reached.
        """
        with self._lock:
            self._registrations.append(registration)
        self._wake.set()
        registration.settled.wait()
        if registration.error:
            raise registration.error

    def remove(self, registration: Registration) -> None:
        """Unregister a model; returns when TorchServe has forgotten it or is gone itself."""
        registration.settled.clear()
        registration.unwanted = True
        self._wake.set()
        registration.settled.wait()

    def predict(self, registration: Registration, tensors: bytes) -> bytes:
        """Compute one batch; see `Client.predict`.

        Raises:
            UnavailableError: TorchServe or the model's worker is gone; they are being started again.
        """
        client = self._client
        # A request to a dead worker would wait in TorchServe until another one has started.
        if registration.ready.is_set() and self._backend.local and not all(_lives(pid) for pid in registration.pids):
            registration.lose(DOUBT_S)
            self._wake.set()
        if client is None or not registration.ready.is_set():
            raise UnavailableError(f"TorchServe has no worker for {registration.name} now; one is starting", retry_after_s=RETRY_AFTER_S)
        try:
            return client.predict(registration.name, tensors, self._settings.response_timeout_s)
        except (UnavailableError, NotFoundError, DeadlineExceededError) as error:
            registration.lose(DOUBT_S)
            self._wake.set()
            if isinstance(error, DeadlineExceededError):
                raise
            raise UnavailableError(error.message, retry_after_s=RETRY_AFTER_S) from error

    def close(self) -> None:
        """End TorchServe."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        restarts = Restarts()
        while not self._stopping:
            restarts.started()
            try:
                client = self._backend.start()
                log.info("TorchServe answers", seconds=round(time.monotonic() - restarts.started_at, 1))
                self._watch(client)
            except TesseraError as error:
                log.warning("TorchServe is not there; it is tried again", reason=error.message)
                self._lose(error)
            except Exception as error:
                log.exception("the thread that keeps TorchServe has failed; it goes on")
                self._lose(TesseraError(f"{type(error).__name__}: {error}"))
            finally:
                self._client = None
                self._count()
                self._backend.stop()
            pause_s = restarts.ended()
            if not self._stopping:
                self._wake.wait(pause_s if self._all() else None)  # nobody needs it now
                self._wake.clear()
        self._backend.close()
        self._lose(UnavailableError("the server is stopping"))

    def _watch(self, client: Client) -> None:
        """Look after everything until TorchServe is gone, which raises a TesseraError, or it is time to stop."""
        self._client = client
        while not self._stopping:
            self._wake.clear()
            self._backend.check()
            for registration in self._all():
                self._look_after(client, registration)
            self._count()
            self._wake.wait(WATCH_S)

    def _look_after(self, client: Client, registration: Registration) -> None:
        if registration.unwanted:
            if registration.registered:
                self._unregister(client, registration)
            self._forget(registration)
        elif time.monotonic() < registration.look_at:
            return
        elif registration.registered:
            self._check(client, registration)
        else:
            self._register(client, registration)

    def _register(self, client: Client, registration: Registration) -> None:
        try:
            client.register(
                registration.name,
                registration.archive,
                workers=registration.workers,
                response_timeout_s=self._settings.response_timeout_s,
                startup_timeout_s=self._settings.start_timeout_s,
            )
        except (UnavailableError, DeadlineExceededError):
            raise
        except TesseraError as error:
            self._refuse(registration, error)
            return
        registration.registered = True
        self._check(client, registration)

    def _refuse(self, registration: Registration, error: TesseraError) -> None:
        """TorchServe does not take a model: tell whoever waits for it; one that worked before is tried again after a while."""
        log.error("TorchServe does not take a model", model=registration.name, reason=error.message)
        if registration.settled.is_set():
            registration.lose(RETRY_REFUSED_S)
        else:
            self._forget(registration, error)

    def _check(self, client: Client, registration: Registration) -> None:
        """Write down whether the model can compute. A worker that died is started again by TorchServe itself."""
        try:
            ready = client.ready_workers(registration.name)
        except NotFoundError:  # somebody unregistered it
            registration.registered = False
            ready = []
        if not ready:
            self._give_up(client, registration)
            return
        registration.pids = ready
        if not registration.ready.is_set():
            log.info("TorchServe has the model", model=registration.name, workers=len(ready))
            registration.ready.set()
            registration.settle()

    def _give_up(self, client: Client, registration: Registration) -> None:
        """Register a model anew whose worker TorchServe does not bring back in the time that a start may take."""
        if registration.ready.is_set():
            registration.lose()
        elif registration.registered and time.monotonic() - registration.lost_at > self._settings.start_timeout_s:
            self._unregister(client, registration)
            registration.registered = False

    def _unregister(self, client: Client, registration: Registration) -> None:
        try:
            client.unregister(registration.name)
        except NotFoundError:  # that is what was wanted
            log.debug("TorchServe did not have the model", model=registration.name)
        except (UnavailableError, DeadlineExceededError):
            raise
        except TesseraError as error:  # no reason to give up TorchServe and all that it computes
            log.warning("TorchServe does not let go of a model", model=registration.name, reason=error.message)

    def _lose(self, error: TesseraError) -> None:
        """TorchServe is gone: its models are to be registered again; whoever waits for the first time is told."""
        for registration in self._all():
            registration.registered = False
            registration.lose()
            if registration.unwanted:
                self._forget(registration)
            elif not registration.settled.is_set():
                self._forget(registration, error)

    def _forget(self, registration: Registration, error: TesseraError | None = None) -> None:
        with self._lock:
            self._registrations.remove(registration)
        registration.settle(error)

    def _count(self) -> None:
        registrations = self._all()
        ready = sum(registration.ready.is_set() for registration in registrations)
        TORCHSERVE_MODELS.labels("ready").set(ready)
        TORCHSERVE_MODELS.labels("waiting").set(len(registrations) - ready)

    def _all(self) -> list[Registration]:
        with self._lock:
            return list(self._registrations)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
