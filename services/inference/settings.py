"""Settings of the inference service."""

import os
import socket
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from services.inference.torchserve.settings import TorchServeSettings
from tessera.cpus import available_cpus
from tessera.memory import available_memory
from tessera.settings import ClientSettings, Port, Seconds, ServerSettings

Count = Annotated[int, Field(ge=1)]

MOST_INSTANCES = 64
MEMORY_MARGIN = 0.2
"""Part of the memory that is left to the server itself: Python, requests on their way, the batches of a load before they are measured."""


def _default_name() -> str:
    return f"inference/{socket.gethostname()}-{os.getpid()}"


def _default_instances() -> int:
    """Return one for each CPU: while the answers of a batch are written, which takes a CPU as well, another is computed."""
    return min(available_cpus(), MOST_INSTANCES)


def _default_memory_bytes() -> int:
    """Return the part of the memory that is ours that is left for versions."""
    return int(available_memory() * (1 - MEMORY_MARGIN))


class SamplingSettings(BaseModel):
    """Which requests are kept as samples in the registry's blob store; none unless `ratio` is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ratio: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="Part of the requests of which a sample is kept, 0 to 1; 0: none.")
    models: tuple[str, ...] = Field((), description="Models whose requests are sampled; empty: all.")
    ttl_s: Annotated[float, Field(ge=60, le=30 * 86400)] = Field(7 * 86400.0, description="Seconds that a sample is kept, at most 30 days.")
    bytes_per_hour: Count = Field(256 << 20, description="Most bytes of samples that this server keeps of an hour.")


class ReconstructionSettings(BaseModel):
    """Limits of ptychographic reconstructions that are waited for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at_once: Count = Field(4, description="Reconstructions at the same time; more are refused.")
    max_scan_bytes: Count = Field(
        8 << 30, description="Most bytes of the frames of a stream, as FP32; they lie on the disk of the cache directory."
    )
    idle_s: Seconds = Field(300.0, description="A stream that brings no frames for this long, and does not end, is broken off.")


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
    queue_size: Annotated[int, Field(ge=1, le=65536)] = Field(1024, description="Most requests that wait for a version; more are refused.")
    max_concurrency: Annotated[int, Field(ge=0)] = Field(
        0, description="Most calls of a model at once, from decoding to the encoded answer; more are refused. 0 sets no limit."
    )
    threads: Annotated[int, Field(ge=1, le=256)] = Field(1, description="Threads that one batch may use.")
    instances: Annotated[int, Field(ge=1, le=MOST_INSTANCES)] = Field(
        default_factory=_default_instances, description="Batches of a version computed at the same time; by default one for each CPU."
    )
    max_on_demand: Count = Field(
        4, description="Most versions that are kept loaded without an alias, because they were asked for by number."
    )
    lease_s: Annotated[float, Field(ge=3, le=86400)] = Field(60.0, description="Seconds that versions stay protected if this server dies.")
    database_url: SecretStr | None = Field(
        None, description="Database of queued inference, all servers share it: sqlite:////absolute/file.db or postgresql+psycopg://..."
    )
    redis_url: SecretStr | None = Field(
        None, description="Redis of queued inference, append-only and evicting nothing: redis://:password@host:port/0."
    )
    queue_concurrency: Count = Field(2, description="Queued requests of one priority that this server computes at the same time.")
    queue_lease_s: Seconds = Field(30.0, description="An attempt at a queued request that is not heard of for this long is lost.")
    queue_retry_delay_s: float = Field(1.0, ge=0, description="Pause before the first retry, in seconds; doubles with each, up to 60.")
    queue_reconcile_s: Seconds = Field(1.0, description="Time between two looks at what is still to be done, in seconds.")
    queue_keep_s: Seconds = Field(7 * 24 * 3600.0, description="Queued requests that ended longer ago are forgotten, in seconds.")
    sampling: SamplingSettings = Field(default_factory=SamplingSettings, description="Samples of requests.")
    reconstruction: ReconstructionSettings = Field(default_factory=ReconstructionSettings, description="Ptychographic reconstructions.")
    memory_bytes: Annotated[int, Field(ge=0)] = Field(
        default_factory=_default_memory_bytes,
        description="Most memory that all loaded versions may take up together; by default four fifths of the container's limit, or of the "
        "machine. A version that does not fit is refused.",
    )
    load_timeout_s: Seconds = Field(
        600.0, description="Seconds to fetch a version, and again to load and check it; then it is tried again as after any interruption."
    )
    torchserve: TorchServeSettings = Field(default_factory=TorchServeSettings, description="TorchServe, for versions with a .pt2 graph.")

    @model_validator(mode="after")
    def _check_queue(self) -> Self:
        if (self.database_url is None) != (self.redis_url is None):
            raise ValueError("database_url and redis_url belong together: queued inference needs both")
        return self
