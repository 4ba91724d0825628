"""Small servers that answer what the commands ask: real gRPC, in memory."""

import json
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from typer.testing import CliRunner, Result

from tessera.api.inference.v1 import (
    ptychography_pb2_grpc,
    puzzle_pb2,
    puzzle_pb2_grpc,
    queued_pb2_grpc,
    serving_pb2,
    serving_pb2_grpc,
)
from tessera.api.openinference.v2 import open_inference_pb2, open_inference_pb2_grpc
from tessera.api.registry.v1 import registry_pb2, registry_pb2_grpc
from tessera.api.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from tessera.cli.main import app
from tests.fixtures.certificates import Pair
from tests.unit.ptychography_fakes import FakePtychography

DIGEST = "5a" * 32
MANIFEST = {
    "model": "puzzle",
    "parameters": 632566,
    "runtime": "onnxruntime",
    "lineage": {"seed": 1},
    "files": [{"path": "pictures/heatmap.png", "role": "picture", "size_bytes": 5, "sha256": DIGEST}],
}


class FakeRegistry(registry_pb2_grpc.RegistryServiceServicer):
    """Models, versions and aliases without the rules of the real one, apart from compare-and-swap."""

    def __init__(self) -> None:
        self.models: dict[str, registry_pb2.Model] = {}
        self.history: list[registry_pb2.AliasChange] = []
        self.rollouts: list[registry_pb2.Rollout] = []
        self.blobs: dict[str, bytes] = {}
        self.leases: list[registry_pb2.Lease] = []
        self.intact = True
        self.collected: list[registry_pb2.CollectGarbageRequest] = []

    def add(self, name: str, latest_version: int = 0, **aliases: int) -> None:
        self.models[name] = registry_pb2.Model(name=name, latest_version=latest_version, aliases=aliases)
        for alias, version in aliases.items():
            self._note(name, alias, 0, version)

    def CreateModel(self, request: Any, context: Any) -> Any:
        if request.name in self.models:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"the model {request.name!r} exists already")
        self.add(request.name)
        return registry_pb2.CreateModelResponse(model=self.models[request.name])

    def GetModel(self, request: Any, context: Any) -> Any:
        return registry_pb2.GetModelResponse(model=self._model(request.name, context))

    def ListModels(self, request: Any, context: Any) -> Any:
        names = sorted(self.models)
        position = int(request.page_token or 0)
        page = [self.models[name] for name in names[position : position + 2]]
        more = str(position + 2) if position + 2 < len(names) else ""
        return registry_pb2.ListModelsResponse(models=page, next_page_token=more)

    def UpdateModel(self, request: Any, context: Any) -> Any:
        model = self._model(request.name, context)
        model.serving.CopyFrom(request.serving)
        return registry_pb2.UpdateModelResponse(model=model)

    def DeleteModel(self, request: Any, context: Any) -> Any:
        del self.models[self._model(request.name, context).name]
        return registry_pb2.DeleteModelResponse()

    def GetVersion(self, request: Any, context: Any) -> Any:
        model = self._model(request.selector.model, context)
        version = request.selector.version or model.aliases.get(request.selector.alias or "champion", 0)
        return registry_pb2.GetVersionResponse(version=_version(model, version, with_manifest=True))

    def ListVersions(self, request: Any, context: Any) -> Any:
        return registry_pb2.ListVersionsResponse(
            versions=[_version(m, n) for m in self.models.values() for n in range(1, m.latest_version + 1)]
        )

    def VerifyVersion(self, request: Any, context: Any) -> Any:
        problems = [] if self.intact else ["weights.safetensors: digest differs"]
        return registry_pb2.VerifyVersionResponse(intact=self.intact, problems=problems, bytes_read=5)

    def UpdateVersion(self, request: Any, context: Any) -> Any:
        version = _version(self._model(request.model, context), request.version)
        version.tags.update({"site": "lab", "old": "yes"} | dict(request.set_tags))
        for key in request.remove_tags:
            del version.tags[key]
        return registry_pb2.UpdateVersionResponse(version=version)

    def CollectGarbage(self, request: Any, context: Any) -> Any:
        self.collected.append(request)
        return registry_pb2.CollectGarbageResponse(blobs_removed=2, bytes_freed=3_000_000, uploads_removed=1)

    def DeleteVersion(self, request: Any, context: Any) -> Any:
        return registry_pb2.DeleteVersionResponse()

    def SetAlias(self, request: Any, context: Any) -> Any:
        model = self._model(request.model, context)
        before = model.aliases.get(request.alias, 0)
        if request.HasField("expected_version") and request.expected_version != before:
            context.abort(grpc.StatusCode.ABORTED, f"{request.alias} stands at {before}, not at {request.expected_version}")
        model.aliases[request.alias] = request.version
        return registry_pb2.SetAliasResponse(change=self._note(model.name, request.alias, before, request.version, request.reason))

    def DeleteAlias(self, request: Any, context: Any) -> Any:
        model = self._model(request.model, context)
        before = model.aliases.pop(request.alias)
        return registry_pb2.DeleteAliasResponse(change=self._note(model.name, request.alias, before, 0, request.reason))

    def ListAliasHistory(self, request: Any, context: Any) -> Any:
        changes = [c for c in self.history if c.model == request.model and request.alias in ("", c.alias)]
        return registry_pb2.ListAliasHistoryResponse(changes=reversed(changes))

    def StartRollout(self, request: Any, context: Any) -> Any:
        guard = registry_pb2.RolloutGuard(min_requests=200, max_error_rate_increase=0.01, max_latency_ratio=1.5)
        guard.MergeFrom(request.guard)
        stable = self._model(request.model, context).aliases[request.alias]
        rollout = registry_pb2.Rollout(
            model=request.model,
            alias=request.alias,
            stable_version=stable,
            candidate_version=request.candidate_version,
            weight_percent=request.weight_percent,
            shadow_percent=request.shadow_percent,
            guard=guard,
            state=registry_pb2.ROLLOUT_STATE_ACTIVE,
            actor="anonymous",
            reason=request.reason,
            revision=1,
        )
        self.models[request.model].rollouts.append(rollout)
        self.rollouts.append(rollout)
        return registry_pb2.StartRolloutResponse(rollout=rollout)

    def UpdateRollout(self, request: Any, context: Any) -> Any:
        changed = self._changed(request)
        changed.weight_percent = request.weight_percent if request.HasField("weight_percent") else changed.weight_percent
        changed.guard.MergeFrom(request.guard)
        return registry_pb2.UpdateRolloutResponse(rollout=changed)

    def EndRollout(self, request: Any, context: Any) -> Any:
        ended = self._changed(request)
        ended.state = request.outcome
        return registry_pb2.EndRolloutResponse(rollout=ended)

    def GetRollout(self, request: Any, context: Any) -> Any:
        return registry_pb2.GetRolloutResponse(rollout=self.rollouts[-1])

    def ListRollouts(self, request: Any, context: Any) -> Any:
        return registry_pb2.ListRolloutsResponse(rollouts=self.rollouts[-1:] if request.filter == "state = ACTIVE" else [])

    def ListRolloutHistory(self, request: Any, context: Any) -> Any:
        return registry_pb2.ListRolloutHistoryResponse(changes=reversed(self.rollouts))

    def BeginUpload(self, request: Any, context: Any) -> Any:
        return registry_pb2.BeginUploadResponse(exists=True)

    def GetDownload(self, request: Any, context: Any) -> Any:
        return registry_pb2.GetDownloadResponse(stream=True, size_bytes=len(self.blobs[request.sha256]))

    def DownloadBlob(self, request: Any, context: Any) -> Any:
        yield registry_pb2.DownloadBlobResponse(chunk=self.blobs[request.sha256])

    def ListLeases(self, request: Any, context: Any) -> Any:
        return registry_pb2.ListLeasesResponse(leases=[lease for lease in self.leases if lease.holder.startswith(request.holder_prefix)])

    def GetExperiment(self, request: Any, context: Any) -> Any:
        history = [registry_pb2.EpochMetrics(epoch=1, metrics={"loss": 0.5})]
        return registry_pb2.GetExperimentResponse(experiment=_experiment(request.id, history=history))

    def ListExperiments(self, request: Any, context: Any) -> Any:
        return registry_pb2.ListExperimentsResponse(experiments=[_experiment("e1"), _experiment("e2")])

    def _model(self, name: str, context: Any) -> registry_pb2.Model:
        if name not in self.models:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no model {name!r}")
        return self.models[name]

    def _changed(self, request: Any) -> registry_pb2.Rollout:
        """Add the newest rollout once more, to be changed as a request says that has seen it."""
        changed = registry_pb2.Rollout()
        changed.CopyFrom(self.rollouts[-1])
        assert request.expected_revision == changed.revision
        changed.revision += 1
        changed.reason = request.reason
        self.rollouts.append(changed)
        return changed

    def _note(self, model: str, alias: str, before: int, after: int, reason: str = "") -> registry_pb2.AliasChange:
        change = registry_pb2.AliasChange(model=model, alias=alias, from_version=before, to_version=after, actor="anonymous", reason=reason)
        change.time.GetCurrentTime()
        self.history.append(change)
        return change


