"""The registry's tables. Times are microseconds since 1970 (UTC), so that both databases order and compare them alike."""

import enum
from typing import TYPE_CHECKING, Annotated, Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, attribute_keyed_dict, foreign, mapped_column, relationship

# Names are compared byte by byte: a locale's collation would order pages differently on every database.
Name = Annotated[str, mapped_column(sa.String(256).with_variant(sa.String(256, collation="C"), "postgresql"))]
Text = Annotated[str, mapped_column(sa.Text().with_variant(sa.Text(collation="C"), "postgresql"))]
Int64 = Annotated[int, mapped_column(sa.BigInteger)]
# SQLite counts rows by itself only in a column that is called INTEGER.
RowId = Annotated[int, mapped_column(sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True)]


class State(enum.IntEnum):
    """State of a version; the numbers are those of `VersionState` on the wire."""

    READY = 1
    DELETED = 2


class RunState(enum.IntEnum):
    """State of an experiment; the numbers are those of `ExperimentState` on the wire."""

    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3
    CANCELLED = 4


class RolloutState(enum.IntEnum):
    """State of a rollout; the numbers are those of `RolloutState` on the wire."""

    ACTIVE = 1
    PROMOTED = 2
    ROLLED_BACK = 3
    ABORTED = 4
    SUPERSEDED = 5


class Table(DeclarativeBase):
    """Base of all tables. Constraints have names, so that a migration can speak of them."""

    metadata = sa.MetaData(
        naming_convention={
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )


class Numbered(Table):
    """A row with a number that grows from row to row; lists settle ties by it."""

    __abstract__ = True

    id: Mapped[RowId]


class Label(Table):
    """A row of a side table: a name and a value that belong to an owner."""

    __abstract__ = True

    name: Mapped[Name] = mapped_column(primary_key=True)
    if TYPE_CHECKING:  # every side table says whose its rows are, and of which type
        owner_id: Mapped[int]
        value: Mapped[Any]


class Counter(Table):
    """The one row that every writer locks first; holds the newest revision. It makes writers take turns on every database."""

    __tablename__ = "counter"

    id: Mapped[int] = mapped_column(primary_key=True)
    revision: Mapped[Int64]


class Model(Numbered):
    """A model. A deleted one stays as a row, so that its version numbers are never given again.

    `serving` is a `ServingLimits` message, in one piece since servers alone compute with it.
    """

    __tablename__ = "models"

    name: Mapped[Name] = mapped_column(unique=True)
    description: Mapped[Text]
    latest_version: Mapped[Int64]
    create_time: Mapped[Int64]
    revision: Mapped[Int64]
    deleted: Mapped[bool]
    serving: Mapped[bytes | None]
    tags: Mapped[dict[str, "ModelTag"]] = relationship(
        collection_class=attribute_keyed_dict("name"), cascade="all, delete-orphan", lazy="selectin"
    )
    aliases: Mapped[dict[str, "Alias"]] = relationship(
        collection_class=attribute_keyed_dict("name"), cascade="all, delete-orphan", lazy="selectin"
    )

    rollouts: Mapped[list["Rollout"]] = relationship(
        primaryjoin=lambda: sa.and_(Model.name == foreign(Rollout.model), Rollout.state == RolloutState.ACTIVE),
        viewonly=True,
        lazy="selectin",
        order_by="Rollout.alias",
    )

    __table_args__ = (sa.Index("ix_models_create_time", "create_time", "id"), sa.Index("ix_models_latest_version", "latest_version", "id"))


class ModelTag(Label):
    """A label of a model."""

    __tablename__ = "model_tags"

    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("models.id"), primary_key=True)
    value: Mapped[Text]

    __table_args__ = (sa.Index("ix_model_tags_value", "name", "value", "owner_id"),)


