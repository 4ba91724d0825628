"""PtychographyService."""

from services.inference.ptychography.servicer import ptychography_service
from services.inference.ptychography.task import TASK
from services.inference.ptychography.wiring import build_workshop
from services.inference.typed.module import Parts
from tessera.rpc.server import Service

__all__ = ["TASK", "create"]


def create(parts: Parts) -> Service:
    """Return the service of a server."""
    workshop = build_workshop(parts.settings, parts.registry, parts.router, parts.limits)
    return ptychography_service(workshop, parts.queued.desk)
