"""Settings of a process: one frozen class each, read from the environment and the command line, listed by `--help`.

A service derives from `ServerSettings` (a process without a gRPC server from `ProcessSettings`), sets `env_prefix` and adds its fields.
Each field is a variable of the environment (`TESSERA_REGISTRY_PORT`) and an option (`--port`); the option wins. Nested settings are
reached through two underscores or a dot: `TESSERA_WORKER_TRAINER__TOKEN_FILE`, `--trainer.token-file`. The word `none` stands for no
value.
"""

import sys
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_MESSAGE_BYTES = 16 * 2**20

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address can be reached from this machine only."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class ClientSettings(BaseModel):
    """How to reach a server; a process that calls others nests one of these for each."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    tls_ca: Path | None = Field(None, description="Certificates (PEM) that vouch for the server; given, the connection is TLS.")
    tls_cert: Path | None = Field(None, description="Own certificate (PEM) for mutual TLS.")
    tls_key: Path | None = Field(None, description="Key (PEM) of the own certificate.")
    token: SecretStr | None = Field(None, description="Bearer token; better kept in a file.")
    token_file: Path | None = Field(None, description="File that holds the bearer token.")
    allow_insecure: bool = Field(False, description="Send the token without TLS to other machines too.")
    timeout_s: Seconds = Field(10.0, description="Seconds until a call is given up.")
    max_message_bytes: int = Field(DEFAULT_MESSAGE_BYTES, ge=1024, description="Largest message sent or taken, in bytes.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both or none")
        if self.tls_cert and not self.tls_ca:
            raise ValueError("tls_cert needs tls_ca, the certificates that vouch for the server")
        if self.token and self.token_file:
            raise ValueError("set token or token_file, not both")
        return self


class ProcessSettings(BaseSettings):
    """What every process of Tessera can be told."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="TESSERA_",
        env_nested_delimiter="__",
        env_parse_none_str="none",
        hide_input_in_errors=True,  # a mistyped secret must not end up in an error message
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
    )

    host: str = Field("127.0.0.1", description="Address to listen on, for calls and metrics.")
    metrics_port: Port | None = Field(0, description="Port of Prometheus /metrics; 0 takes a free one, none turns it off.")
    shutdown_grace_s: Seconds = Field(20.0, description="Seconds that running work gets to end after SIGTERM.")
    otlp_endpoint: str | None = Field(None, description="Where traces go: http://host:4317 or https://host:4317 (OTLP over gRPC).")
    otlp_sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="Part of the traces that is recorded, 0 to 1; a caller's traceparent decides for its own trace."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    log_format: Literal["json", "text"] = Field("json", description="One JSON object a line, or text for people.")


class ServerSettings(ProcessSettings):
    """What every gRPC server of Tessera can be told.

    Refused at construction: a server that other machines can reach without tokens, or with tokens that travel in the clear, unless
    `allow_insecure` says that this is meant (behind a proxy that does both, for example).
    """

    port: Port = Field(0, description="Port to listen on; 0 takes a free one.")
    tls_cert: Path | None = Field(None, description="Certificate chain (PEM) of this server; given, it speaks TLS only.")
    tls_key: Path | None = Field(None, description="Key (PEM) of the certificate.")
    tls_client_ca: Path | None = Field(None, description="Certificates (PEM) that vouch for clients; given, clients must show one.")
    tokens_file: Path | None = Field(None, description="Who may call: a line `sha256-of-token role identity` for each token.")
    allow_insecure: bool = Field(False, description="Serve other machines without tokens, or tokens without TLS.")
    max_message_bytes: int = Field(DEFAULT_MESSAGE_BYTES, ge=1024, description="Largest message sent or taken, in bytes.")
    default_timeout_s: Seconds = Field(60.0, description="Deadline of unary calls that bring none, in seconds.")
    stall_s: Seconds = Field(300.0, description="Seconds that a client may leave a stream unread while there is more to send to it.")
    drain_s: float = Field(0.0, ge=0, description="Seconds between NOT_SERVING and refusing calls, for load balancers to notice.")

    @model_validator(mode="after")
    def _check_security(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: set both or none")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca needs tls_cert and tls_key: clients show certificates over TLS only")
        if self.allow_insecure or is_loopback(self.host):
            return self
        if self.tokens_file is None:
            raise ValueError(
                f"host {self.host} is open to other machines, but nobody would have to show a token: set tokens_file, "
                "or listen on 127.0.0.1, or set allow_insecure if something in front of this server decides who may call"
            )
        if self.tls_cert is None:
            raise ValueError(
                f"host {self.host} is open to other machines, but tokens would travel in the clear: set tls_cert and tls_key, "
                "or listen on 127.0.0.1, or set allow_insecure if something in front of this server speaks TLS"
            )
        return self


S = TypeVar("S", bound=ProcessSettings)


def load_settings(cls: type[S], argv: Sequence[str] | None = None) -> S:
    """Read settings from the environment and the command line; end the process with what is wrong if they do not hold.

    Args:
        cls: The class of the settings.
        argv: Options without the program's name; those of the process by default.

    Raises:
        SystemExit: With 0 after `--help`, with 2 if a setting is wrong.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(describe(cls))
        raise SystemExit(0)
    try:
        return cls(_cli_parse_args=arguments)
    except ValidationError as error:
        sys.stderr.write("\n".join([*map(_problem, error.errors(include_input=False)), "--help lists every setting", ""]))
        raise SystemExit(2) from None


def describe(cls: type[ProcessSettings]) -> str:
    """Return the table that `--help` prints: option, variable, default and meaning of every setting."""
    prefix = cls.model_config.get("env_prefix", "")
    rows = [("option", "variable", "default", "meaning")]
    for path, field in _fields(cls):
        option = "--" + ".".join(path).replace("_", "-")
        rows.append((option, prefix + "__".join(path).upper(), _default(field), field.description or ""))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows]
    head = (cls.__doc__ or "").strip().splitlines()[0]
    return "\n".join([head, "", *lines, "", "An option wins over its variable; `none` stands for no value.", ""])


def _problem(details: ErrorDetails) -> str:
    where = ".".join(map(str, details["loc"])) or "settings"
    return f"{where}: {details['msg'].removeprefix('Value error, ')}"


def _fields(cls: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Yield every setting with its path, nested ones after the class that holds them."""
    for name, field in cls.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, (*above, name))
        else:
            yield (*above, name), field


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(required)"
    default: Any = field.get_default(call_default_factory=True, validated_data={})
    return "none" if default is None else str(default)
