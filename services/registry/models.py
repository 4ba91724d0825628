"""Models: the names under which versions are kept."""

from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services.registry.changes import changing, current_revision, next_revision, record
from services.registry.checks import check_serving, check_tags, merge_tags
from services.registry.find import find_model
from services.registry.kinds import INTEGER, TEXT, TIME
from services.registry.listing import Field, LabelField, Listing
from services.registry.messages import model_message
from services.registry.tables import Model, ModelTag, State, Version
from services.registry.tokens import PageRequest
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import AlreadyExistsError, FailedPreconditionError
from tessera.names import check_name
from tessera.sql import reading
from tessera.texts import check_text
from tessera.times import Clock, now

MAX_DESCRIPTION = 4096

LISTING = Listing(
    Model,
    {
        "name": Field(Model.name, TEXT),
        "create_time": Field(Model.create_time, TIME),
        "latest_version": Field(Model.latest_version, INTEGER),
    },
    {"tags": LabelField(ModelTag, TEXT)},
)


class Models:
    """What can be done with models."""

    def __init__(self, engine: Engine, clock: Clock = now) -> None:
        self._engine = engine
        self._clock = clock

    def create(self, name: str, description: str, tags: Mapping[str, str]) -> pb.Model:
        """Register a name. One that was deleted starts anew, but goes on counting its versions where it stopped.

        Raises:
            AlreadyExistsError: The name is taken.
        """
        check_name(name, "name")
        check_text(description, "description", MAX_DESCRIPTION)
        labels = check_tags(tags)
        with changing(self._engine) as session:
            row = session.scalar(sa.select(Model).where(Model.name == name))
            if row is None:
                row = Model(name=name, latest_version=0)
                session.add(row)
            elif not row.deleted:
                raise AlreadyExistsError(f"model {name!r} exists already", field="name")
            row.create_time, row.deleted, row.description, row.serving = self._clock(), False, description, None
            row.tags = _tags(labels)
            return self._changed(session, row)

    def get(self, name: str) -> pb.Model:
        """Return a model. Raises NotFoundError."""
        with reading(self._engine) as session:
            return model_message(find_model(session, name))

    def page(self, request: PageRequest) -> pb.ListModelsResponse:
        """Return a page of models, with the revision of the snapshot that it was read from."""
        with reading(self._engine) as session:
            revision = current_revision(session)
            rows, token = LISTING.page(session, sa.select(Model).where(~Model.deleted), request)
            return pb.ListModelsResponse(models=[model_message(row) for row in rows], next_page_token=token, revision=revision)

    def update(
        self,
        name: str,
        description: str | None,
        new_tags: Mapping[str, str],
        remove: Iterable[str],
        *,
        serving: pb.ServingLimits | None = None,
    ) -> pb.Model:
        """Change description, tags and limits (None leaves description or limits as they are). Raises NotFoundError."""
        with changing(self._engine) as session:
            row = find_model(session, name)
            if description is not None:
                row.description = check_text(description, "description", MAX_DESCRIPTION)
            row.tags = _tags(merge_tags({key: tag.value for key, tag in row.tags.items()}, new_tags, remove))
            if serving is not None:
                row.serving = check_serving(serving).SerializeToString()
            return self._changed(session, row)

    def delete(self, name: str) -> None:
        """Remove a model.

        Raises:
            NotFoundError: There is none.
            FailedPreconditionError: It has a version that is not retired.
        """
        with changing(self._engine) as session:
            row = find_model(session, name)
            ready = sa.select(sa.func.count()).where(Version.model == name, Version.state == State.READY)
            if count := session.execute(ready).scalar_one():
                raise FailedPreconditionError(f"model {name!r} has {count} live versions; delete them first", field="name")
            row.deleted = True
            row.revision = next_revision(session)
            record(session, name, pb.WatchResponse(model_deleted=name), revision=row.revision, time=self._clock())

    def _changed(self, session: Session, row: Model) -> pb.Model:
        row.revision = next_revision(session)
        session.flush()
        message = model_message(row)
        record(session, row.name, pb.WatchResponse(model_changed=message), revision=row.revision, time=self._clock())
        return message


def _tags(tags: Mapping[str, str]) -> dict[str, ModelTag]:
    return {name: ModelTag(name=name, value=value) for name, value in tags.items()}
