from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from tessera.errors import InvalidArgumentError
from tessera.rpc.certificates import ServerCertificate
from tessera.rpc.channel import open_channel
from tessera.rpc.server import GrpcServer
from tessera.settings import ClientSettings, ServerSettings
from tests.fixtures.certificates import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def test_the_metric_tells_how_long_the_first_of_a_chain_to_end_is_valid(tmp_path: Path, authority: Authority) -> None:
    pair = authority.issue("server", ends=datetime.now(UTC) + timedelta(days=30))
    pair.cert.write_bytes(pair.cert.read_bytes() + authority.cert.read_bytes())  # which ends in a day
    served = ServerCertificate(pair.cert, pair.key, None)

    def days_left() -> float:
        seconds = REGISTRY.get_sample_value("tls_certificate_expiry_seconds", {"file": str(pair.cert)})
        assert seconds is not None
        return seconds / 86400

    assert days_left() == pytest.approx(1, abs=0.1)
    authority.issue("server", ends=datetime.now(UTC) - timedelta(days=2))
    assert served.refresh()
    assert days_left() == pytest.approx(-2, abs=0.1)


@pytest.mark.parametrize("content", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_refused_by_its_setting(tmp_path: Path, authority: Authority, content: bytes) -> None:
    broken, pair = tmp_path / "broken", authority.issue("server")
    broken.write_bytes(content)
    with pytest.raises(InvalidArgumentError, match="tls_cert holds no certificate"):
        GrpcServer(ServerSettings(tls_cert=broken, tls_key=pair.key), [])
    with pytest.raises(InvalidArgumentError, match="tls_client_ca holds no certificate"):
        GrpcServer(ServerSettings(tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=broken), [])
    with pytest.raises(InvalidArgumentError, match="tls_key holds no private key"):
        GrpcServer(ServerSettings(tls_cert=pair.cert, tls_key=broken), [])
    with pytest.raises(InvalidArgumentError, match="tls_ca holds no certificate"):
        open_channel("127.0.0.1:1", ClientSettings(tls_ca=broken))


def test_the_key_of_another_certificate_is_refused(authority: Authority) -> None:
    pair, other = authority.issue("server"), authority.issue("other")
    with pytest.raises(InvalidArgumentError, match="tls_key is not the key"):
        GrpcServer(ServerSettings(tls_cert=pair.cert, tls_key=other.key), [])
    with pytest.raises(InvalidArgumentError, match="tls_key is not the key"):
        open_channel("127.0.0.1:1", ClientSettings(tls_ca=authority.cert, tls_cert=pair.cert, tls_key=other.key))
