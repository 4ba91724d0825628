"""What tests of the command share."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tessera.api.registry.v1 import registry_pb2
from tests.fixtures.ports import free_port
from tests.unit.cli_fakes import MANIFEST, Fakes, add_models, serve_fakes, tessera
from tests.unit.ptychography_fakes import write_small_scan


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Fakes]:
    with serve_fakes() as serving:
        for service in ("REGISTRY", "TRAINER", "INFERENCE"):
            monkeypatch.setenv(f"TESSERA_{service}_ADDRESS", serving.address)
        monkeypatch.setenv("TESSERA_HOME", str(tmp_path / "home"))
        add_models(serving)
        yield serving


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Addresses where nobody listens."""
    address = f"127.0.0.1:{free_port()}"
    for service in ("REGISTRY", "TRAINER", "INFERENCE"):
        monkeypatch.setenv(f"TESSERA_{service}_ADDRESS", address)
    monkeypatch.setenv("TESSERA_HOME", str(tmp_path / "home"))
    return address


@pytest.fixture
def piece(tmp_path: Path) -> Path:
    file = tmp_path / "piece.png"
    file.write_bytes(b"as the server never looks")
    return file


@pytest.fixture
def here(fakes: Fakes, tmp_path: Path, piece: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with what the commands of ARGUMENTS need, besides the servers."""
    digest = hashlib.sha256(b"bytes").hexdigest()
    fakes.registry.blobs[digest] = b"bytes"
    monkeypatch.setitem(MANIFEST["files"][0], "sha256", digest)
    fakes.registry.leases.append(registry_pb2.Lease(holder=f"sample/puzzle/1/2026-01-02T03:04:05.678900Z/{'ab' * 16}", blob_sha256=digest))
    for version in (1, 2):
        assert tessera("alias", "set", "puzzle", "moved", version).exit_code == 0
    assert tessera("rollout", "start", "puzzle", "--version", 2).exit_code == 0
    np.save(tmp_path / "image.npy", np.ones((1, 3), np.float32))
    write_small_scan(tmp_path / "scan.safetensors")
    log = tmp_path / "home" / "logs" / "registry.log"
    log.parent.mkdir(parents=True)
    log.write_text("ready\n")
    return tmp_path