class FakeTrainer(trainer_pb2_grpc.TrainerServiceServicer):
    """One family; jobs end as told."""

    def __init__(self) -> None:
        self.submitted: list[trainer_pb2.SubmitJobRequest] = []
        self.outcome: Any = trainer_pb2.JOB_STATE_SUCCEEDED

    def ListFamilies(self, request: Any, context: Any) -> Any:
        family = trainer_pb2.Family(
            name="puzzle_cells",
            architectures=[trainer_pb2.Architecture(name="cells_exp4", parameters=632566)],
            inputs=[trainer_pb2.InputRequirement(name="picture", required=True)],
        )
        family.hyperparameters_schema.update({"properties": {"epochs": {}}})
        return trainer_pb2.ListFamiliesResponse(families=[family])

    def SubmitJob(self, request: Any, context: Any) -> Any:
        self.submitted.append(request)
        job = _job("j1", trainer_pb2.JOB_STATE_QUEUED)
        job.spec.CopyFrom(request.spec)
        return trainer_pb2.SubmitJobResponse(job=job, created=True)

    def GetJob(self, request: Any, context: Any) -> Any:
        return trainer_pb2.GetJobResponse(job=_job(request.id, self.outcome))

    def ListJobs(self, request: Any, context: Any) -> Any:
        jobs = [_job("j1", trainer_pb2.JOB_STATE_RUNNING), _job("j2", trainer_pb2.JOB_STATE_SUCCEEDED)]
        return trainer_pb2.ListJobsResponse(jobs=[job for job in jobs if request.state in (0, job.state)])

    def CancelJob(self, request: Any, context: Any) -> Any:
        return trainer_pb2.CancelJobResponse(job=_job(request.id, trainer_pb2.JOB_STATE_CANCELLED))

    def WatchJob(self, request: Any, context: Any) -> Any:
        for state in (trainer_pb2.JOB_STATE_QUEUED, trainer_pb2.JOB_STATE_RUNNING, self.outcome):
            yield trainer_pb2.WatchJobResponse(job=_job(request.id, state))


