"""Ask a process once whether it is well: `python -m tessera.probe TARGET`, for health checks of containers.

`host:port` asks a server for its gRPC health, over TLS if `TESSERA_PROBE_TLS_CA` names the certificates (PEM) that vouch for it, with
the certificate of `TESSERA_PROBE_TLS_CERT` and `TESSERA_PROBE_TLS_KEY` where the server wants one;
`http://host:port/metrics` asks a process without a server, such as the training worker, for its `process_ready`. It exits with 0 if the
process is well, else with 1 and one line that says why not; it never takes longer than a few seconds.

It is asked every few seconds, so it imports little, and nothing of the kernel.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

_TIMEOUT_S = 3.0
_READY = "process_ready 1"


class NotWellError(Exception):
    """The process does not answer, or says itself that it is not well; the text says which."""


@dataclass(frozen=True)
class Tls:
    """Files (PEM) for a server with TLS.

    Attributes:
        ca: Certificates that vouch for the server; None speaks in the clear.
        cert: Own certificate, for a server that wants one.
        key: Its key.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def probe(target: str, tls: Tls) -> None:
    """Return if the process is well.

    Args:
        target: `host:port` of a gRPC server, or `http://host:port/metrics`.
        tls: How to speak with a gRPC server.

    Raises:
        NotWellError: It is not, or cannot be asked.
    """
    if target.startswith("http://"):
        _probe_metrics(target)
    else:
        _probe_health(target, tls)


def _probe_health(address: str, tls: Tls) -> None:
    import grpc
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_health.v1.health_pb2_grpc import HealthStub

    options = [("grpc.enable_http_proxy", 0)]
    if tls.ca is None:
        channel = grpc.insecure_channel(address, options)
    else:
        credentials = grpc.ssl_channel_credentials(_read(tls.ca), _read(tls.key), _read(tls.cert))
        channel = grpc.secure_channel(address, credentials, options)
    with channel:
        try:
            status = HealthStub(channel).Check(HealthCheckRequest(), timeout=_TIMEOUT_S).status
        except grpc.RpcError as error:
            raise NotWellError(f"{address} does not answer: {error.code().name}: {error.details()}") from error
    if status != HealthCheckResponse.SERVING:
        raise NotWellError(f"{address} says {HealthCheckResponse.ServingStatus.Name(status)}")


def _read(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise NotWellError(f"cannot read {path}: {error.strerror}") from error


def _probe_metrics(url: str) -> None:
    try:
        parts = urlsplit(url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
        connection.request("GET", parts.path or "/")
        text = connection.getresponse().read().decode(errors="replace")
        connection.close()
    except (OSError, HTTPException, ValueError) as error:
        raise NotWellError(f"{url} does not answer: {error}") from error
    if not any(line.startswith(_READY) for line in text.splitlines()):
        raise NotWellError(f"{url} does not say {_READY}")


def _named(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None


def main(arguments: Sequence[str]) -> int:
    """Probe the one target and return the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tessera.probe host:port | http://host:port/metrics\n")
        return 2
    try:
        probe(arguments[0], Tls(*(_named(f"TESSERA_PROBE_TLS_{name}") for name in ("CA", "CERT", "KEY"))))
    except NotWellError as reason:
        sys.stderr.write(f"{reason}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
