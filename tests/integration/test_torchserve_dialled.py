"""A TorchServe that somebody else started: reached by its addresses, with its keys, which are renewed before they expire."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from services.inference.runtimes.runtime import RuntimeOptions
from services.inference.runtimes.torchserve import TorchServeModel, TorchServeRuntime, create
from services.inference.settings import InferenceSettings
from services.inference.torchserve.client import Client
from services.inference.torchserve.configuration import HOST, Configuration
from services.inference.torchserve.keys import Keys
from services.inference.torchserve.process import TorchServeProcess
from services.inference.torchserve.settings import TorchServeSettings
from tests.fixtures.inference import TinyModel
from tests.fixtures.torchserve import program, program_manifest

TINY = TinyModel(marker=3)
IMAGES = np.random.default_rng(1).uniform(0.1, 1, (2, 3, 64, 64)).astype(np.float32)


class Foreign:
    """A TorchServe as an operator starts it, in a pod of its own."""

    def __init__(self, directory: Path) -> None:
        def configure(own: Path) -> Configuration:
            self.configuration = replace(Configuration.on_free_ports(own), max_message_bytes=2**24)
            return self.configuration

        self.process = TorchServeProcess(directory / "torchserve.log", threads=1, start_timeout_s=60, configure=configure)
        self.client = self.process.start()
        self.inference, self.management = self.configuration.addresses
        self.url = f"http://{HOST}:{self.configuration.http_ports[1]}"

    def runtime(self) -> TorchServeRuntime:
        """Return a runtime that dials it, as a server with these settings has."""
        told = TorchServeSettings(
            address=self.inference,
            management_address=self.management,
            management_url=self.url,
            key_file=self.configuration.key_file,
            model_store=self.configuration.model_store,
        )
        return create(InferenceSettings(torchserve=told))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foreign]:
    made = Foreign(tmp_path_factory.mktemp("foreign"))
    yield made
    made.client.close()
    made.process.close()


def load(runtime: TorchServeRuntime, directory: Path) -> TorchServeModel:
    (directory / "model.pt2").write_bytes(program(TINY))
    return runtime.load(program_manifest(TINY), directory / "model.pt2", RuntimeOptions())


def test_a_dialled_torchserve_serves_and_is_left_running_and_what_a_dead_server_left_in_it_goes(foreign: Foreign, tmp_path: Path) -> None:
    dead = foreign.runtime()
    load(dead, tmp_path)
    dead.close()  # without unloading its model, as after a crash
    left = foreign.client.versions("puzzle")
    assert len(left) == 1
    runtime = foreign.runtime()
    model = load(runtime, tmp_path)
    np.testing.assert_allclose(model.run({"image": IMAGES})["logits"], TINY.logits(IMAGES), rtol=1e-4, atol=1e-4)
    assert set(foreign.client.versions("puzzle")).isdisjoint(left)
    model.close()
    runtime.close()
    assert foreign.client.models() == []


def test_a_key_is_renewed_before_it_expires(foreign: Foreign, tmp_path: Path) -> None:
    aging = tmp_path / "key_file.json"
    keys = json.loads(foreign.configuration.key_file.read_bytes())
    soon = datetime.now(UTC) + timedelta(minutes=1)
    keys["management"]["expiration time"] = soon.strftime("%Y-%m-%dT%H:%M:%S.%f") + "123Z"
    aging.write_text(json.dumps(keys))
    Keys(aging, foreign.url).metadata("management")
    renewed = json.loads(foreign.configuration.key_file.read_bytes())
    assert renewed["management"]["key"] != keys["management"]["key"], "TorchServe has written a new one into its own file"
    client = Client(*foreign.configuration.addresses, Keys(foreign.configuration.key_file, foreign.url))
    assert client.models() == []
    client.close()


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
