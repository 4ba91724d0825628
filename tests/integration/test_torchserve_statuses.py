"""What a real TorchServe answers when something is wrong, and what we make of it; one test for each row of the table."""

import io
import json
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.inference.torchserve import statuses
from services.inference.torchserve.client import Client
from services.inference.torchserve.configuration import HOST, Configuration
from services.inference.torchserve.keys import Keys
from services.inference.torchserve.process import TorchServeProcess
from tessera.api.torchserve.management_pb2 import DescribeModelRequest
from tessera.errors import (
    AlreadyExistsError,
    DataLossError,
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
    TesseraError,
    UnavailableError,
)
from tests.fixtures.waiting import blocking_until

HANDLER = Path(__file__).parents[1] / "fakes" / "torchserve_handler.py"
MOST_BYTES = 8_000_000
RESPONSE_S = 60


def small(directory: Path) -> Configuration:
    """Let two requests wait, and take messages up to a limit that is above TorchServe's own of 6.5 MB."""
    return replace(Configuration.on_free_ports(directory), max_message_bytes=MOST_BYTES, queue_size=2)


def archive(handler: str) -> bytes:
    """Return an archive with this handler."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        model = {"modelName": "m", "modelVersion": "1", "handler": "handler.py"}
        made.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model, "createdOn": "today"}))
        made.writestr("handler.py", handler)
    return file.getvalue()


class Server:
    """A TorchServe with the model m, which does what it is told."""

    def __init__(self, directory: Path) -> None:
        def configure(own: Path) -> Configuration:
            self.configuration = small(own)
            return self.configuration

        self.process = TorchServeProcess(directory / "torchserve.log", threads=1, start_timeout_s=60, configure=configure)
        self.client = self.process.start()
        self.add("one.mar", archive(HANDLER.read_text()))
        self.register("one.mar")

    def add(self, name: str, data: bytes) -> None:
        (self.process.model_store / name).write_bytes(data)

    def register(self, name: str, model: str = "m", response_s: int = RESPONSE_S) -> None:
        self.client.register(model, name, workers=1, response_timeout_s=response_s, startup_timeout_s=60)

    def tell(self, order: str) -> bytes:
        return self.client.predict("m", order.encode(), RESPONSE_S)

    def tell_until_it_lives(self) -> None:
        """Wait until the worker is back."""
        deadline = time.monotonic() + 60
        while True:
            try:
                assert self.tell("tell") == b"told"
                return
            except TesseraError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("statuses"))
    yield made
    made.client.close()
    made.process.close()


def raised(call: Any) -> TesseraError:
    """Return the error, of exactly the class that it has: subclasses count as others."""
    with pytest.raises(TesseraError) as caught:
        call()
    return caught.value


def test_an_answer_is_no_error(server: Server) -> None:
    assert server.tell("tell") == b"told"


def test_a_missing_model_is_not_found(server: Server) -> None:
    error = raised(lambda: server.client.predict("nobody", b"tell", RESPONSE_S))
    assert type(error) is NotFoundError
    assert "nobody" in error.message


def test_the_management_api_does_not_find_it_either(server: Server) -> None:
    assert type(raised(lambda: server.client.ready_workers("nobody"))) is NotFoundError
    assert type(raised(lambda: server.client.unregister("nobody"))) is NotFoundError


@pytest.mark.parametrize(("order", "reason"), [("raise", "Prediction failed"), ("refuse", "as the handler says it")])
def test_a_handler_that_raises_is_an_internal_error_and_no_reason_to_come_again(server: Server, order: str, reason: str) -> None:
    error = raised(lambda: server.tell(order))
    assert type(error) is TesseraError
    assert error.code == "INTERNAL"
    assert error.retry_after_s is None
    assert reason in error.message


def test_a_full_queue_is_resource_exhausted(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    threads = [threading.Thread(target=server.tell, args=(f"wait {gate}",))]
    threads[0].start()
    blocking_until(gate.with_name("gate.begun").exists)
    try:
        for waiting in (1, 2):
            threads.append(threading.Thread(target=server.tell, args=("tell",)))
            threads[-1].start()
            blocking_until(lambda waiting=waiting: pending(server) == waiting)
        error = raised(lambda: server.tell("tell"))
        assert type(error) is ResourceExhaustedError
        assert error.retry_after_s
    finally:
        gate.touch()
        for thread in threads:
            thread.join()


def test_a_worker_that_dies_under_a_request_is_unavailable(server: Server) -> None:
    error = raised(lambda: server.tell("die"))
    assert type(error) is UnavailableError
    assert error.retry_after_s
    server.tell_until_it_lives()


def test_a_batch_that_takes_too_long_is_deadline_exceeded(server: Server, tmp_path: Path) -> None:
    server.add("hasty.mar", archive(HANDLER.read_text()))
    server.register("hasty.mar", "hasty", response_s=1)
    order = f"wait {tmp_path / 'never'}".encode()
    assert type(raised(lambda: server.client.predict("hasty", order, 1))) is DeadlineExceededError
    server.client.unregister("hasty")


def test_a_batch_above_the_limit_of_torchserve_is_not_sent(server: Server) -> None:
    error = raised(lambda: server.client.predict("m", bytes(MOST_BYTES), RESPONSE_S))
    assert type(error) is ResourceExhaustedError
    assert str(MOST_BYTES) in error.message


def test_a_batch_that_torchserve_finds_too_large_is_resource_exhausted(server: Server) -> None:
    unaware = Client(*server.configuration.addresses, Keys(server.configuration.key_file))
    try:
        assert type(raised(lambda: unaware.predict("m", bytes(MOST_BYTES + 1_000_000), RESPONSE_S))) is ResourceExhaustedError
    finally:
        unaware.close()


def test_a_batch_above_the_default_limit_of_torchserve_passes(server: Server) -> None:
    assert server.client.predict("m", b"tell" + bytes(7_000_000), RESPONSE_S) == b"told"


def test_a_model_that_is_there_already_exists(server: Server) -> None:
    assert type(raised(lambda: server.register("one.mar"))) is AlreadyExistsError


def test_a_handler_that_cannot_start_is_a_failed_precondition(server: Server) -> None:
    server.add("bad.mar", archive("class Handler:\n    def initialize(self, context):\n        raise RuntimeError\n    handle = None\n"))
    error = raised(lambda: server.register("bad.mar", "bad"))
    assert type(error) is FailedPreconditionError


def test_an_archive_that_is_damaged_is_data_loss(server: Server) -> None:
    server.add("damaged.mar", archive(HANDLER.read_text()).replace(b"torchserve", b"TORCHSERVE").replace(b"Obeys", b"0beys"))
    assert type(raised(lambda: server.register("damaged.mar", "damaged"))) is DataLossError


def test_an_archive_that_is_missing_is_not_found(server: Server) -> None:
    assert type(raised(lambda: server.register("missing.mar"))) is NotFoundError


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.mar", "https://example.org/a.mar", "file:///etc/a.mar", "../a.mar", "/etc/a.mar"])
def test_an_archive_from_elsewhere_is_refused(server: Server, url: str) -> None:
    assert type(raised(lambda: server.register(url))) is NotFoundError


def test_who_has_no_key_or_a_wrong_one_is_refused_and_a_key_that_was_replaced_is_read_again(server: Server) -> None:
    stranger = Client(*server.configuration.addresses)
    assert type(raised(lambda: stranger.predict("m", b"tell", RESPONSE_S))) is UnavailableError
    assert type(raised(stranger.models)) is UnavailableError
    stranger.close()
    master = json.loads(server.configuration.key_file.read_bytes())["API"]["key"]
    for api in ("inference", "management"):
        port = server.configuration.http_ports[1]
        request = urllib.request.Request(f"http://{HOST}:{port}/token?type={api}", headers={"Authorization": f"Bearer {master}"})
        urllib.request.urlopen(request).close()
    assert server.tell("tell") == b"told"
    assert "m" in server.client.models()


def test_nobody_there_is_unavailable() -> None:
    nobody = Client("127.0.0.1:9", "127.0.0.1:9")
    error = raised(nobody.ping)
    assert type(error) is UnavailableError
    assert error.retry_after_s
    nobody.close()


def test_a_client_that_was_closed_under_a_request_is_unavailable() -> None:
    closed = Client("127.0.0.1:9", "127.0.0.1:9")
    closed.close()
    with pytest.raises(UnavailableError, match="not connected"):
        closed.predict("m", b"", 1.0)


def test_what_is_not_in_the_table_is_internal() -> None:
    error = statuses.translate("Predictions", grpc.StatusCode.UNIMPLEMENTED, "what?")
    assert type(error) is TesseraError
    assert error.message == "TorchServe answered UNIMPLEMENTED: what?"


def pending(server: Server) -> int:
    described = json.loads(server.client._call("DescribeModel", DescribeModelRequest(model_name="m")).msg)
    return int(described[0]["jobQueueStatus"]["pendingRequests"])
