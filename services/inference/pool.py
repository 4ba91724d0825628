"""The versions that this server holds: what the registry's aliases point at, and a few that were asked for by number."""

import asyncio
import time
from collections.abc import Coroutine, Iterable
from copy import copy
from typing import Any, Protocol

import structlog

from services.inference.catalogue import Catalogue
from services.inference.draining import Draining
from services.inference.leases import Leases, VersionKey
from services.inference.limits import Limits, ModelLimits
from services.inference.memory import MemoryBudget
from services.inference.metrics import ALIAS_VERSION, ALIAS_WANTED_VERSION, MODEL_INFO, count_load, keep_models
from services.inference.rollouts.rollouts import AliasKey, Rollouts
from services.inference.served import ServedModel, Slot, State
from services.inference.spans import end_once_set, load_span, swap_span
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.client.calls import is_interruption, pause_s
from tessera.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    TesseraError,
    UnavailableError,
)
from tessera.names import DEFAULT_ALIAS, check_alias, check_name, shown
from tessera.rpc.status import for_callers
from tessera.telemetry import continued

log = structlog.get_logger()

LOADS_AT_ONCE = 2
"""Loading takes CPU from those that answer."""
RETRY_FAILED_S = 5.0
"""A version that failed to load on demand is not tried again for every request."""


class Loads(Protocol):
    """What loads versions; see `Loader`."""

    async def load(self, model: str, number: int) -> ServedModel:
        """Fetch, verify, load and prove a version, or raise a TesseraError."""

    async def prune(self) -> None:
        """Remove files that are not needed any more; raises nothing."""

    async def close(self) -> None:
        """End what loads versions; none is loaded any more."""


