"""Experiments: the records of training runs, with metrics per epoch."""

import uuid
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from services.registry.changes import changing
from services.registry.checks import check_count, check_metrics
from services.registry.find import check_fence, find_version
from services.registry.kinds import NUMBER, TEXT, TIME, one_of
from services.registry.listing import Field, LabelField, Listing
from services.registry.messages import experiment_message
from services.registry.tables import Epoch, Experiment, ExperimentMetric, RunState
from services.registry.tokens import PageRequest
from tessera.api.common.v1 import common_pb2
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from tessera.names import check_name
from tessera.sql import reading
from tessera.texts import check_text, clean_text
from tessera.times import Clock, now

MAX_EPOCHS = 1000
"""Most epochs in one call."""

MAX_CONFIG = 1 << 16
"""Longest model config or hyperparameters as JSON, characters."""
MAX_ERROR = 4096

LISTING = Listing(
    Experiment,
    {
        "name": Field(Experiment.name, TEXT),
        "model": Field(Experiment.model, TEXT),
        "family": Field(Experiment.family, TEXT),
        "architecture": Field(Experiment.architecture, TEXT),
        "state": Field(Experiment.state, one_of(RunState)),
        "job_id": Field(Experiment.job_id, TEXT),
        "create_time": Field(Experiment.create_time, TIME),
    },
    {"metrics": LabelField(ExperimentMetric, NUMBER)},
)


class Experiments:
    """What can be done with experiments."""

    def __init__(self, engine: Engine, clock: Clock = now) -> None:
        self._engine = engine
        self._clock = clock

    def create(self, wanted: pb.Experiment, fence: common_pb2.Fence | None = None) -> pb.Experiment:
        """Start a record, or with a fence answer the one that an earlier attempt started.

        A later attempt finds a record that had ended without a version running again.

        Args:
            wanted: id, state, history, metrics, version and times in it are ignored.
            fence: Its key names the run across attempts.

        Raises:
            StaleFenceError: A later attempt has taken over.
        """
        row = _new_row(wanted, self._clock())
        with changing(self._engine) as session:
            later = check_fence(session, fence)
            if fence is not None:
                known = session.scalar(sa.select(Experiment).where(Experiment.fence_key == fence.key))
                if known is not None:
                    if later and known.state in {RunState.FAILED, RunState.CANCELLED}:
                        known.state, known.error, known.finish_time, known.metrics = RunState.RUNNING, "", None, {}
                    return experiment_message(known)
                row.fence_key = fence.key
            session.add(row)
            session.flush()
            return experiment_message(row)

    def log(self, experiment_id: str, epochs: Sequence[pb.EpochMetrics], fence: common_pb2.Fence | None = None) -> None:
        """Add the metrics of 1 to 1000 epochs; the same epoch again replaces it. Values may be NaN or infinite.

        Raises:
            NotFoundError: No such experiment.
            FailedPreconditionError: It has ended.
            StaleFenceError: A later attempt has taken over.
        """
        if not epochs:
            raise InvalidArgumentError("epochs: none given", field="epochs")
        check_count(len(epochs), MAX_EPOCHS, "epochs")
        for index, epoch in enumerate(epochs):
            if epoch.epoch < 1:
                raise InvalidArgumentError(
                    f"epochs[{index}].epoch: {epoch.epoch} is not an epoch; the first is 1", field=f"epochs[{index}].epoch"
                )
            check_metrics(epoch.metrics, f"epochs[{index}].metrics", finite=False)
        with changing(self._engine) as session:
            check_fence(session, fence)
            row = _find(session, experiment_id)
            if row.state != RunState.RUNNING:
                raise FailedPreconditionError(f"experiment {experiment_id} has ended", field="experiment_id")
            for epoch in epochs:
                session.merge(Epoch(experiment_id=row.id, epoch=epoch.epoch, payload=epoch.SerializeToString(deterministic=True)))

    def finish(
        self,
        experiment_id: str,
        state: int,
        *,
        metrics: Mapping[str, float],
        error: str = "",
        version: int = 0,
        fence: common_pb2.Fence | None = None,
    ) -> pb.Experiment:
        """Record how a run ended; saying the same again changes nothing.

        Args:
            experiment_id: Which.
            state: SUCCEEDED, FAILED or CANCELLED.
            metrics: At the end; finite.
            error: Why it failed, cut after 4096 characters, without control characters.
            version: Version of the experiment's model that came of it; 0 if none.
            fence: Refuses an attempt that is over.

        Raises:
            NotFoundError: No such experiment or version.
            FailedPreconditionError: It has ended in another way.
            StaleFenceError: A later attempt has taken over.
        """
        if state not in {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}:
            raise InvalidArgumentError("state: it takes SUCCEEDED, FAILED or CANCELLED", field="state")
        numbers = check_metrics(metrics)
        reason = clean_text(error, MAX_ERROR)
        with changing(self._engine) as session:
            check_fence(session, fence)
            row = _find(session, experiment_id)
            if row.state != RunState.RUNNING and (row.state, row.version) != (state, version):
                ended = RunState(row.state).name + (f" with version {row.version}" if row.version else "")
                raise FailedPreconditionError(f"experiment {experiment_id} has ended already: {ended}", field="state")
            if version:
                find_version(session, row.model, version)
            if row.state == RunState.RUNNING:
                row.state, row.error, row.version, row.finish_time = state, reason, version, self._clock()
                row.metrics = {name: ExperimentMetric(name=name, value=value) for name, value in numbers.items()}
                session.flush()
            return experiment_message(row)

    def get(self, experiment_id: str) -> pb.Experiment:
        """Return an experiment with its history. Raises NotFoundError."""
        with reading(self._engine) as session:
            row = _find(session, experiment_id, field="id")
            message = experiment_message(row)
            epochs = session.scalars(sa.select(Epoch.payload).where(Epoch.experiment_id == row.id).order_by(Epoch.epoch))
            message.history.extend(pb.EpochMetrics.FromString(payload) for payload in epochs)
            return message

    def page(self, request: PageRequest) -> pb.ListExperimentsResponse:
        """Return a page of experiments without their histories."""
        with reading(self._engine) as session:
            rows, token = LISTING.page(session, sa.select(Experiment), request)
            return pb.ListExperimentsResponse(experiments=[experiment_message(row) for row in rows], next_page_token=token)


