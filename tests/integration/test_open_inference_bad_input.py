"""ModelInfer with whatever a caller may send: refused with the right code and field, and the good requests among them unharmed."""

import asyncio
import math
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from tessera.api.openinference.v2.open_inference_pb2 import InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse
from tessera.api.openinference.v2.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tessera.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, TesseraError
from tessera.rpc.channel import open_channel
from tessera.rpc.status import rpc_errors
from tests.fixtures.inference import InferenceServer
from tests.fixtures.oip import arithmetic, echo, publish_network
from tests.fixtures.waiting import WAIT_S

Tensor = ModelInferRequest.InferInputTensor
Output = ModelInferRequest.InferRequestedOutputTensor
Change = Callable[[ModelInferRequest], Any]

MAX_BATCH = 32


def good(seed: int = 0, rows: int = 1) -> ModelInferRequest:
    """Return a request to the network that adds, whose numbers are its own."""
    a, b = (np.full((rows, 3), seed + offset, np.float32) for offset in (0, 1000))
    return ModelInferRequest(
        model_name="arithmetic",
        id=str(seed),
        inputs=[Tensor(name=name, datatype="FP32", shape=[rows, 3]) for name in ("a", "b")],
        raw_input_contents=[a.tobytes(), b.tobytes()],
    )


def words(*, raw: bytes | None = None, typed: list[bytes] | None = None) -> Change:
    """Return what makes a request one of two strings to the model `words`."""

    def change(request: ModelInferRequest) -> None:
        request.Clear()
        request.model_name = "words"
        tensor = request.inputs.add(name="in_bytes", datatype="BYTES", shape=[1, 2])
        if raw is not None:
            request.raw_input_contents.append(raw)
        if typed is not None:
            tensor.contents.bytes_contents.extend(typed)

    return change


def set_input(index: int = 0, **fields: Any) -> Change:
    """Return what changes an input."""

    def change(request: ModelInferRequest) -> None:
        tensor = request.inputs[index]
        for name, value in fields.items():
            if name == "shape":
                tensor.ClearField("shape")
                tensor.shape.extend(value)
            else:
                setattr(tensor, name, value)

    return change


def set_raw(index: int, data: bytes) -> Change:
    return lambda request: request.raw_input_contents.__setitem__(index, data)


def typed(values: InferTensorContents, *, keep_raw: bool = False) -> Change:
    """Return what gives the first input these contents, and the second one good ones."""

    def change(request: ModelInferRequest) -> None:
        request.inputs[0].contents.CopyFrom(values)
        if not keep_raw:
            request.inputs[1].contents.fp32_contents.extend([1, 2, 3])
            request.ClearField("raw_input_contents")

    return change


def parameter(name: str, **value: Any) -> Change:
    return lambda request: request.parameters[name].CopyFrom(InferParameter(**value))


def batch(rows: int) -> Change:
    return lambda request: request.CopyFrom(good(rows=rows))


def named(**fields: Any) -> Change:
    return lambda request: [setattr(request, name, value) for name, value in fields.items()]