class Pool:
    """Keeps loaded what it should be, and swaps versions so that no request is lost.

    A request finds a version and enters it without giving way to anything else, and a version is unloaded only after it was taken out of
    all tables and its last user has left. All state lives on the event loop.

    Args:
        catalogue: The registry's aliases.
        loader: Loads versions.
        leases: Protects what is loaded.
        memory: What versions may take up; the pool makes room in it.
        max_on_demand: Most versions that are kept without an alias.
    """

    name = "pool"

    def __init__(self, catalogue: Catalogue, loader: Loads, leases: Leases, memory: MemoryBudget, *, max_on_demand: int) -> None:
        self._catalogue = catalogue
        self._loader = loader
        self._leases = leases
        self.memory = memory
        memory.make_room = self._make_room
        self._max_on_demand = max_on_demand
        self._slots: dict[VersionKey, Slot] = {}
        self._active: dict[AliasKey, Slot] = {}
        self._draining = Draining(leases, self._unloaded)
        self._pinned: set[VersionKey] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loading = asyncio.Semaphore(LOADS_AT_ONCE)
        self._ready = False

    async def start(self) -> None:
        """Begin to follow the registry; `check` tells when the first versions are loaded."""
        await self._loader.prune()
        self._spawn(self._follow())
        self._spawn(self._leases.keep())

    async def stop(self) -> None:
        """Stop following and unload everything. No request may be in flight."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.rollouts.stop()
        self._active.clear()
        for slot in list(self._slots.values()):
            self._retire(slot)
        await self._draining.all_gone()
        await self._loader.close()

    async def check(self) -> None:
        """Raise UnavailableError while no version can answer though the registry names some, or they are loaded for the first time."""
        if not self._catalogue.caught_up:
            raise UnavailableError("the registry has not been read yet")
        first = (slot for slot in self._slots.values() if slot.state is State.LOADING and slot.attempt == 1)
        loading = [f"{slot.model} version {slot.version}" for slot in first]
        if loading and not self._ready:
            raise UnavailableError(f"loading {', '.join(loading)}")
        self._ready = True
        interrupted = [slot for slot in self._slots.values() if slot.interruption]
        if interrupted and not self._active:
            slot = interrupted[0]
            raise UnavailableError(f"no version answers; {slot.model} version {slot.version}: {slot.interruption}")

    async def find(self, selector: ModelSelector) -> ServedModel:
        """Return the version that a request asks for; load it first if it is asked for by number.

        Enter it (`with`) before anything else is awaited.

        Raises:
            InvalidArgumentError: The selector is malformed.
            NotFoundError: No such model, version or alias; the message names those that there are.
            UnavailableError: The registry has not been reached yet, or is needed and cannot be.
            TesseraError: The version could not be loaded, for this reason.
        """
        while True:
            slot = self._by_number(selector) if selector.WhichOneof("selector") == "version" else self._by_alias(selector)
            if slot.served and slot.state is State.READY:
                return slot.served
            if slot.error:
                raise type(slot.error)(f"{slot.model} version {slot.version} cannot be served: {slot.error.message}")
            await slot.settled.wait()  # the alias may name another version by then

    async def load(self, selector: ModelSelector) -> None:
        """Return once a version is ready; one that is named by its number is kept from then on until `unload`. Raises as `find` does."""
        await self.find(selector)
        if selector.WhichOneof("selector") == "version":
            self._pinned.add((selector.model, selector.version))

    def unload(self, model: str, version: int | None = None) -> None:
        """Let go of a version, or of all versions of a model; their running requests end undisturbed.

        Raises:
            NotFoundError: It is not here.
            FailedPreconditionError: It is needed: an alias names it.
        """
        keys = {key for key in self._slots if key[0] == model and version in (None, key[1])}
        if not keys:
            raise NotFoundError(f"no such version of {shown(model)} is loaded here", field="model.model")
        pinned = self._pinned & keys
        self._pinned -= keys
        if needed := sorted(number for _, number in keys & self._needed()):
            self._pinned |= pinned
            message = f"{model} version {needed[0]} is needed here, as an alias names it; move the alias first"
            raise FailedPreconditionError(message, field="model.version")
        for slot in [self._slots[key] for key in keys]:
            slot.on_demand = False  # one that is still loading is let go of by then
        self._tidy()

    def slots(self, model: str = "") -> list[tuple[Slot, list[str]]]:
        """Return every version here, of one model or of all, with the aliases under which it answers; sorted by model and version."""
        slots: Iterable[Slot] = (*self._draining, *self._slots.values())
        chosen = sorted((slot for slot in slots if model in ("", slot.model)), key=lambda slot: (slot.model, slot.version))
        return [(slot, sorted(alias for (_, alias), active in self._active.items() if active is slot)) for slot in chosen]

    def ready(self, model: str, version: int) -> ServedModel | None:
        """Return a version if it is loaded and proven; enter it before anything is awaited."""
        slot = self._slots.get((model, version))
        return slot.served if slot and slot.state is State.READY else None

    @property
    def rollouts(self) -> Rollouts:
        """Those that go on, as the registry has them."""
        return self._catalogue.rollouts

    @property
    def limits(self) -> ModelLimits:
        """How much of this server each model may take, as the registry has it."""
        return self._catalogue.limits

    @property
    def models(self) -> set[str]:
        """Names of all models in the registry."""
        return self._catalogue.models

    @property
    def revision(self) -> int:
        """Registry revision that this server has caught up with."""
        return self._catalogue.revision

    def _by_alias(self, selector: ModelSelector) -> Slot:
        key = (selector.model, selector.alias if selector.WhichOneof("selector") else DEFAULT_ALIAS)
        if slot := self._active.get(key):
            return slot
        check_name(selector.model, "model.model")
        check_alias(key[1], "model.alias")
        if not self._catalogue.caught_up:
            raise UnavailableError("this server has not read the registry yet", retry_after_s=1.0)
        version = self._catalogue.aliases.get(key)
        if version is None:
            raise self._unknown_alias(*key)
        return self._slot(selector.model, version)

    def _by_number(self, selector: ModelSelector) -> Slot:
        slot = self._slots.get((selector.model, selector.version))
        if slot is None:
            check_name(selector.model, "model.model")
            if selector.version < 1:
                raise InvalidArgumentError(f"version {selector.version}; versions are numbered from 1", field="model.version")
        elif slot.error and not slot.failed_within(RETRY_FAILED_S):
            del self._slots[slot.model, slot.version]
        slot = self._slot(selector.model, selector.version)
        slot.on_demand = True
        slot.used = time.monotonic()
        return slot

    def _unknown_alias(self, model: str, alias: str) -> NotFoundError:
        if model not in self._catalogue.models:
            known = ", ".join(sorted(self._catalogue.models)) or "none"
            return NotFoundError(f"there is no model {model!r}; models: {known}", field="model.model")
        known = ", ".join(f"{name} (version {version})" for name, version in sorted(self._catalogue.aliases_of(model).items())) or "none"
        return NotFoundError(f"model {model} has no alias {alias!r}; aliases: {known}", field="model.alias")

    async def _follow(self) -> None:
        async for key, caller in self._catalogue.changes():
            with continued(caller):
                self._alias_changed(key)

    def _alias_changed(self, key: AliasKey) -> None:
        """Make an alias answer with the version that the registry names now, as soon as that is ready."""
        model, version = key[0], self._catalogue.aliases.get(key)
        if version is None:
            self._active.pop(key, None)
        else:
            self._forget_failure(model, version)
            with swap_span(*key, version) as span:
                slot = self._slot(model, version)
            self._spawn(end_once_set(span, slot.settled))
            if slot.state is State.READY:
                self._active[key] = slot
        if trial := self.rollouts.of(key):
            self._forget_failure(model, trial.rollout.candidate_version)
            self._slot(model, trial.rollout.candidate_version)
        self._tidy()

    def _forget_failure(self, model: str, version: int) -> None:
        slot = self._slots.get((model, version))
        if slot and slot.state is State.FAILED:
            del self._slots[model, version]

    def _slot(self, model: str, version: int) -> Slot:
        """Return the slot of a version; begin to load it if there is none."""
        slot = self._slots.get((model, version))
        if slot is None:
            slot = self._slots[model, version] = Slot(model, version)
            self._spawn(self._load(slot))
        return slot

    async def _load(self, slot: Slot) -> None:
        """Fill a slot. Whatever happens, it is settled."""
        try:
            with load_span(slot.model, slot.version):
                async with self._loading:
                    slot.settle(await self._leased(slot))
        except TesseraError as error:
            slot.settle(copy(for_callers(error)))  # without its traceback, which holds what was loaded
        except Exception as error:
            log.exception("a version could not be loaded", model=slot.model, version=slot.version)
            slot.settle(TesseraError(f"{type(error).__name__}: {error}"))
        count_load(slot.model, slot.state.value.lower(), slot.finished - slot.created)
        if slot.served:
            self._activate(slot, slot.served)
        elif slot.error:
            if slot.error.message != slot.trouble:  # not with every try
                log.error("version refused", model=slot.model, version=slot.version, reason=slot.error.message)
            self._spawn(self._loader.prune())
            if is_interruption(slot.error):
                self._spawn(self._retry(slot))
            elif isinstance(slot.error, ResourceExhaustedError):
                self.limits.follow(slot.model, self)
        self._tidy()

    def _activate(self, slot: Slot, served: ServedModel) -> None:
        """Let a version that is ready answer under every alias that names it."""
        for key, version in self._catalogue.aliases.items():
            if (key[0], version) == (slot.model, slot.version):
                self._active[key] = slot
        MODEL_INFO.labels(slot.model, slot.version, served.digest).set(1)
        log.info("version ready", model=slot.model, version=slot.version, seconds=round(slot.finished - slot.created, 3))

    async def _retry(self, slot: Slot) -> None:
        """Load a version again that only could not be reached, unless it is not needed any more."""
        await asyncio.sleep(pause_s(slot.attempt))
        key = (slot.model, slot.version)
        if self._slots.get(key) is slot and key in self._needed():
            self._load_again(slot)

    def _load_again(self, slot: Slot) -> None:
        trouble = slot.error.message if slot.error else ""
        again = Slot(slot.model, slot.version, slot.on_demand, attempt=slot.attempt + 1, trouble=trouble, created=slot.created)
        self._slots[slot.model, slot.version] = again
        self._spawn(self._load(again))

    async def _leased(self, slot: Slot) -> ServedModel:
        await self._leases.acquire(slot.model, slot.version)
        try:
            return await self._loader.load(slot.model, slot.version)
        except BaseException:
            await self._leases.release(slot.model, slot.version)
            raise

    def _tidy(self) -> None:
        """Let go of what no alias needs, but for the few that were asked for by number last."""
        needed = self._needed()
        spare = [slot for key, slot in self._slots.items() if key not in needed and slot.state is not State.LOADING]
        recent = sorted((slot for slot in spare if slot.on_demand and slot.served), key=lambda slot: -slot.last_used)[: self._max_on_demand]
        for slot in spare:
            if slot not in recent and not (slot.on_demand and slot.failed_within(RETRY_FAILED_S)):
                self._retire(slot)
        keep_models({*self._catalogue.models, *(slot.model for slot in (*self._slots.values(), *self._draining))})
        ALIAS_WANTED_VERSION.show(self._catalogue.aliases)
        ALIAS_VERSION.show({key: slot.version for key, slot in self._active.items()})

    async def _make_room(self) -> bool:
        """Unload the version that was asked for by number longest ago and is not needed, or wait for one that is being unloaded.

        Not one whose calls may wait for a load, for the reason that `Draining.next_gone` gives.
        """
        if await self._draining.next_gone():
            return True
        needed = self._needed()
        spare = [slot for key, slot in self._slots.items() if key not in needed and slot.served and not slot.served.loading]
        if not spare:
            return False
        self._retire(min(spare, key=lambda slot: slot.last_used))
        return await self._draining.next_gone()

    def _needed(self) -> set[VersionKey]:
        """Return the versions that an alias names, has on trial or still answers with, and those that a caller has asked to keep."""
        named = {(model, version) for (model, _), version in self._catalogue.aliases.items()}
        return named | self._pinned | self.rollouts.candidates() | {(slot.model, slot.version) for slot in self._active.values()}

    def _retire(self, slot: Slot) -> None:
        """Take a version out of the table, and unload it once its last request has left."""
        del self._slots[slot.model, slot.version]
        if slot.served:
            MODEL_INFO.remove(slot.model, slot.version, slot.served.digest)
            self._draining.add(slot, slot.served)

    async def _unloaded(self) -> None:
        self._retry_refused()
        await self._loader.prune()

    def apply(self, _limits: Limits) -> None:
        """Try again what was refused: the registry has changed the limits of a model."""
        self._retry_refused()

    def _retry_refused(self) -> None:
        """Load what was refused for want of memory or of disk, now that there is more of both."""
        needed = self._needed()
        for key, slot in list(self._slots.items()):
            if key in needed and isinstance(slot.error, ResourceExhaustedError):
                self._load_again(slot)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a background task failed", exc_info=error)
