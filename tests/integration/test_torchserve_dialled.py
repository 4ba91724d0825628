"""A TorchServe that somebody else started is reached with its keys, which are renewed before they expire."""

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.inference.torchserve.keys import Keys
from services.inference.torchserve.settings import TorchServeSettings
from tests.fixtures.torchserve_process import TorchServeContainer


def test_a_key_is_renewed_before_it_expires(torchserve_container: TorchServeContainer, tmp_path: Path) -> None:
    torchserve_container.start_and_await()
    url = f"http://127.0.0.1:{torchserve_container.ports['http_management_port']}"
    file = torchserve_container.directory / "key_file.json"
    aging = tmp_path / "key_file.json"
    keys = json.loads(file.read_bytes())
    soon = datetime.now(UTC) + timedelta(minutes=1)
    keys["management"]["expiration time"] = soon.strftime("%Y-%m-%dT%H:%M:%S.%f") + "123Z"
    aging.write_text(json.dumps(keys))
    Keys(aging, url).metadata("management")
    renewed = json.loads(file.read_bytes())
    assert renewed["management"]["key"] != keys["management"]["key"], "TorchServe has written a new one into its own file"
    with closing(torchserve_container.client()) as client:
        assert client.models() == []


def test_a_key_that_nobody_renews_is_used_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "key_file.json"
    file.write_text(json.dumps({"inference": {"key": "abc", "expiration time": "2020-01-01T00:00:00.123456789Z"}}))
    assert Keys(file).metadata("inference") == (("authorization", "Bearer abc"),)
    assert Keys(file, "http://127.0.0.1:9").metadata("inference") == (("authorization", "Bearer abc"),)
    assert Keys(tmp_path / "missing.json").metadata("inference") == ()


@pytest.mark.parametrize("told", [{"address": "torchserve:7070"}, {"management_address": "torchserve:7071"}, {"key_file": "key_file.json"}])
def test_half_an_address_is_refused(told: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="management_address"):
        TorchServeSettings.model_validate(told)
