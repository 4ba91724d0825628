"""The registry without its transport: everything that it can do, over one database and one blob store."""

from dataclasses import dataclass
from typing import Self

from sqlalchemy.engine import Engine

from model_store.store import BlobStore
from services.registry.aliases import Aliases
from services.registry.blobs import Blobs
from services.registry.changes import Changes
from services.registry.experiments import Experiments
from services.registry.garbage import Garbage
from services.registry.leases import Leases
from services.registry.models import Models
from services.registry.rollouts import Rollouts
from services.registry.versions import Versions
from tessera.times import Clock, now


@dataclass(frozen=True)
class Registry:
    """The parts of a registry. All their methods block."""

    models: Models
    versions: Versions
    aliases: Aliases
    rollouts: Rollouts
    leases: Leases
    experiments: Experiments
    blobs: Blobs
    garbage: Garbage
    changes: Changes

    @classmethod
    def over(cls, engine: Engine, store: BlobStore, clock: Clock = now) -> Self:
        """Return the registry that lies in a migrated database and a blob store."""
        aliases = Aliases(engine, clock)
        return cls(
            models=Models(engine, clock),
            versions=Versions(engine, store, clock),
            aliases=aliases,
            rollouts=Rollouts(engine, aliases, clock),
            leases=Leases(engine, store, clock),
            experiments=Experiments(engine, clock),
            blobs=Blobs(engine, store, clock),
            garbage=Garbage(engine, store, clock),
            changes=Changes(engine),
        )
