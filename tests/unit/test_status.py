import grpc
import pytest
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc.aio import AioRpcError, Metadata

from tessera import errors
from tessera.errors import InvalidArgumentError, StaleFenceError, TesseraError, UnavailableError
from tessera.rpc.status import from_rpc_error, rpc_errors, to_status

CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, TesseraError)]


def sent(error: TesseraError) -> AioRpcError:
    """Return what the caller of a server that raised this sees."""
    status = to_status(error)
    return AioRpcError(status.code, Metadata(), Metadata(*status.trailing_metadata), status.details)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_comes_back_with_message_field_and_pause(cls: type[TesseraError]) -> None:
    back = from_rpc_error(sent(cls("was wrong: größer", field="spec.lr", retry_after_s=1.25)))
    assert type(back) is cls
    assert (back.message, back.field, back.retry_after_s) == ("was wrong: größer", "spec.lr", 1.25)
    assert to_status(back).code.name == cls.code


def test_no_field_and_no_pause_stay_none() -> None:
    back = from_rpc_error(sent(StaleFenceError("late")))
    assert (type(back), back.field, back.retry_after_s) == (StaleFenceError, "", None)


def test_a_class_of_one_service_comes_back_as_the_one_of_its_code() -> None:
    class BadPictureError(InvalidArgumentError):
        """Known to one service only."""

    assert type(from_rpc_error(sent(BadPictureError("not a picture")))) is InvalidArgumentError


@pytest.mark.parametrize("text", ["x" * 100_000, "ü" * 100_000, "😀" * 100_000])
def test_a_long_message_is_cut_to_what_metadata_can_carry(text: str) -> None:
    status = to_status(InvalidArgumentError(text, field=text))
    size = 3 * len(status.details.encode()) + sum(len(key) + 4 * len(value) // 3 for key, value in status.trailing_metadata)
    assert size < 8192
    back = from_rpc_error(sent(InvalidArgumentError(text, field=text)))
    assert back.message.endswith("...")
    assert back.field.endswith("...")


def test_details_follow_the_google_rpc_model() -> None:
    status = Status.FromString(
        dict(to_status(InvalidArgumentError("no", field="name", retry_after_s=2)).trailing_metadata)["grpc-status-details-bin"]
    )
    info, bad_request, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    assert [detail.Unpack(into) for detail, into in zip(status.details, (info, bad_request, retry), strict=True)] == [True, True, True]
    assert (info.domain, info.reason) == ("tessera", "INVALID_ARGUMENT")
    assert bad_request.field_violations[0].field == "name"
    assert retry.retry_delay.seconds == 2


@pytest.mark.parametrize("code", list(grpc.StatusCode)[1:])
def test_every_status_of_other_servers_becomes_a_domain_error(code: grpc.StatusCode) -> None:
    error = from_rpc_error(AioRpcError(code, Metadata(), Metadata(), "said so"))
    assert "said so" in error.message
    assert error.code == code.name or code.name in {"UNKNOWN", "UNIMPLEMENTED", "OUT_OF_RANGE", "CANCELLED"}


def test_a_call_that_a_stopping_server_cancels_may_be_tried_again() -> None:
    error = AioRpcError(grpc.StatusCode.CANCELLED, Metadata(), Metadata(), "CANCELLED")
    assert type(from_rpc_error(error)) is UnavailableError


def test_details_that_contradict_the_status_are_ignored() -> None:
    metadata = Metadata(*to_status(InvalidArgumentError("no")).trailing_metadata)
    assert type(from_rpc_error(AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), metadata, "proxy"))) is UnavailableError
    broken = Metadata(("grpc-status-details-bin", b"\xff\xff"))
    assert type(from_rpc_error(AioRpcError(grpc.StatusCode.NOT_FOUND, Metadata(), broken, "gone"))).code == "NOT_FOUND"


def test_other_exceptions_pass_through() -> None:
    with pytest.raises(ValueError, match="mine"), rpc_errors():
        raise ValueError("mine")