class Version(Numbered):
    """A version: immutable but for its tags and its state."""

    __tablename__ = "versions"

    model: Mapped[Name] = mapped_column(sa.ForeignKey("models.name"))
    number: Mapped[Int64]
    state: Mapped[int]
    digest: Mapped[Name]
    manifest: Mapped[bytes] = mapped_column(deferred=True, deferred_raiseload=True)
    family: Mapped[Name]
    architecture: Mapped[Name]
    experiment_id: Mapped[Name]
    size_bytes: Mapped[Int64]
    create_time: Mapped[Int64]
    revision: Mapped[Int64]
    idempotency_key: Mapped[Name | None]
    tags: Mapped[dict[str, "VersionTag"]] = relationship(
        collection_class=attribute_keyed_dict("name"), cascade="all, delete-orphan", lazy="selectin"
    )
    metrics: Mapped[dict[str, "VersionMetric"]] = relationship(
        collection_class=attribute_keyed_dict("name"), cascade="all, delete-orphan", lazy="selectin"
    )
    files: Mapped[list["VersionFile"]] = relationship(cascade="all, delete-orphan", order_by="VersionFile.path")
    aliases: Mapped[list["Alias"]] = relationship(viewonly=True, lazy="selectin", order_by="Alias.name")

    __table_args__ = (
        sa.UniqueConstraint("model", "number"),
        sa.UniqueConstraint("model", "idempotency_key"),
        sa.Index("ix_versions_number", "number", "id"),
        sa.Index("ix_versions_family", "family", "id"),
        sa.Index("ix_versions_architecture", "architecture", "id"),
        sa.Index("ix_versions_experiment", "experiment_id", "id"),
        sa.Index("ix_versions_size", "size_bytes", "id"),
        sa.Index("ix_versions_create_time", "create_time", "id"),
    )


class VersionTag(Label):
    """A label of a version."""

    __tablename__ = "version_tags"

    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("versions.id"), primary_key=True)
    value: Mapped[Text]

    __table_args__ = (sa.Index("ix_version_tags_value", "name", "value", "owner_id"),)


class VersionMetric(Label):
    """A metric of a version at the end of its training."""

    __tablename__ = "version_metrics"

    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("versions.id"), primary_key=True)
    value: Mapped[float] = mapped_column(sa.Double)

    __table_args__ = (sa.Index("ix_version_metrics_value", "name", "value", "owner_id"),)


class VersionFile(Table):
    """A file of a version: which blob it is. Blobs of READY versions are never collected."""

    __tablename__ = "version_files"

    version_id: Mapped[int] = mapped_column(sa.ForeignKey("versions.id"), primary_key=True)
    path: Mapped[Text] = mapped_column(primary_key=True)
    sha256: Mapped[Name] = mapped_column(index=True)
    size_bytes: Mapped[Int64]


class Alias(Table):
    """Where an alias points now."""

    __tablename__ = "aliases"

    model_id: Mapped[int] = mapped_column(sa.ForeignKey("models.id"), primary_key=True)
    name: Mapped[Name] = mapped_column(primary_key=True)
    version_id: Mapped[int] = mapped_column(sa.ForeignKey("versions.id"), index=True)
    number: Mapped[Int64]


class AliasChange(Table):
    """One entry of the history of an alias; rows are only ever added."""

    __tablename__ = "alias_changes"

    revision: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    model: Mapped[Name]
    alias: Mapped[Name]
    from_version: Mapped[Int64]
    to_version: Mapped[Int64]
    actor: Mapped[Text]
    reason: Mapped[Text]
    time: Mapped[Int64]

    __table_args__ = (
        sa.Index("ix_alias_changes_model", "model", "revision"),
        sa.Index("ix_alias_changes_alias", "model", "alias", "revision"),
    )


class Rollout(Numbered):
    """A rollout as it stands: which part of an alias's traffic goes to another version. At most one of an alias is ACTIVE."""

    __tablename__ = "rollouts"

    model: Mapped[Name]
    alias: Mapped[Name]
    stable_version: Mapped[Int64]
    candidate_version: Mapped[Int64]
    weight_percent: Mapped[float] = mapped_column(sa.Double)
    shadow_percent: Mapped[float] = mapped_column(sa.Double)
    guard: Mapped[bytes]
    state: Mapped[int]
    actor: Mapped[Text]
    reason: Mapped[Text]
    create_time: Mapped[Int64]
    change_time: Mapped[Int64]
    revision: Mapped[Int64]

    __table_args__ = (
        sa.Index("ix_rollouts_alias", "model", "alias", "id"),
        sa.Index("ix_rollouts_model", "model", "id"),
        sa.Index("ix_rollouts_state", "state", "id"),
        sa.Index("ix_rollouts_create_time", "create_time", "id"),
        sa.Index("ix_rollouts_candidate", "model", "candidate_version", "state"),
    )


