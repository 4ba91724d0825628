"""Certificates for TLS: what a server shows, until when, and what a caller trusts. All of them may change while a process runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from prometheus_client import Gauge

from tessera.errors import InvalidArgumentError, UnavailableError
from tessera.settings import ClientSettings, ServerSettings
from tessera.watched_files import WatchedFiles

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

log = structlog.get_logger()

EXPIRY = Gauge("tls_certificate_expiry_seconds", "Seconds until the certificate of this server expires, negative afterwards", ["file"])

_SOON = timedelta(days=14)
_LATE_PART = 4
"""A certificate that lives for a short time expires soon in the last fourth of it."""
_TIME = "%Y-%m-%d %H:%M:%S UTC"


@dataclass(frozen=True)
class Identity:
    """What a server shows to its callers, and what it asks of them.

    Attributes:
        key: Private key, PEM.
        chain: Its certificate and those between it and the authority, PEM.
        client_ca: Certificates that vouch for callers, PEM; None asks callers for none.
        begins: First moment at which all of the chain is valid.
        ends: Last one.
    """

    key: bytes
    chain: bytes
    client_ca: bytes | None
    begins: datetime
    ends: datetime


class ServerCertificate(WatchedFiles[Identity]):
    """The certificate of a server, read again when it was renewed; not ready while it is not valid.

    Args:
        cert: Certificate chain (PEM).
        key: Its key (PEM).
        client_ca: Certificates (PEM) that vouch for callers, who then must show one; None for none.

    Raises:
        InvalidArgumentError: A file cannot be read, or is not what it must be.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        super().__init__("certificate", [cert, key, *([client_ca] if client_ca else [])], _identity)
        self._file = str(cert)
        self._shown = self.value
        self._warned_of: Identity | None = None
        EXPIRY.labels(self._file).set_function(self._seconds_left)

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that show every new connection the certificate of that moment."""
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self.value), self._renewed, require_client_authentication=self.value.client_ca is not None
        )

    async def check(self) -> None:
        """Look at the files; raises UnavailableError while the certificate is not valid."""
        await super().check()
        identity, now = self.value, datetime.now(UTC)
        if now > identity.ends:
            raise UnavailableError(
                f"{self._file} expired at {identity.ends:{_TIME}}; once it is renewed, it is read again without a restart"
            )
        if now < identity.begins:
            raise UnavailableError(f"{self._file} is not valid before {identity.begins:{_TIME}}; is the clock right?")
        if now > identity.ends - min(_SOON, (identity.ends - identity.begins) / _LATE_PART) and identity is not self._warned_of:
            log.warning("the certificate expires soon", file=self._file, expires=f"{identity.ends:{_TIME}}")
            self._warned_of = identity

    def _seconds_left(self) -> float:
        return (self.value.ends - datetime.now(UTC)).total_seconds()

    def _renewed(self) -> Any:  # None too, whatever the annotations of gRPC say
        """Return the certificate if it is another one than at the last connection, else None; called by gRPC, in a thread of its own."""
        identity = self.value
        if identity is self._shown:
            return None
        self._shown = identity
        return _configuration(identity)


def server_certificate(settings: ServerSettings) -> ServerCertificate | None:
    """Return the certificate of a server, None for one that speaks in the clear.

    Raises:
        InvalidArgumentError: A file cannot be read, or is not what it must be.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return ServerCertificate(settings.tls_cert, settings.tls_key, settings.tls_client_ca)


def client_credentials(settings: ClientSettings) -> WatchedFiles[grpc.ChannelCredentials | None]:
    """Return what a caller trusts and shows; None in it stands for speaking in the clear.

    Raises:
        InvalidArgumentError: A file cannot be read, or is not what it must be.
    """
    paths = [path for path in (settings.tls_ca, settings.tls_key, settings.tls_cert) if path]
    return WatchedFiles("certificates", paths, _credentials)


def _identity(chain: bytes, key: bytes, client_ca: bytes | None = None) -> Identity:
    certificates = _pair(chain, key)
    if client_ca is not None:
        _certificates(client_ca, "tls_client_ca")
    begins, ends = max(each.not_valid_before_utc for each in certificates), min(each.not_valid_after_utc for each in certificates)
    return Identity(key, chain, client_ca, begins, ends)


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(identity.key, identity.chain)], root_certificates=identity.client_ca)


def _credentials(ca: bytes | None = None, key: bytes | None = None, cert: bytes | None = None) -> grpc.ChannelCredentials | None:
    if ca is None:
        return None
    _certificates(ca, "tls_ca")
    if key is not None and cert is not None:
        _pair(cert, key)
    return grpc.ssl_channel_credentials(ca, key, cert)


def _pair(chain: bytes, key: bytes) -> "Sequence[Certificate]":
    """Return the certificates of a chain; raises InvalidArgumentError unless the key is that of the first of them."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    certificates = _certificates(chain, "tls_cert")
    try:
        public_key = load_pem_private_key(key, password=None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidArgumentError("tls_key holds no private key (PEM, without a password)", field="tls_key") from error
    if public_key != certificates[0].public_key():
        raise InvalidArgumentError("tls_key is not the key of the (first) certificate of tls_cert", field="tls_key")
    return certificates


def _certificates(data: bytes, field: str) -> "Sequence[Certificate]":
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(data)
    except ValueError as error:
        raise InvalidArgumentError(f"{field} holds no certificate (PEM), or one that cannot be read", field=field) from error
