"""PuzzleService."""

from services.inference.puzzle import TASK, PuzzleServicer
from services.inference.typed.module import Parts
from tessera.api.inference.v1 import puzzle_pb2
from tessera.api.inference.v1.puzzle_pb2_grpc import add_PuzzleServiceServicer_to_server
from tessera.rpc.auth import Role
from tessera.rpc.server import Service

__all__ = ["TASK", "create"]


def create(parts: Parts) -> Service:
    """Return the service of a server."""
    descriptor = puzzle_pb2.DESCRIPTOR.services_by_name["PuzzleService"]
    return Service(add_PuzzleServiceServicer_to_server, PuzzleServicer(parts.router), descriptor, {"ClassifyCell": Role.READER})
