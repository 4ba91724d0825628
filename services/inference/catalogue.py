"""What the registry's aliases point at, and their rollouts, followed without a gap."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from types import MappingProxyType

import structlog

from services.inference.limits import ModelLimits
from services.inference.metrics import REGISTRY_REVISION
from services.inference.rollouts.rollouts import AliasKey, Rollouts
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.client.calls import call, pages, pause_s
from tessera.client.registry import RegistryClient
from tessera.errors import FailedPreconditionError, TesseraError

log = structlog.get_logger()

Carrier = Mapping[str, str]
"""Carries the context of a trace; see `tessera.telemetry`."""
NO_TRACE: Carrier = MappingProxyType({})


class Catalogue:
    """A copy of the registry's aliases, kept up to date.

    It is made from a list of all models and then from the registry's events after the revision of that list. While the registry is away
    it stays what it was, and catches up afterwards.

    Args:
        registry: Where aliases are kept.
        limits: Are told what the registry says of each model.
        rollouts: Are told what the registry says of each rollout.
    """

    def __init__(self, registry: RegistryClient, limits: ModelLimits, rollouts: Rollouts) -> None:
        self._registry = registry
        self.limits = limits
        self.rollouts = rollouts
        self.aliases: dict[AliasKey, int] = {}
        self.models: set[str] = set()
        self.revision = 0
        self.caught_up = False
        self._consistent = False
        self._changed: dict[AliasKey, Carrier] = {}

    def aliases_of(self, model: str) -> dict[str, int]:
        """Return the aliases of a model with their versions."""
        return {alias: version for (name, alias), version in self.aliases.items() if name == model}

    async def changes(self) -> AsyncGenerator[tuple[AliasKey, Carrier], None]:
        """Yield every alias once the copy is complete, and then each one that moves or whose rollout changes; for ever.

        With an alias comes the trace of the call that has changed it, if that is known.
        """
        failures, told = 0, ""
        while True:
            try:
                if not self.revision:
                    await self._list()
                async with aclosing(self._registry.watch(self.revision)) as messages:
                    async for message in messages:
                        failures, told = 0, ""
                        self._apply(message)
                        while self._consistent and self._changed:
                            yield self._changed.popitem()
            except FailedPreconditionError as error:  # it was restored from a backup, and has not seen yet what we have
                log.warning("the registry has gone back in time, reading all of it again", reason=error.message)
                self.revision = 0
            except TesseraError as error:
                failures += 1
                if error.message != told:  # not with every try
                    log.warning("cannot follow the registry, trying again", reason=error.message)
                told = error.message
            except Exception:  # whatever it is, what is loaded goes on answering
                failures += 1
                log.exception("cannot follow the registry, trying again")
            await asyncio.sleep(pause_s(max(1, failures)))

    async def _list(self) -> None:
        """Copy all models. Only the events after the first page's revision make the copy consistent, as models change between pages."""

        async def fetch(token: str) -> pb.ListModelsResponse:
            request = pb.ListModelsRequest(page_size=1000, page_token=token)
            return await call(self._registry.stub.ListModels, request, timeout_s=self._registry.timeout_s)

        listed = [page async for page in pages(fetch)]
        models = [model for page in listed for model in page.models]
        aliases = {(model.name, alias): version for model in models for alias, version in model.aliases.items()}
        rollouts = self.rollouts.replace(rollout for model in models for rollout in model.rollouts)
        self._changed |= dict.fromkeys((*self.aliases, *aliases, *rollouts), NO_TRACE)
        self._consistent = False
        for gone in self.models - {model.name for model in models}:
            self.limits.forget(gone)
        for model in models:
            self.limits.learn(model.name, model.serving)
        self.aliases, self.models, self.revision = aliases, {model.name for model in models}, listed[0].revision

    def _apply(self, message: pb.WatchResponse) -> None:
        """Take over one event, or learn from a bookmark that there are no more."""
        self.revision = max(self.revision, message.revision)
        REGISTRY_REVISION.set(self.revision)
        match message.WhichOneof("event"):
            case None:
                self._consistent = self.caught_up = True
            case "model_changed":
                self.models.add(message.model_changed.name)
                self.limits.learn(message.model_changed.name, message.model_changed.serving)
            case "model_deleted":
                self.models.discard(message.model_deleted)
                self.limits.forget(message.model_deleted)
            case "alias_changed":
                change = message.alias_changed
                key = (change.model, change.alias)
                self._changed[key] = {"traceparent": message.traceparent}
                if change.to_version:
                    self.aliases[key] = change.to_version
                else:
                    self.aliases.pop(key, None)
            case "rollout_changed":
                self._changed[self.rollouts.follow(message.rollout_changed)] = {"traceparent": message.traceparent}