class RolloutChange(Table):
    """One entry of the history of rollouts; rows are only ever added. `payload` is the serialized Rollout as it stood then."""

    __tablename__ = "rollout_changes"

    revision: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    model: Mapped[Name]
    alias: Mapped[Name]
    payload: Mapped[bytes]

    __table_args__ = (sa.Index("ix_rollout_changes_alias", "model", "alias", "revision"),)


class Event(Table):
    """One change, as Watch tells it: `payload` is the serialized WatchResponse, so that a replay needs no other table."""

    __tablename__ = "events"

    revision: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    model: Mapped[Name]
    payload: Mapped[bytes]

    __table_args__ = (sa.Index("ix_events_model", "model", "revision"),)


class Fence(Table):
    """The highest fencing token seen under a key."""

    __tablename__ = "fences"

    key: Mapped[Name] = mapped_column(primary_key=True)
    token: Mapped[Int64]


class Lease(Table):
    """Protects a version or a blob from deletion until it expires. Exactly one of `version_id` and `sha256` is set."""

    __tablename__ = "leases"

    id: Mapped[Name] = mapped_column(primary_key=True)
    holder: Mapped[Text]
    version_id: Mapped[int | None] = mapped_column(sa.ForeignKey("versions.id"), index=True)
    sha256: Mapped[Name | None] = mapped_column(index=True)
    expire_time: Mapped[Int64] = mapped_column(index=True)


class BlobTouch(Table):
    """When a blob was last asked for by somebody about to use it; garbage collection takes it for the blob's age."""

    __tablename__ = "blob_touches"

    sha256: Mapped[Name] = mapped_column(primary_key=True)
    time: Mapped[Int64]


class Experiment(Numbered):
    """The record of one training run. What the network and the training were is kept as JSON text."""

    __tablename__ = "experiments"

    public_id: Mapped[Name] = mapped_column(unique=True)
    fence_key: Mapped[Name | None] = mapped_column(unique=True)
    name: Mapped[Text]
    model: Mapped[Name]
    family: Mapped[Name]
    architecture: Mapped[Name]
    model_config: Mapped[Text]
    hyperparameters: Mapped[Text]
    git_commit: Mapped[Name]
    job_id: Mapped[Name]
    state: Mapped[int]
    error: Mapped[Text]
    version: Mapped[Int64]
    create_time: Mapped[Int64]
    finish_time: Mapped[Int64 | None]
    metrics: Mapped[dict[str, "ExperimentMetric"]] = relationship(
        collection_class=attribute_keyed_dict("name"), cascade="all, delete-orphan", lazy="selectin"
    )

    __table_args__ = (
        sa.Index("ix_experiments_name", "name", "id"),
        sa.Index("ix_experiments_model", "model", "id"),
        sa.Index("ix_experiments_family", "family", "id"),
        sa.Index("ix_experiments_architecture", "architecture", "id"),
        sa.Index("ix_experiments_state", "state", "id"),
        sa.Index("ix_experiments_job", "job_id", "id"),
        sa.Index("ix_experiments_create_time", "create_time", "id"),
    )


class ExperimentMetric(Label):
    """A metric of an experiment at its end."""

    __tablename__ = "experiment_metrics"

    owner_id: Mapped[int] = mapped_column(sa.ForeignKey("experiments.id"), primary_key=True)
    value: Mapped[float] = mapped_column(sa.Double)

    __table_args__ = (sa.Index("ix_experiment_metrics_value", "name", "value", "owner_id"),)


class Epoch(Table):
    """The metrics of one finished epoch: `payload` is the serialized EpochMetrics, which may hold NaN and infinities."""

    __tablename__ = "epochs"

    experiment_id: Mapped[int] = mapped_column(sa.ForeignKey("experiments.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    payload: Mapped[bytes]
