"""What the client of TorchServe makes of answers that a real one gives too seldom to wait for."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from services.inference.torchserve.client import Client
from tessera.api.torchserve import management_pb2
from tessera.errors import NotFoundError, TesseraError


class Answer(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return ""


class Management:
    """Answers UnregisterModel with a status as often as told, then well; has these models meanwhile."""

    def __init__(self, code: grpc.StatusCode, *models: str, times: int = 1) -> None:
        self._codes = iter([code] * times)
        self._models = models
        self.calls = 0

    def UnregisterModel(self, request: Any, **options: Any) -> None:
        self.calls += 1
        if code := next(self._codes, None):
            raise Answer(code)

    def ListModels(self, request: Any, **options: Any) -> management_pb2.ManagementResponse:
        return management_pb2.ManagementResponse(msg=json.dumps({"models": [{"modelName": model} for model in self._models]}))


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client("127.0.0.1:1", "127.0.0.1:1")
    yield client
    client.close()


def test_a_model_that_is_gone_is_removed_whatever_torchserve_says_of_it(client: Client) -> None:
    client._management = Management(grpc.StatusCode.UNKNOWN, "lego-1")
    client.unregister("puzzle-1")
    assert client._management.calls == 1


def test_one_that_is_still_there_is_removed_once_more(client: Client) -> None:
    client._management = Management(grpc.StatusCode.UNKNOWN, "puzzle-1")
    client.unregister("puzzle-1")
    assert client._management.calls == 2


def test_one_that_torchserve_does_not_let_go_of_is_told(client: Client) -> None:
    client._management = Management(grpc.StatusCode.UNKNOWN, "puzzle-1", times=2)
    with pytest.raises(TesseraError, match="UNKNOWN"):
        client.unregister("puzzle-1")


def test_one_that_was_never_there_is_told(client: Client) -> None:
    client._management = Management(grpc.StatusCode.NOT_FOUND)
    with pytest.raises(NotFoundError):
        client.unregister("puzzle-1")