LENGTH = struct.Struct("<I")
NAN = np.array([1, math.nan, 2], np.float32).tobytes()
INVALID, MISSING, NOT_NOW = InvalidArgumentError, NotFoundError, FailedPreconditionError
BAD: dict[str, tuple[Change, type[TesseraError], str, str]] = {
    "an empty batch": (set_input(shape=[0, 3]), INVALID, "inputs[0].shape", "at least 1"),
    "a batch over the cap": (batch(MAX_BATCH + 1), INVALID, "inputs", "at most 32"),
    "different batches": (
        lambda request: (set_input(shape=[2, 3])(request), set_raw(0, bytes(24))(request)),
        INVALID,
        "inputs",
        "same batch",
    ),
    "too few bytes": (set_raw(0, bytes(11)), INVALID, "raw_input_contents[0]", "11 bytes came"),
    "too many bytes": (set_raw(1, bytes(16)), INVALID, "raw_input_contents[1]", "16 bytes came"),
    "no input": (lambda request: request.ClearField("inputs"), INVALID, "inputs", "missing: a, b"),
    "a missing input": (lambda request: request.inputs.pop(), INVALID, "inputs", "missing: b"),
    "a surplus input": (lambda request: request.inputs.add(name="c"), INVALID, "inputs[2].name", "unknown input 'c'"),
    "an unknown input": (set_input(name="x"), INVALID, "inputs[0].name", "unknown input 'x'; known: a, b"),
    "an input twice": (set_input(1, name="a"), INVALID, "inputs[1].name", "a is there twice"),
    "fewer raw contents than inputs": (lambda request: request.raw_input_contents.pop(), INVALID, "raw_input_contents", "1 raw contents"),
    "more raw contents than inputs": (lambda request: request.raw_input_contents.append(b""), INVALID, "raw_input_contents", "3 raw"),
    "both raw and typed contents": (
        typed(InferTensorContents(fp32_contents=[1, 2, 3]), keep_raw=True),
        INVALID,
        "inputs[0].contents",
        "send one of them",
    ),
    "no contents at all": (
        lambda request: request.ClearField("raw_input_contents"),
        INVALID,
        "inputs[0].contents.fp32_contents",
        "0 elements came",
    ),
    "typed contents of another type": (
        typed(InferTensorContents(int_contents=[1, 2, 3])),
        INVALID,
        "inputs[0].contents",
        "belongs into fp32_contents",
    ),
    "too many typed elements": (
        typed(InferTensorContents(fp32_contents=[1, 2, 3, 4])),
        INVALID,
        "inputs[0].contents.fp32_contents",
        "4 elements came",
    ),
    "NaN among typed elements": (
        typed(InferTensorContents(fp32_contents=[1, math.nan, 3])),
        INVALID,
        "inputs[0].contents.fp32_contents",
        "NaN",
    ),
    "NaN": (set_raw(0, NAN), INVALID, "raw_input_contents[0]", "NaN or infinity"),
    "an unknown datatype": (set_input(datatype="FP8"), INVALID, "inputs[0].datatype", "unknown datatype 'FP8'"),
    "no datatype": (set_input(datatype=""), INVALID, "inputs[0].datatype", "unknown datatype ''"),
    "another datatype": (set_input(datatype="INT32"), INVALID, "inputs[0].datatype", "FP32 is needed"),
    "no dimensions": (set_input(shape=[]), INVALID, "inputs[0].shape", r"shape \[\]"),
    "too few dimensions": (set_input(shape=[3]), INVALID, "inputs[0].shape", r"FP32 \[-1, -1\]"),
    "a thousand dimensions": (set_input(shape=[1] * 1000), INVALID, "inputs[0].shape", "of 1000 dimensions"),
    "a negative extent": (set_input(shape=[-1, 3]), INVALID, "inputs[0].shape", r"\[-1, 3\]"),
    "a shape whose product overflows": (set_input(shape=[2**62, 2**62]), INVALID, "raw_input_contents[0]", "12 bytes came"),
    "a typed shape whose product overflows": (
        lambda request: (typed(InferTensorContents(fp32_contents=[1]))(request), set_input(shape=[2**62, 2**62])(request)),
        INVALID,
        "inputs[0].contents.fp32_contents",
        "1 elements came",
    ),
    "BYTES with a length beyond the end": (
        words(raw=LENGTH.pack(1) + b"a" + LENGTH.pack(99) + b"b"),
        INVALID,
        "raw_input_contents[0]",
        "string 1 says 99 bytes; 1 are left",
    ),
    "BYTES with half a length": (words(raw=LENGTH.pack(1) + b"a\0"), INVALID, "raw_input_contents[0]", "is cut off"),
    "BYTES with a string too few": (
        words(raw=LENGTH.pack(1) + b"a"),
        INVALID,
        "raw_input_contents[0]",
        "1 strings came; the shape needs 2",
    ),
    "BYTES that are no text": (words(raw=LENGTH.pack(1) + b"\xff" + LENGTH.pack(0)), INVALID, "raw_input_contents[0]", "not UTF-8"),
    "typed BYTES that are no text": (words(typed=[b"a", b"\xff"]), INVALID, "inputs[0].contents.bytes_contents", "string 1 is not UTF-8"),
    "an output that does not exist": (
        lambda request: request.outputs.add(name="product"),
        INVALID,
        "outputs[0].name",
        "unknown output 'product'; known: difference, sum",
    ),
    "an output twice": (lambda request: request.outputs.extend([Output(name="sum")] * 2), INVALID, "outputs[1].name", "twice"),
    "no model": (named(model_name=""), INVALID, "model_name", "not a valid name"),
    "an unknown model": (named(model_name="nothing"), MISSING, "model_name", "there is no model 'nothing'; models: arithmetic, words"),
    "an unknown alias": (named(model_version="beta"), MISSING, "model_version", "no alias 'beta'"),
    "an unknown version": (named(model_version="99"), MISSING, "", "version 99"),
    "version 0": (named(model_version="0"), INVALID, "model_version", "numbered from 1"),
    "a version beyond 64 bits": (named(model_version="9" * 30), INVALID, "model_version", "at most"),
    "an unknown priority": (parameter("priority", string_param="urgent"), INVALID, "parameters.priority", "high, low, normal"),
    "a priority beyond 3": (parameter("priority", uint64_param=4), INVALID, "parameters.priority", "0 to 3"),
    "a priority of the wrong type": (parameter("priority", bool_param=True), INVALID, "parameters.priority", "0 to 3"),
    "a sticky key that is too long": (parameter("sticky_key", string_param="k" * 257), INVALID, "parameters.sticky_key", "at most 256"),
    "a sticky key that is a number": (parameter("sticky_key", int64_param=7), INVALID, "parameters.sticky_key", "no text"),
    "a runtime without a graph": (parameter("runtime", string_param="torchserve"), NOT_NOW, "tessera-runtime", "it has onnxruntime"),
}


