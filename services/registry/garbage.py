"""Garbage collection: removes the blobs that nothing needs."""

from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from model_store.store import BlobStore
from services.registry.blobs import touched_after
from services.registry.changes import changing
from services.registry.leases import blob_is_held, forget_expired
from services.registry.tables import BlobTouch, State, Version, VersionFile
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import InvalidArgumentError
from tessera.sql import reading
from tessera.times import Clock, now, to_datetime, to_microseconds

SHORTEST_GRACE = timedelta(minutes=1)
DEFAULT_GRACE = timedelta(hours=24)


class Garbage:
    """Removes blobs that no READY version and no lease refers to, and that nobody has touched for a while."""

    def __init__(self, engine: Engine, store: BlobStore, clock: Clock = now) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock

    def collect(self, grace: timedelta = DEFAULT_GRACE, *, dry_run: bool = False) -> pb.CollectGarbageResponse:
        """Look at every blob once.

        A blob that looks needless is looked at again, age and all, under the lock that `Blobs` and `Versions` take before they rely on
        it, and is removed while that lock is held: nothing can begin to need it in between. The lock is taken for one blob at a time,
        so that a long collection holds nobody up.

        Args:
            grace: How long a blob must have been left alone, at least 1 minute.
            dry_run: Only report.

        Raises:
            InvalidArgumentError: The grace period is too short.
        """
        if grace < SHORTEST_GRACE:
            raise InvalidArgumentError(f"grace: {grace.total_seconds():g} s is less than 1 minute", field="grace")
        before = self._clock() - grace // timedelta(microseconds=1)
        answer = pb.CollectGarbageResponse()
        for blob in self._store.list():
            if to_microseconds(blob.modify_time) > before:
                continue
            with reading(self._engine) as session:
                needless = self._needless(session, blob.sha256, before)
            if needless and (dry_run or self._remove(blob.sha256, before)):
                answer.blobs_removed += 1
                answer.bytes_freed += blob.size_bytes
        answer.uploads_removed = self._store.delete_uploads(to_datetime(before), dry_run=dry_run)
        if not dry_run:
            with changing(self._engine) as session:
                forget_expired(session, self._clock())
        return answer

    def _remove(self, sha256: str, before: int) -> bool:
        """Remove a blob unless something has come to need it. Returns whether it was removed."""
        with changing(self._engine) as session:
            info = self._store.stat(sha256)
            if info is None or to_microseconds(info.modify_time) > before or not self._needless(session, sha256, before):
                return False
            session.execute(sa.delete(BlobTouch).where(BlobTouch.sha256 == sha256))
            self._store.delete(sha256)
            return True

    def _needless(self, session: Session, sha256: str, before: int) -> bool:
        used = sa.select(VersionFile.sha256).join(Version).where(VersionFile.sha256 == sha256, Version.state == State.READY).limit(1)
        return not (
            touched_after(session, sha256, before) or blob_is_held(session, sha256, self._clock()) or session.scalar(used) is not None
        )
