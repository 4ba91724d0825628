"""What TorchServe's status codes mean.

TorchServe 0.12 answers INTERNAL, UNAVAILABLE or UNKNOWN for almost everything; only the text tells what happened. Every row below was seen
on a real one, and a test makes a real one answer it.
"""

from dataclasses import dataclass

import grpc

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

RETRY_AFTER_S = 1.0
"""When a worker or TorchServe may be back; both take some seconds."""
_OF_TORCHSERVE = "org.pytorch.serve"
"""Occurs in what TorchServe says itself, not in what gRPC says of a connection."""


@dataclass(frozen=True)
class Row:
    """One lie, and the truth.

    Args:
        method: Method of the API; empty for any.
        status: What TorchServe answers.
        text: What its message holds.
        error: What it means.
        message: The same for people.
    """

    method: str
    status: grpc.StatusCode
    text: str
    error: type[TesseraError]
    message: str


_STATUS = grpc.StatusCode
TABLE = (
    Row("Predictions", _STATUS.INTERNAL, "Model not found", NotFoundError, "TorchServe does not have the model"),
    # The same words for a full queue and for a model without workers; `Client.predict` asks which.
    Row("Predictions", _STATUS.INTERNAL, "has no worker to serve", ResourceExhaustedError, "the model's queue in TorchServe is full"),
    Row("Predictions", _STATUS.INTERNAL, "Worker died", UnavailableError, "the model's worker died"),
    Row("Predictions", _STATUS.UNAVAILABLE, _OF_TORCHSERVE, TesseraError, "the model failed"),
    Row("Predictions", _STATUS.INTERNAL, _OF_TORCHSERVE, TesseraError, "the model failed"),
    Row("Predictions", _STATUS.CANCELLED, "RST_STREAM", ResourceExhaustedError, "the batch is larger than TorchServe takes"),
    Row("RegisterModel", _STATUS.UNKNOWN, "", AlreadyExistsError, "TorchServe has this model already"),
    Row("RegisterModel", _STATUS.INTERNAL, "Failed to start workers", FailedPreconditionError, "TorchServe's worker cannot load the graph"),
    Row("RegisterModel", _STATUS.INTERNAL, "Failed to save model", DataLossError, "the archive is damaged"),
    # Our keys are wrong or too old; that is no fault of the caller, and no request has been computed.
    Row("", _STATUS.PERMISSION_DENIED, "", UnavailableError, "TorchServe does not take our key"),
    Row("", _STATUS.NOT_FOUND, "", NotFoundError, "TorchServe does not have the model"),
    Row("", _STATUS.DEADLINE_EXCEEDED, "", DeadlineExceededError, "TorchServe did not answer in time"),
    Row("", _STATUS.UNAVAILABLE, "", UnavailableError, "TorchServe cannot be reached"),
    Row("", _STATUS.CANCELLED, "", UnavailableError, "TorchServe gave up the call"),
)
"""The first row that fits counts."""


def translate(method: str, status: grpc.StatusCode, text: str) -> TesseraError:
    """Return the error that an answer of TorchServe means.

    Args:
        method: Name of the method, for example `Predictions`.
        status: Its status code.
        text: Its message.
    """
    said = text.partition("\n")[0]
    for row in TABLE:
        if row.method in ("", method) and row.status is status and row.text in text:
            retry_after_s = RETRY_AFTER_S if row.error in (UnavailableError, ResourceExhaustedError) else None
            return row.error(f"{row.message}: {said}" if said else row.message, retry_after_s=retry_after_s)
    return TesseraError(f"TorchServe answered {status.name}: {said}")
