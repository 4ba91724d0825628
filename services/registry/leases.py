"""Leases: for a while, nobody may delete what a server is using."""

import uuid
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from model_store.store import BlobStore
from services.registry.changes import changing
from services.registry.find import find_ready
from services.registry.tables import Lease, Version
from services.registry.tokens import PageRequest, Position, decode, encode
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import InvalidArgumentError, NotFoundError
from tessera.names import check_sha256
from tessera.sql import reading
from tessera.texts import check_text
from tessera.times import Clock, now, to_timestamp

SHORTEST = timedelta(seconds=1)
LONGEST = timedelta(hours=24)
LONGEST_OF_A_BLOB = timedelta(days=30)
"""Versions are held by servers that live, and renew; a blob may be a result or a sample that waits for a person."""


class Leases:
    """What can be done with leases."""

    def __init__(self, engine: Engine, store: BlobStore, clock: Clock = now) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock

    def acquire_version(self, holder: str, ttl: timedelta, model: str, number: int) -> pb.AcquireLeaseResponse:
        """Protect a version from deletion, or go on doing so.

        Args:
            holder: Who asks, 1 to 256 characters.
            ttl: How long from now, 1 s to 24 h.
            model: Its name.
            number: The version, which must be READY.

        Raises:
            NotFoundError: There is none.
            FailedPreconditionError: It is retired.
        """
        with changing(self._engine) as session:
            return self._renew(session, holder, ttl, version_id=find_ready(session, model, number).id, sha256=None)

    def acquire_blob(self, holder: str, ttl: timedelta, sha256: str) -> pb.AcquireLeaseResponse:
        """Protect a blob from garbage collection for 1 s to 30 days, or go on doing so. Raises NotFoundError if it is not stored."""
        check_sha256(sha256, "blob_sha256")
        with changing(self._engine) as session:
            if self._store.stat(sha256) is None:
                raise NotFoundError(f"blob {sha256} is not stored", field="blob_sha256")
            return self._renew(session, holder, ttl, version_id=None, sha256=sha256)

    def release(self, lease_id: str) -> None:
        """End a lease; succeeds if it is gone already."""
        check_text(lease_id, "lease_id", 256, least=1)
        with changing(self._engine) as session:
            session.execute(sa.delete(Lease).where(Lease.id == lease_id))

    def page(self, holder_prefix: str, request: PageRequest) -> pb.ListLeasesResponse:
        """Return a page of the leases that have not ended, of holders whose names begin so, sorted by holder."""
        check_text(holder_prefix, "holder_prefix", 256)
        limit = request.limit()
        query = sa.select(Lease, Version).outerjoin(Version, Lease.version_id == Version.id)
        query = query.where(Lease.expire_time > self._clock(), Lease.holder.startswith(holder_prefix, autoescape=True))
        if after := decode(request, holder_prefix, str):
            holder, _, lease_id = str(after.value).rpartition(" ")
            query = query.where(sa.tuple_(Lease.holder, Lease.id) > sa.tuple_(sa.literal(holder), sa.literal(lease_id)))
        with reading(self._engine) as session:
            rows = session.execute(query.order_by(Lease.holder, Lease.id).limit(limit + 1)).all()
            leases = [_message(lease, version) for lease, version in rows[:limit]]
        token = encode(Position(f"{leases[-1].holder} {leases[-1].lease_id}", 0), request, holder_prefix) if len(rows) > limit else ""
        return pb.ListLeasesResponse(leases=leases, next_page_token=token)

    def _renew(
        self, session: Session, holder: str, ttl: timedelta, *, version_id: int | None, sha256: str | None
    ) -> pb.AcquireLeaseResponse:
        check_text(holder, "holder", 256, least=1)
        longest = LONGEST_OF_A_BLOB if sha256 else LONGEST
        if not SHORTEST <= ttl <= longest:
            hours = longest // timedelta(hours=1)
            raise InvalidArgumentError(f"ttl: {ttl.total_seconds():g} s is outside 1 s to {hours} h", field="ttl")
        same = (Lease.holder == holder, Lease.version_id == version_id, Lease.sha256 == sha256)
        row = session.scalar(sa.select(Lease).where(*same))
        if row is None:
            row = Lease(id=uuid.uuid4().hex, holder=holder, version_id=version_id, sha256=sha256)
            session.add(row)
        row.expire_time = self._clock() + ttl // timedelta(microseconds=1)
        return pb.AcquireLeaseResponse(lease_id=row.id, expire_time=to_timestamp(row.expire_time))


def _message(lease: Lease, version: Version | None) -> pb.Lease:
    message = pb.Lease(lease_id=lease.id, holder=lease.holder, expire_time=to_timestamp(lease.expire_time))
    if version:
        message.version.CopyFrom(pb.VersionRef(model=version.model, version=version.number))
    else:
        message.blob_sha256 = lease.sha256 or ""
    return message


def version_holders(session: Session, version_id: int, time: int) -> list[str]:
    """Return who holds live leases on a version."""
    return list(session.scalars(sa.select(Lease.holder).where(Lease.version_id == version_id, Lease.expire_time > time)))


def blob_is_held(session: Session, sha256: str, time: int) -> bool:
    """Return whether a live lease holds a blob."""
    return session.scalar(sa.select(Lease.id).where(Lease.sha256 == sha256, Lease.expire_time > time).limit(1)) is not None


def forget_expired(session: Session, time: int) -> None:
    """Remove the leases that have ended."""
    session.execute(sa.delete(Lease).where(Lease.expire_time <= time))
