"""The registry as a gRPC service: all calls together, and who may make them."""

from services.registry.calls.blobs import BlobCalls
from services.registry.calls.experiments import ExperimentCalls
from services.registry.calls.models import ModelCalls
from services.registry.calls.rollouts import RolloutCalls
from services.registry.calls.versions import VersionCalls
from services.registry.calls.watch import WatchCalls
from services.registry.core import Registry
from services.registry.streams import Transfers
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.api.registry.v1 import registry_pb2_grpc as pb_grpc
from tessera.rpc.auth import Role
from tessera.rpc.server import Service

_DESCRIPTOR = pb.DESCRIPTOR.services_by_name["RegistryService"]

# Servers that only serve read and hold leases; whoever trains publishes; what removes something, or changes what production uses, is for
# operators: SetAlias too, unless a job calls it, and EndRollout, unless a server rolls back (see there).
_READER = {
    *("GetModel", "ListModels", "GetVersion", "ListVersions", "VerifyVersion", "ListAliasHistory", "GetExperiment", "ListExperiments"),
    *("GetRollout", "ListRollouts", "ListRolloutHistory"),
    *("GetDownload", "DownloadBlob", "AcquireLease", "ReleaseLease", "Watch"),
}
_OPERATOR = {"DeleteModel", "DeleteVersion", "DeleteAlias", "CollectGarbage", "ListLeases", "StartRollout", "UpdateRollout"}


class RegistryServicer(ModelCalls, BlobCalls, VersionCalls, RolloutCalls, ExperimentCalls, WatchCalls, pb_grpc.RegistryServiceServicer):
    """Implements `tessera.api.registry.v1.RegistryService`."""


def registry_service(registry: Registry, transfers: Transfers) -> Service:
    """Return the service to be served."""
    roles = {
        method: Role.READER if method in _READER else Role.OPERATOR if method in _OPERATOR else Role.PUBLISHER
        for method in _DESCRIPTOR.methods_by_name
    }
    return Service(pb_grpc.add_RegistryServiceServicer_to_server, RegistryServicer(registry, transfers), _DESCRIPTOR, roles)
