"""Settings of the inference service."""

import os
import socket
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from tessera.cpus import available_cpus
from tessera.settings import ClientSettings, Port, ServerSettings

Count = Annotated[int, Field(ge=1)]


def _default_name() -> str:
    return f"inference/{socket.gethostname()}-{os.getpid()}"


def _default_instances() -> int:
    """Return the CPUs that the event loop, which needs one for itself, leaves over."""
    return max(1, available_cpus() - 1)


class SamplingSettings(BaseModel):
    """Which requests are kept as samples in the registry's blob store; none unless `ratio` is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ratio: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="Part of the requests of which a sample is kept, 0 to 1; 0: none.")
    models: tuple[str, ...] = Field((), description="Models whose requests are sampled; empty: all.")
    ttl_s: Annotated[float, Field(ge=60, le=30 * 86400)] = Field(7 * 86400.0, description="Seconds that a sample is kept, at most 30 days.")
    bytes_per_hour: Count = Field(256 << 20, description="Most bytes of samples that this server keeps of an hour.")


class InferenceSettings(ServerSettings):
    """Settings of the inference service, which answers with the versions that the registry's aliases name."""

    model_config = SettingsConfigDict(env_prefix="TESSERA_INFERENCE_")

    port: Port = Field(8001, description="Port to listen on; 0 takes a free one.")
    metrics_port: Port | None = Field(8002, description="Port of Prometheus /metrics; 0 takes a free one, none turns it off.")
    drain_s: float = Field(
        0.5, ge=0, description="Seconds between NOT_SERVING and refusing calls; calls on their way here arrive meanwhile."
    )
    name: str = Field(
        default_factory=_default_name,
        min_length=1,
        max_length=256,
        description="Name under which this server holds leases in the registry.",
    )
    registry_address: str = Field("127.0.0.1:8010", description="The registry, host:port.")
    registry: ClientSettings = Field(default_factory=ClientSettings, description="How to reach the registry.")
    cache_dir: Path = Field(Path("~/.tessera/cache"), description="Where the files of versions are kept; several servers may share it.")
    cache_bytes: Annotated[int, Field(ge=0)] = Field(
        10 << 30, description="Most bytes of versions that are not loaded; those that were used longest ago are removed first."
    )
    max_batch: Annotated[int, Field(ge=1, le=1024)] = Field(32, description="Most rows that are computed together.")
    queue_size: Count = Field(1024, description="Most requests that wait for a version; more are refused.")
    threads: Count = Field(1, description="Threads that one batch may use.")
    instances: Count = Field(
        default_factory=_default_instances, description="Batches of a version computed at the same time; by default the CPU quota less one."
    )
    max_on_demand: Count = Field(
        4, description="Most versions that are kept loaded without an alias, because they were asked for by number."
    )
    lease_s: Annotated[float, Field(ge=3, le=86400)] = Field(60.0, description="Seconds that versions stay protected if this server dies.")
    sampling: SamplingSettings = Field(default_factory=SamplingSettings, description="Samples of requests.")
