"""Who may call what: every method of every service with its least role. A change here is a change of the security model."""

from typing import Any, cast
from unittest.mock import Mock

from services.inference.__main__ import build_services
from services.inference.queued.wiring import QueuedInference
from services.inference.settings import InferenceSettings
from services.registry.servicer import registry_service
from services.trainer.servicer import TRAINER_ROLES, WORKER_ROLES
from tessera.rpc.auth import Role


def by_role(roles: Any) -> dict[str, set[str]]:
    return {role.name: {method for method, least in roles.items() if least is role} for role in Role}


def test_the_registry() -> None:
    nothing = cast("Any", None)
    assert by_role(registry_service(nothing, nothing).roles) == {
        "READER": {
            *("GetModel", "ListModels", "GetVersion", "ListVersions", "VerifyVersion", "ListAliasHistory"),
            *("GetRollout", "ListRollouts", "ListRolloutHistory"),
            *("GetExperiment", "ListExperiments", "GetDownload", "DownloadBlob", "AcquireLease", "ReleaseLease", "Watch"),
        },
        "PUBLISHER": {
            *("CreateModel", "UpdateModel", "CreateVersion", "UpdateVersion", "BeginUpload", "UploadBlob", "CompleteUpload"),
            *("CreateExperiment", "LogMetrics", "FinishExperiment"),
            "EndRollout",  # as ROLLED_BACK; OPERATOR otherwise, see tests/integration/test_registry_roles.py
            "SetAlias",  # with the fence of a job; OPERATOR without, see tests/integration/test_registry_roles.py
        },
        "OPERATOR": {"DeleteModel", "DeleteVersion", "DeleteAlias", "CollectGarbage", "ListLeases", "StartRollout", "UpdateRollout"},
    }


def test_the_trainer() -> None:
    assert by_role(TRAINER_ROLES) == {
        "READER": {"ListFamilies", "GetJob", "ListJobs", "WatchJob"},
        "PUBLISHER": {"SubmitJob", "CancelJob"},
        "OPERATOR": set(),
    }


def test_what_workers_call() -> None:
    assert by_role(WORKER_ROLES) == {
        "READER": set(),
        "PUBLISHER": {"RegisterWorker", "ClaimJob", "ReportProgress", "FinishAttempt"},
        "OPERATOR": set(),
    }


def test_inference() -> None:
    services = build_services(InferenceSettings(), cast("Any", None), Mock(), QueuedInference())
    roles = {service.descriptor.name: by_role(service.roles) for service in services}
    assert roles == {
        "PuzzleService": {"READER": {"ClassifyCell"}, "PUBLISHER": set(), "OPERATOR": set()},
        "ServingService": {"READER": {"ListServed"}, "PUBLISHER": set(), "OPERATOR": set()},
        "GRPCInferenceService": {
            "READER": {
                *("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer"),
                *("ModelStatistics", "RepositoryIndex"),
            },
            "PUBLISHER": set(),
            "OPERATOR": {"RepositoryModelLoad", "RepositoryModelUnload"},
        },
        "PtychographyService": {"READER": {"Reconstruct", "SubmitReconstruction"}, "PUBLISHER": set(), "OPERATOR": set()},
        "QueuedInferenceService": {
            "READER": {"SubmitInference", "GetInference", "ListInferences", "WatchInference", "GetResult", "CancelInference"},
            "PUBLISHER": set(),
            "OPERATOR": set(),
        },
    }