class FakeInference(puzzle_pb2_grpc.PuzzleServiceServicer, serving_pb2_grpc.ServingServiceServicer):
    """Places every piece in the cell (1, 0) of a grid of 2 x 2."""

    def __init__(self) -> None:
        self.rollouts: list[serving_pb2.ServedRollout] = []

    def ClassifyCell(self, request: Any, context: Any) -> Any:
        answer = puzzle_pb2.ClassifyCellResponse(columns=2, rows=2)
        answer.candidates.add(column=1, row=0, index=1, probability=0.9, x=0.75, y=0.25)
        answer.answered_by.model, answer.answered_by.version = request.model.model, request.model.version or 7
        answer.answered_by.compute.FromMilliseconds(3)
        answer.answered_by.runtime = dict(context.invocation_metadata()).get("tessera-runtime", "onnxruntime")
        return answer

    def ListServed(self, request: Any, context: Any) -> Any:
        return serving_pb2.ListServedResponse(revision=3, rollouts=self.rollouts)


class FakeTensors(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers the tensors that came."""

    def ModelInfer(self, request: Any, context: Any) -> Any:
        answer = open_inference_pb2.ModelInferResponse(model_name=request.model_name, model_version="7")
        for tensor in request.inputs:
            answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        answer.raw_output_contents.extend(request.raw_input_contents)
        answer.parameters["runtime"].string_param = request.parameters["runtime"].string_param or "onnxruntime"
        return answer


@dataclass
class Fakes:
    """All of them, and where they listen."""

    registry: FakeRegistry = field(default_factory=FakeRegistry)
    trainer: FakeTrainer = field(default_factory=FakeTrainer)
    inference: FakeInference = field(default_factory=FakeInference)
    ptychography: FakePtychography = field(default_factory=FakePtychography)
    health: HealthServicer = field(default_factory=HealthServicer)
    address: str = ""


class TokenNeeded(grpc.ServerInterceptor):
    """Refuses calls without this token, apart from those about health; without a token none."""

    def __init__(self, token: str) -> None:
        self._header = ("authorization", f"Bearer {token}")
        self._refuses = bool(token)

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        if self._refuses and not details.method.startswith("/grpc.health.") and self._header not in details.invocation_metadata:
            return grpc.unary_unary_rpc_method_handler(
                lambda _, context: context.abort(grpc.StatusCode.UNAUTHENTICATED, "this token is not known here")
            )
        return continuation(details)


@contextmanager
def serve_fakes(pair: Pair | None = None, token: str = "") -> Iterator[Fakes]:
    """Run all of them on one port; with a certificate over TLS, with a token for who shows it."""
    fakes = Fakes()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), interceptors=[TokenNeeded(token)])
    health_pb2_grpc.add_HealthServicer_to_server(fakes.health, server)
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(fakes.registry, server)
    trainer_pb2_grpc.add_TrainerServiceServicer_to_server(fakes.trainer, server)
    puzzle_pb2_grpc.add_PuzzleServiceServicer_to_server(fakes.inference, server)
    serving_pb2_grpc.add_ServingServiceServicer_to_server(fakes.inference, server)
    ptychography_pb2_grpc.add_PtychographyServiceServicer_to_server(fakes.ptychography, server)
    queued_pb2_grpc.add_QueuedInferenceServiceServicer_to_server(fakes.ptychography, server)
    open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(FakeTensors(), server)
    if pair is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        credentials = grpc.ssl_server_credentials([(pair.key.read_bytes(), pair.cert.read_bytes())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    fakes.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield fakes
    finally:
        server.stop(None).wait()


def add_models(fakes: Fakes) -> None:
    """Register what the tests ask for."""
    fakes.registry.add("lego")
    fakes.registry.add("other")
    fakes.registry.add("puzzle", latest_version=3, champion=1, candidate=3)


def tessera(*arguments: object) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _version(model: registry_pb2.Model, number: int, *, with_manifest: bool = False) -> registry_pb2.Version:
    version = registry_pb2.Version(
        model=model.name,
        version=number,
        state=registry_pb2.VERSION_STATE_READY,
        digest=DIGEST,
        family="puzzle_cells",
        architecture="cells_exp4",
        metrics={"top1": 0.99},
        aliases=[alias for alias, at in model.aliases.items() if at == number],
        size_bytes=2_500_000,
        manifest_json=json.dumps(MANIFEST).encode() if with_manifest else b"",
    )
    version.create_time.FromSeconds(1_700_000_000)
    return version


def _experiment(identity: str, **fields: Any) -> registry_pb2.Experiment:
    return registry_pb2.Experiment(id=identity, model="puzzle", state=registry_pb2.EXPERIMENT_STATE_SUCCEEDED, version=1, **fields)


def _job(identity: str, state: Any) -> trainer_pb2.Job:
    job = trainer_pb2.Job(id=identity, state=state, attempts=[trainer_pb2.Attempt(number=1, worker="w")])
    job.spec.model, job.spec.architecture = "puzzle", "cells_exp4"
    job.progress.epoch, job.progress.epochs, job.progress.loss = 3, 10, 0.25
    job.progress.eta.FromMilliseconds(1500)
    if state == trainer_pb2.JOB_STATE_SUCCEEDED:
        job.version = 4
    if state == trainer_pb2.JOB_STATE_FAILED:
        job.error = "the picture is too small"
    return job
