"""Settings of the trainer."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from tessera.settings import ClientSettings, Port, Seconds, ServerSettings


class TrainerSettings(ServerSettings):
    """The trainer: takes training jobs, hands them to workers and keeps the truth about them."""

    model_config = SettingsConfigDict(env_prefix="TESSERA_TRAINER_")

    port: Port = Field(8020, description="Port to listen on; 0 takes a free one.")
    metrics_port: Port | None = Field(8021, description="Port of Prometheus /metrics; 0 takes a free one, none turns it off.")
    database_url: SecretStr = Field(description="sqlite:////absolute/file.db or postgresql+psycopg://user:password@host:port/database.")
    redis_url: SecretStr = Field(description="redis://:password@host:port/0 of a Redis that is append-only and evicts nothing.")
    registry_address: str = Field("127.0.0.1:8010", description="The registry, host:port.")
    registry: ClientSettings = Field(ClientSettings(), description="How to reach the registry.")
    lease_s: Seconds = Field(30.0, description="An attempt that its worker does not report for this long is lost, in seconds.")
    retry_delay_s: float = Field(5.0, ge=0, description="Pause before the first retry, in seconds; doubles with each, up to 300.")
    reconcile_s: Seconds = Field(1.0, description="Time between two looks at what is still to be done, in seconds.")
    family_keep_s: Seconds = Field(7 * 24 * 3600.0, description="A family that no worker has announced for this long is forgotten.")
