"""What the client of TorchServe makes of answers that a real one gives too seldom to wait for."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from services.inference.torchserve.client import Client
from tessera.errors import NotFoundError, TesseraError


class Answer(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return ""


class Management:
    """Answers UnregisterModel with these statuses, one after the other, then well."""

    def __init__(self, *codes: grpc.StatusCode) -> None:
        self._codes = iter(codes)
        self.calls = 0

    def UnregisterModel(self, request: Any, **options: Any) -> None:
        self.calls += 1
        if code := next(self._codes, None):
            raise Answer(code)


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client("127.0.0.1:1", "127.0.0.1:1")
    yield client
    client.close()


def test_a_model_that_torchserve_was_interrupted_in_removing_is_removed_once_more(client: Client) -> None:
    client._management = Management(grpc.StatusCode.UNKNOWN)
    client.unregister("puzzle-1")
    assert client._management.calls == 2


def test_what_keeps_failing_is_told(client: Client) -> None:
    client._management = Management(grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNKNOWN)
    with pytest.raises(TesseraError, match="UNKNOWN"):
        client.unregister("puzzle-1")


def test_one_that_is_gone_is_not_asked_for_twice(client: Client) -> None:
    client._management = Management(grpc.StatusCode.NOT_FOUND)
    with pytest.raises(NotFoundError):
        client.unregister("puzzle-1")
    assert client._management.calls == 1
