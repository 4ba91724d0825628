"""TorchServe's gRPC API, blocking, with its status codes put right."""

import json
import time
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from services.inference.torchserve.configuration import LARGEST_MESSAGE
from services.inference.torchserve.keys import Api, Keys
from services.inference.torchserve.statuses import RETRY_AFTER_S, translate
from tessera.api.torchserve import inference_pb2, management_pb2
from tessera.api.torchserve.inference_pb2_grpc import InferenceAPIsServiceStub
from tessera.api.torchserve.management_pb2_grpc import ManagementAPIsServiceStub
from tessera.errors import DeadlineExceededError, NotFoundError, ResourceExhaustedError, TesseraError, UnavailableError

CALL_TIMEOUT_S = 10.0
SLACK_S = 5.0
"""What an answer may take beyond the time in which TorchServe itself gives up."""
MOST_MODELS = 1000


class Client:
    """Calls to one TorchServe; may be used by several threads.

    Args:
        inference: Address of its inference API, host:port.
        management: Address of its management API.
        keys: That it asks for; None if it asks for none.
        max_message_bytes: Largest request that it takes.
    """

    def __init__(self, inference: str, management: str, keys: Keys | None = None, max_message_bytes: int = LARGEST_MESSAGE) -> None:
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_http_proxy", 0),  # it stands beside this server
        ]
        self._channels = [grpc.insecure_channel(address, options) for address in (inference, management)]
        self._inference = InferenceAPIsServiceStub(self._channels[0])
        self._management = ManagementAPIsServiceStub(self._channels[1])
        self._keys = keys
        self._max_message_bytes = max_message_bytes

    def ping(self) -> None:
        """Raise a TesseraError unless both APIs answer."""
        self._call("Ping", Empty(), api="inference")
        self._call("ListModels", management_pb2.ListModelsRequest(limit=1))

    def predict(self, model: str, tensors: bytes, response_timeout_s: float) -> bytes:
        """Compute one batch and return the handler's answer.

        Args:
            model: Name, as registered.
            tensors: For the handler.
            response_timeout_s: Seconds after which TorchServe gives up.

        Raises:
            NotFoundError: TorchServe does not have the model.
            UnavailableError: TorchServe or the model's worker is gone.
            ResourceExhaustedError: Its queue is full, or the batch is larger than it takes.
            DeadlineExceededError: It took too long; TorchServe restarts the worker.
            TesseraError: The model failed on this batch.
        """
        if len(tensors) >= self._max_message_bytes:
            raise ResourceExhaustedError(f"the batch has {len(tensors)} bytes; TorchServe takes {self._max_message_bytes}")
        request = inference_pb2.PredictionsRequest(model_name=model, input={"tensors": tensors})
        started = time.monotonic()
        try:
            answer = self._call("Predictions", request, api="inference", timeout_s=response_timeout_s + SLACK_S)
        except ResourceExhaustedError as error:
            raise self._full_or_without_workers(model, error) from error
        except UnavailableError as error:
            if time.monotonic() - started < response_timeout_s:
                raise
            raise DeadlineExceededError(f"the model did not answer within {response_timeout_s:g} s: {error.message}") from error
        return bytes(answer.prediction)

    def register(self, model: str, archive: str, *, workers: int, response_timeout_s: int, startup_timeout_s: float) -> None:
        """Register an archive and start its workers.

        Args:
            model: Name, which no other has.
            archive: File name in the model store.
            workers: How many.
            response_timeout_s: Seconds that a batch may take.
            startup_timeout_s: Seconds that a worker may take to load the graph.

        Raises:
            AlreadyExistsError: TorchServe has a model of this name.
            FailedPreconditionError: The worker cannot load the graph.
            NotFoundError: There is no such archive in the model store.
            UnavailableError: TorchServe is gone.
        """
        request = management_pb2.RegisterModelRequest(
            url=archive,
            model_name=model,
            batch_size=1,  # what it gets is a batch already
            max_batch_delay=1,
            initial_workers=workers,
            synchronous=True,
            response_timeout=response_timeout_s,
            startup_timeout=round(startup_timeout_s),
        )
        self._call("RegisterModel", request, timeout_s=startup_timeout_s + SLACK_S)

    def ready_workers(self, model: str) -> list[int]:
        """Return the pids of the workers of a model that can compute, as TorchServe says.

        It says so of a dead one too for a quarter of a second.

        Raises:
            NotFoundError: TorchServe does not have the model.
        """
        answer = self._call("DescribeModel", management_pb2.DescribeModelRequest(model_name=model))
        return [worker["pid"] for worker in json.loads(answer.msg)[0]["workers"] if worker["status"] == "READY"]

    def models(self) -> list[str]:
        """Return the names of all models."""
        answer = self._call("ListModels", management_pb2.ListModelsRequest(limit=MOST_MODELS))
        return [each["modelName"] for each in json.loads(answer.msg)["models"]]

    def unregister(self, model: str) -> None:
        """End the workers of a model and forget it; NotFoundError if TorchServe does not have it."""
        request = management_pb2.UnregisterModelRequest(model_name=model)
        try:
            self._call("UnregisterModel", request)
        except (NotFoundError, UnavailableError, DeadlineExceededError):
            raise
        except TesseraError:  # a worker took long to end; TorchServe has forgotten the model, or keeps it without workers until asked again
            if model in self.models():
                self._call("UnregisterModel", request)

    def close(self) -> None:
        """Close the connections."""
        for channel in self._channels:
            channel.close()

    def _full_or_without_workers(self, model: str, error: ResourceExhaustedError) -> TesseraError:
        """TorchServe says both in the same words."""
        try:
            ready = self.ready_workers(model)
        except NotFoundError as lost:
            return lost
        return error if ready else UnavailableError("the model has no worker now", retry_after_s=RETRY_AFTER_S)

    def _call(self, method: str, request: Any, *, api: Api = "management", timeout_s: float = CALL_TIMEOUT_S) -> Any:
        try:
            return self._once(method, request, api, timeout_s)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.PERMISSION_DENIED or self._keys is None:
                raise translate(method, error.code(), error.details() or "") from error
        self._keys.forget()  # the key has expired or TorchServe is a new one; nothing was computed, so once more is safe
        try:
            return self._once(method, request, api, timeout_s)
        except grpc.RpcError as error:
            raise translate(method, error.code(), error.details() or "") from error

    def _once(self, method: str, request: Any, api: Api, timeout_s: float) -> Any:
        stub = self._inference if api == "inference" else self._management
        metadata = self._keys.metadata(api) if self._keys else None
        try:
            return getattr(stub, method)(request, timeout=timeout_s, metadata=metadata)
        except ValueError as error:  # a channel that is closed: TorchServe is being started or dialled anew
            raise UnavailableError(f"TorchServe is not connected now: {error}", retry_after_s=RETRY_AFTER_S) from error