def _new_row(wanted: pb.Experiment, time: int) -> Experiment:
    for field in ("model", "family", "architecture"):
        if value := getattr(wanted, field):
            check_name(value, f"experiment.{field}")
    return Experiment(
        public_id=uuid.uuid4().hex,
        name=check_text(wanted.name, "experiment.name", 256),
        model=wanted.model,
        family=wanted.family,
        architecture=wanted.architecture,
        model_config=_json(wanted.model_config, "experiment.model_config"),
        hyperparameters=_json(wanted.hyperparameters, "experiment.hyperparameters"),
        git_commit=check_text(wanted.git_commit, "experiment.git_commit", 256),
        job_id=check_text(wanted.job_id, "experiment.job_id", 256),
        state=RunState.RUNNING,
        error="",
        version=0,
        create_time=time,
        metrics={},
    )


def _json(struct: Struct, field: str) -> str:
    try:
        text = json_format.MessageToJson(struct, indent=None)
    except (json_format.SerializeToJsonError, ValueError) as error:
        raise InvalidArgumentError(f"{field}: {error}", field=field) from error
    return check_text(text, field, MAX_CONFIG)


def _find(session: Session, experiment_id: str, field: str = "experiment_id") -> Experiment:
    check_text(experiment_id, field, 256, least=1)
    row = session.scalar(sa.select(Experiment).where(Experiment.public_id == experiment_id))
    if row is None:
        raise NotFoundError(f"experiment {experiment_id!r} does not exist", field=field)
    return row
