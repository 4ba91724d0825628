"""What tests of the command share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.ports import free_port
from tests.unit.cli_fakes import Fakes, serve_fakes


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Fakes]:
    with serve_fakes() as serving:
        for service in ("REGISTRY", "TRAINER", "INFERENCE"):
            monkeypatch.setenv(f"TESSERA_{service}_ADDRESS", serving.address)
        monkeypatch.setenv("TESSERA_HOME", str(tmp_path / "home"))
        serving.registry.add("lego")
        serving.registry.add("other")
        serving.registry.add("puzzle", latest_version=3, champion=1, candidate=3)
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
