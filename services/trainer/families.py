"""Families as workers have announced them."""

from collections.abc import Iterable

import sqlalchemy as sa
from google.protobuf import json_format
from sqlalchemy.engine import Engine

from services.trainer.messages import as_json
from services.trainer.schemas import check_schema
from services.trainer.tables import Family
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.names import check_name
from tessera.sql import reading, writing
from tessera.texts import check_text
from tessera.times import Clock, microseconds, now

LONGEST_WORKER_NAME = 256


class Families:
    """The families in one database.

    Args:
        engine: The trainer's database.
        keep_s: A family that nobody has announced for this long is forgotten, seconds.
        clock: Answers the present.
    """

    def __init__(self, engine: Engine, *, keep_s: float, clock: Clock = now) -> None:
        self._engine = engine
        self._keep = microseconds(keep_s)
        self._clock = clock

    def announce(self, worker: str, families: Iterable[pb.Family]) -> None:
        """Keep what a worker can train; of two workers that describe one family differently the later one is believed.

        Raises:
            InvalidArgumentError: The worker has no name, or a family or an architecture has an invalid one or a schema that is none.
        """
        check_text(worker, "worker", LONGEST_WORKER_NAME, least=1)
        known = list(families)
        for index, family in enumerate(known):
            check_name(family.name, f"families[{index}].name")
            check_schema(family.hyperparameters_schema, f"families[{index}].hyperparameters_schema")
            for architecture in family.architectures:
                check_name(architecture.name, f"families[{index}].architectures.name")
                check_schema(architecture.model_config_schema, f"families[{index}].architectures.model_config_schema")
        with writing(self._engine) as session:
            for family in sorted(known, key=lambda family: family.name):  # the same order everywhere: no deadlock
                session.merge(Family(name=family.name, definition=as_json(family), worker=worker, seen_time=self._clock()))
            session.execute(sa.delete(Family).where(Family.seen_time < self._clock() - self._keep))

    def list(self) -> list[pb.Family]:
        """Return the families, sorted by name."""
        with reading(self._engine) as session:
            rows = session.scalars(sa.select(Family).where(Family.seen_time >= self._clock() - self._keep).order_by(Family.name))
            return [json_format.ParseDict(row.definition, pb.Family()) for row in rows]
