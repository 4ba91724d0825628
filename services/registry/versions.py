"""Versions: immutable, verified artifacts of a model."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session, raiseload

from model_store.manifest import MAX_MANIFEST_BYTES, Manifest
from model_store.store import BlobStore
from services.registry.blobs import stored_size, touch, verify
from services.registry.changes import changing, next_revision, record
from services.registry.checks import check_metrics, check_tags, merge_tags
from services.registry.filters import parse_filter
from services.registry.find import check_fence, find_model, find_ready, select_version
from services.registry.kinds import INTEGER, NUMBER, TEXT, TIME, one_of
from services.registry.leases import version_holders
from services.registry.listing import Field, LabelField, Listing
from services.registry.messages import listed_version_message, version_message
from services.registry.rollout_changes import rollouts_of
from services.registry.tables import Alias, State, Version, VersionFile, VersionMetric, VersionTag
from services.registry.tokens import PageRequest
from tessera.api.common.v1 import common_pb2
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import DataLossError, FailedPreconditionError, InvalidArgumentError
from tessera.names import check_name
from tessera.sql import reading
from tessera.texts import check_text
from tessera.times import Clock, now, to_datetime

METRICS = LabelField(VersionMetric, NUMBER)
TAGS = LabelField(VersionTag, TEXT)
LISTING = Listing(
    Version,
    {
        "model": Field(Version.model, TEXT),
        "version": Field(Version.number, INTEGER),
        "state": Field(Version.state, one_of(State)),
        "family": Field(Version.family, TEXT),
        "architecture": Field(Version.architecture, TEXT),
        "experiment_id": Field(Version.experiment_id, TEXT),
        "size_bytes": Field(Version.size_bytes, INTEGER),
        "create_time": Field(Version.create_time, TIME),
    },
    {"metrics": METRICS, "tags": TAGS},
)


class Versions:
    """What can be done with versions."""

    def __init__(self, engine: Engine, store: BlobStore, clock: Clock = now) -> None:
        self._engine = engine
        self._store = store
        self._clock = clock

    def create(
        self, model: str, manifest_json: bytes, *, tags: Mapping[str, str], key: str = "", fence: common_pb2.Fence | None = None
    ) -> pb.Version:
        """Make the next version of a model.

        Every blob is read and compared with its digest before anything is written. That takes a while, during which the blobs are kept
        from garbage collection by being touched; that they are still there is looked at once more under the lock that the collection
        takes too, so that a version never refers to a blob that is gone.

        Args:
            model: Its name.
            manifest_json: See `model_store.manifest.Manifest`; at most 1 MiB.
            tags: Free labels.
            key: Idempotency key, at most 256 characters; the same key again answers the version that it made first.
            fence: Refuses an attempt that is over.

        Raises:
            InvalidArgumentError: The manifest is wrong, or a blob is not what its role promises.
            NotFoundError: No such model.
            StaleFenceError: A later attempt has taken over.
            FailedPreconditionError: A blob is not stored, or has another size.
            DataLossError: A blob is damaged.
        """
        check_text(key, "idempotency_key", 256)
        manifest = _check_manifest(model, manifest_json)
        labels = check_tags(tags)
        blobs = {file.sha256: file for file in manifest.files}
        with changing(self._engine) as session:
            check_fence(session, fence)
            find_model(session, model, "model")
            if known := self._made_with(session, model, key):
                return known
            for file in manifest.files:
                stored_size(self._store, file)
            touch(session, blobs, self._clock())
        for file in manifest.files:
            verify(self._store, file)
        with changing(self._engine) as session:
            check_fence(session, fence)
            if known := self._made_with(session, model, key):
                return known
            for file in blobs.values():
                stored_size(self._store, file)
            return self._insert(session, manifest, labels, key)

    def get(self, selector: common_pb2.ModelSelector) -> pb.Version:
        """Return a version with its manifest. Raises NotFoundError."""
        with reading(self._engine) as session:
            row = select_version(session, selector)
            return version_message(row, manifest=_manifest(session, row))

    def page(self, model: str, request: PageRequest) -> pb.ListVersionsResponse:
        """Return a page of the versions of one model, or of all (empty). Deleted ones only if the filter names `state`."""
        query = sa.select(Version)
        if not any(comparison.field == "state" for comparison in parse_filter(request.filter)):
            query = query.where(Version.state == State.READY)
        with reading(self._engine) as session:
            if model:
                query = query.where(Version.model == find_model(session, model, "model").name)
            rows, token = LISTING.page(session, query.options(raiseload("*")), request, scope=model)
            return pb.ListVersionsResponse(versions=_messages(session, rows), next_page_token=token)

    def update(self, model: str, number: int, new_tags: Mapping[str, str], remove: Iterable[str]) -> pb.Version:
        """Change the tags. Raises NotFoundError, or FailedPreconditionError if the version is retired."""
        with changing(self._engine) as session:
            row = find_ready(session, model, number)
            row.tags = _tags(merge_tags({key: tag.value for key, tag in row.tags.items()}, new_tags, remove))
            return self._changed(session, row)

    def verify(self, model: str, number: int) -> pb.VerifyVersionResponse:
        """Read every blob of a version and report what is wrong. Raises NotFoundError, or FailedPreconditionError if it is retired."""
        with reading(self._engine) as session:
            manifest = read_manifest(session, find_ready(session, model, number))
        answer = pb.VerifyVersionResponse(intact=True)
        for file in manifest.files:
            try:
                stored_size(self._store, file)
                verify(self._store, file)
                answer.bytes_read += file.size_bytes
            except (DataLossError, FailedPreconditionError, InvalidArgumentError) as error:
                answer.intact = False
                answer.problems.append(f"{file.path}: {error.message}")
        return answer

    def delete(self, model: str, number: int) -> None:
        """Retire a version.

        Raises:
            NotFoundError: There is none.
            FailedPreconditionError: An alias, a rollout or a lease holds it, or it is retired already.
        """
        with changing(self._engine) as session:
            row = find_ready(session, model, number)
            held = [f"the alias {alias.name!r}" for alias in row.aliases]
            held += [f"the rollout of {alias!r}" for alias in rollouts_of(session, model, number)]
            held += [f"a lease of {holder!r}" for holder in version_holders(session, row.id, self._clock())]
            if held:
                raise FailedPreconditionError(f"version {number} of model {model!r} is held by {', '.join(held)}", field="version")
            row.state = State.DELETED
            row.revision = next_revision(session)
            event = pb.WatchResponse(version_deleted=pb.VersionRef(model=model, version=number))
            record(session, model, event, revision=row.revision, time=self._clock())

    def _made_with(self, session: Session, model: str, key: str) -> pb.Version | None:
        """Return the version that an idempotency key made, if it did."""
        if not key:
            return None
        row = session.scalar(sa.select(Version).where(Version.model == model, Version.idempotency_key == key))
        return version_message(row, manifest=_manifest(session, row)) if row else None

    def _insert(self, session: Session, manifest: Manifest, labels: Mapping[str, str], key: str) -> pb.Version:
        parent = find_model(session, manifest.model, "model")
        parent.latest_version += 1
        time = self._clock()
        manifest = manifest.registered(parent.latest_version, to_datetime(time))
        registered = manifest.canonical_json()
        if len(registered) > MAX_MANIFEST_BYTES:
            problem = f"manifest: {len(registered)} bytes once every field is written out; it takes at most {MAX_MANIFEST_BYTES}"
            raise InvalidArgumentError(problem, field="manifest")
        row = Version(
            model=manifest.model,
            number=parent.latest_version,
            state=State.READY,
            digest=manifest.digest(),
            manifest=registered,
            family=manifest.family,
            architecture=manifest.architecture,
            experiment_id=manifest.lineage.experiment_id,
            size_bytes=manifest.size_bytes,
            create_time=time,
            idempotency_key=key or None,
            tags=_tags(labels),
            metrics={name: VersionMetric(name=name, value=value) for name, value in manifest.metrics.items()},
            files=[VersionFile(path=file.path, sha256=file.sha256, size_bytes=file.size_bytes) for file in manifest.files],
        )
        session.add(row)
        message = self._changed(session, row)
        parent.revision = row.revision
        message.manifest_json = registered
        return message

    def _changed(self, session: Session, row: Version) -> pb.Version:
        row.revision = next_revision(session)
        session.flush()
        message = version_message(row)
        record(session, row.model, pb.WatchResponse(version_changed=message), revision=row.revision, time=self._clock())
        return message


def _check_manifest(model: str, manifest_json: bytes) -> Manifest:
    check_name(model, "model")
    manifest = Manifest.parse(manifest_json)
    if manifest.model != model:
        raise InvalidArgumentError(f"manifest.model: {manifest.model!r} is not the model {model!r} of the request", field="manifest.model")
    check_metrics(manifest.metrics, "manifest.metrics")
    check_text(manifest.lineage.experiment_id, "manifest.lineage.experiment_id", 256)
    return manifest


def read_manifest(session: Session, row: Version) -> Manifest:
    """Return the manifest of a version."""
    return Manifest.parse(_manifest(session, row))


def _manifest(session: Session, row: Version) -> bytes:
    return session.execute(sa.select(Version.manifest).where(Version.id == row.id)).scalar_one()


def _messages(session: Session, rows: Sequence[Version]) -> list[pb.Version]:
    ids = [row.id for row in rows]
    metrics, tags = METRICS.of(session, ids), TAGS.of(session, ids)
    aliases: dict[int, list[str]] = defaultdict(list)
    for owner, name in session.execute(sa.select(Alias.version_id, Alias.name).where(Alias.version_id.in_(ids))):
        aliases[owner].append(name)
    return [listed_version_message(row, metrics=metrics[row.id], tags=tags[row.id], aliases=sorted(aliases[row.id])) for row in rows]


def _tags(tags: Mapping[str, str]) -> dict[str, VersionTag]:
    return {name: VersionTag(name=name, value=value) for name, value in tags.items()}
