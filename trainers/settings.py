"""Settings of the training worker."""

import os
import socket
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from tessera.settings import ClientSettings, Port, ProcessSettings, Seconds


def default_name() -> str:
    """Return a name that no other worker of this moment has: host and process."""
    return f"{socket.gethostname()}/{os.getpid()}"


class WorkerSettings(ProcessSettings):
    """The training worker: takes jobs, trains them in a child process and registers what comes of it."""

    model_config = SettingsConfigDict(env_prefix="TESSERA_WORKER_")

    name: str = Field(default_factory=default_name, min_length=1, max_length=256, description="Unique name; default host/process.")
    metrics_port: Port | None = Field(8022, description="Port of Prometheus /metrics; 0 takes a free one, none turns it off.")
    redis_url: SecretStr = Field(description="redis://:password@host:port/0 of the trainer's Redis.")
    work_dir: Path = Field(description="Where jobs are kept; workers that share it resume each other's jobs from their checkpoints.")
    trainer_address: str = Field("127.0.0.1:8020", description="The trainer, host:port.")
    trainer: ClientSettings = Field(ClientSettings(), description="How to reach the trainer.")
    registry_address: str = Field("127.0.0.1:8010", description="The registry, host:port.")
    registry: ClientSettings = Field(ClientSettings(), description="How to reach the registry.")
    stall_timeout_s: Seconds = Field(120.0, description="A training that is silent for this long is killed, in seconds.")
    stop_grace_s: Seconds = Field(10.0, description="Seconds between SIGTERM and SIGKILL for a training that is to stop.")
    keep_jobs_s: Seconds = Field(7 * 24 * 3600.0, description="Files of ended jobs are removed after this time, in seconds.")
