"""Settings of the TorchServe beside the inference service, and of the one in a container of its own."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import SettingsConfigDict

from tessera.settings import Port, ProcessSettings, Seconds


class TorchServeSettings(BaseModel):
    """A TorchServe of our own, started when a version needs it; or, with `address`, one that runs already and may serve others too."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    workers: Annotated[int, Field(ge=1)] = Field(1, description="Python workers of a version; each takes 300 MB and more.")
    start_timeout_s: Seconds = Field(60.0, description="Seconds that TorchServe, and then each worker, may take to start.")
    response_timeout_s: Annotated[int, Field(ge=1)] = Field(30, description="Seconds for a batch; TorchServe then restarts the worker.")
    log_file: Path | None = Field(None, description="Log of our own TorchServe; none: torchserve.log in the cache directory.")
    address: str = Field("", description="Inference API (gRPC) of a TorchServe that runs already, host:port; empty starts one.")
    management_address: str = Field("", description="Its management API (gRPC), host:port.")
    management_url: str = Field("", description="Its management API (HTTP), for new keys; empty: keys are only read.")
    key_file: Path | None = Field(None, description="Its key_file.json; none if it asks for no keys.")
    model_store: Path | None = Field(None, description="Its model store, a directory that this process writes to.")

    @model_validator(mode="after")
    def _dialled_as_a_whole(self) -> Self:
        if self.address and not (self.management_address and self.model_store):
            raise ValueError("address needs management_address and model_store: models are registered there")
        if not self.address and (self.management_address or self.management_url or self.key_file or self.model_store):
            raise ValueError("management_address, management_url, key_file and model_store belong to a TorchServe named by address")
        return self


class ForegroundSettings(ProcessSettings):
    """Settings of `python -m services.inference.torchserve`: TorchServe in a container, which inference servers dial.

    Its management API obeys whoever has the keys in the directory: let only inference servers reach it.
    """

    model_config = SettingsConfigDict(env_prefix="TESSERA_TORCHSERVE_")

    metrics_port: Port | None = Field(7072, description="Port of Prometheus /metrics with `process_ready`, for health checks.")
    directory: Path = Field(
        Path("/var/lib/torchserve"), description="Its files: archives (store/) and keys (key_file.json), shared with inference servers."
    )
    inference_port: Port = Field(7070, description="Port of the inference API (gRPC).")
    management_port: Port = Field(7071, description="Port of the management API (gRPC).")
    http_inference_port: Port = Field(8080, description="Port of the inference API (HTTP), on loopback; nobody uses it.")
    http_management_port: Port = Field(8081, description="Port of the management API (HTTP), on loopback; nobody uses it.")
    threads: Annotated[int, Field(ge=1, le=256)] = Field(1, description="Threads that a worker may use while it starts.")
