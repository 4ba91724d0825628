"""Calls of Triton's own client to the server of the first argument; prints what came as JSON. Runs in the venv of tritonclient."""

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2

KINDS = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BF16": ml_dtypes.bfloat16,
    "BYTES": np.object_,
}


def elements(kind: str) -> np.ndarray:
    """Return three rows of two elements."""
    if kind == "BYTES":
        return np.array([["one", "zw\u00f6lf"], ["", "a b"], ["x", "y"]], dtype=np.object_)
    return (np.arange(6).reshape(3, 2) % 2).astype(KINDS[kind])


def to_input(name: str, array: np.ndarray, kind: str) -> triton.InferInput:
    """Return an input with its elements."""
    tensor = triton.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    return tensor


def echoed(client: triton.InferenceServerClient, model: str, kinds: list[str]) -> list[str]:
    """Send these types to a model that returns its inputs, and return those that came back as they were."""
    inputs = [to_input(f"in_{kind.lower()}", elements(kind), kind) for kind in kinds]
    result = client.infer(model, inputs)
    same = []
    for kind in kinds:
        answered, sent = result.as_numpy(f"out_{kind.lower()}"), elements(kind)
        if kind == "BYTES":
            answered = np.array([item.decode() for item in answered.flat], dtype=np.object_).reshape(answered.shape)
        if answered.dtype == sent.dtype and np.array_equal(answered, sent):
            same.append(kind)
    return same


def refused(call: Callable[[], Any]) -> list[str]:
    """Return the status and the message with which a call ends."""
    try:
        call()
    except triton.InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    return ["answered", ""]


def described(messages: Iterable[Any]) -> dict[str, dict[str, list[int]]]:
    """Return the number and the type of every field of these messages, and of those within them."""
    found: dict[str, dict[str, list[int]]] = {}
    for message in messages:
        found[message.full_name] = {field.name: [field.number, field.type] for field in message.fields}
        found |= described(message.nested_types)
    return found


def main(address: str) -> dict[str, Any]:
    """Call everything once."""
    client = triton.InferenceServerClient(address)
    image = np.full((2, 3), 7, np.float32)
    arithmetic = [to_input("a", image, "FP32"), to_input("b", image, "FP32")]
    wanted = [triton.InferRequestedOutput("sum")]
    result = client.infer("arithmetic", arithmetic, outputs=wanted, request_id="r1", priority=1, parameters={"sticky_key": "user 7"})
    response = result.get_response()
    client.load_model("arithmetic")
    found: dict[str, Any] = {
        "contract": described(service_pb2.DESCRIPTOR.message_types_by_name.values()),
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "server": client.get_server_metadata(as_json=True),
        "model_ready": [client.is_model_ready("arithmetic", version) for version in ("", "1", "champion", "9")],
        "metadata": client.get_model_metadata("arithmetic", as_json=True),
        "plain": echoed(client, "plain", [kind for kind in KINDS if kind != "BF16"]),
        "bfloat": echoed(client, "bfloat", ["BF16", "FP32"]),
        "sum": result.as_numpy("sum").tolist(),
        "difference": result.as_numpy("difference"),
        "answer": [response.id, response.model_name, response.model_version, response.parameters["runtime"].string_param],
        "index": client.get_model_repository_index(as_json=True),
        "statistics": client.get_inference_statistics("arithmetic", as_json=True),
        "unknown model": refused(lambda: client.infer("nothing", arithmetic)),
        "unknown version": refused(lambda: client.infer("arithmetic", arithmetic, model_version="9")),
        "missing input": refused(lambda: client.infer("arithmetic", arithmetic[:1])),
        "wrong priority": refused(lambda: client.infer("arithmetic", arithmetic, priority=9)),
        "unload": refused(lambda: client.unload_model("arithmetic")),
    }
    client.close()
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