@pytest.fixture
async def server(inference_server: InferenceServer) -> AsyncIterator[InferenceServer]:
    """A server with a network that adds, and one for strings."""
    await publish_network(inference_server.registry, "arithmetic", arithmetic())
    await publish_network(inference_server.registry, "words", echo("BYTES"))
    await inference_server.wait_for_alias("arithmetic", 1)
    await inference_server.wait_for_alias("words", 1)
    yield inference_server


async def send(server: InferenceServer, request: ModelInferRequest) -> ModelInferResponse:
    with rpc_errors():
        answer: ModelInferResponse = await GRPCInferenceServiceStub(server.channel).ModelInfer(request, timeout=WAIT_S)
    return answer


async def check_refused(server: InferenceServer, case: str) -> None:
    change, error, field, reason = BAD[case]
    request = good()
    change(request)
    with pytest.raises(error, match=reason) as refused:
        await send(server, request)
    assert type(refused.value) is error, case
    assert refused.value.field == field, case


async def check_answered(server: InferenceServer, seed: int) -> None:
    answer = await send(server, good(seed))
    assert answer.id == str(seed)
    assert np.array_equal(np.frombuffer(answer.raw_output_contents[0], np.float32), [2 * seed + 1000] * 3)


async def test_bad_input_is_refused_with_the_field_and_the_reason(server: InferenceServer) -> None:
    for case in BAD:
        await check_refused(server, case)
        await check_answered(server, 1)


async def test_a_hundred_bad_requests_do_not_disturb_the_good_ones_among_them(server: InferenceServer) -> None:
    cases = list(BAD)

    async def both(number: int) -> None:
        await asyncio.gather(check_refused(server, cases[number % len(cases)]), check_answered(server, number))

    await asyncio.gather(*(both(number) for number in range(100)))


@pytest.mark.parametrize(
    ("datatype", "values"),
    [("INT8", {"int_contents": [0, 128]}), ("UINT16", {"uint_contents": [0, 1 << 16]}), ("FP16", {"fp32_contents": [0, 1]})],
)
async def test_typed_elements_that_their_type_cannot_hold_are_refused(
    inference_server: InferenceServer, datatype: str, values: dict[str, list[int]]
) -> None:
    await publish_network(inference_server.registry, "echo", echo(datatype))
    await inference_server.wait_for_alias("echo", 1)
    name = f"in_{datatype.lower()}"
    tensor = Tensor(name=name, datatype=datatype, shape=[1, 2], contents=InferTensorContents(**values))
    with pytest.raises(InvalidArgumentError, match=f"beyond {datatype}|send it in raw_input_contents") as refused:
        await send(inference_server, ModelInferRequest(model_name="echo", inputs=[tensor]))
    assert refused.value.field.startswith("inputs[0].contents")


async def test_bytes_that_are_no_request_at_all_are_refused(server: InferenceServer) -> None:
    async with open_channel(server.address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(TesseraError), rpc_errors():
            await call(b"\xff\xff\xff\xff", timeout=WAIT_S)
    await check_answered(server, 2)
