"""Settings of the registry."""

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from tessera.settings import Port, ServerSettings


class RegistrySettings(ServerSettings):
    """The model registry: models, versions, aliases, experiments and their files."""

    model_config = SettingsConfigDict(env_prefix="TESSERA_REGISTRY_")

    port: Port = Field(8010, description="Port to listen on; 0 takes a free one.")
    metrics_port: Port | None = Field(8011, description="Port of Prometheus /metrics; 0 takes a free one, none turns it off.")
    database_url: SecretStr = Field(description="sqlite:////absolute/file.db or postgresql+psycopg://user:password@host/database.")
    blob_store: str = Field(description="Where files lie: file:///absolute/directory or s3://bucket.")
    s3_endpoint: str = Field("", description="host:port of the S3 server.")
    s3_access_key: str = Field("", description="Name of the S3 key.")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="The S3 key itself.")
    s3_region: str = Field("us-east-1", description="Region with which S3 requests are signed.")
    s3_secure: bool = Field(True, description="Speak TLS with the S3 server.")
    s3_public_endpoint: str = Field("", description="host:port of the S3 server for callers, in presigned URLs; empty is s3_endpoint.")
    s3_public_secure: bool = Field(True, description="Speak TLS with s3_public_endpoint.")
