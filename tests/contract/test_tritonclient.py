"""Triton's own client against our server: the Open Inference Protocol as its users know it.

It needs another protobuf than we do, and registers the same messages, so it runs in a venv of its own (made by `make`).
"""

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tessera.api.openinference.v2 import open_inference_pb2
from tests.fixtures.inference import InferenceServer
from tests.fixtures.oip import PLAIN, arithmetic, echo, publish_network

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".tools/tritonclient/bin/python"
SCRIPT = ROOT / "tests/tools/triton_calls.py"


def described(messages: Iterable[Any]) -> dict[str, dict[str, list[int]]]:
    """Return the number and the type of every field of these messages, and of those within them."""
    found: dict[str, dict[str, list[int]]] = {}
    for message in messages:
        found[message.full_name] = {field.name: [field.number, field.type] for field in message.fields}
        found |= described(message.nested_types)
    return found


@pytest.fixture
async def found(inference_server: InferenceServer) -> dict[str, Any]:
    """What the client got from a server with three models."""
    networks = {"arithmetic": arithmetic(), "plain": echo(*PLAIN), "bfloat": echo("BF16", "FP32")}
    for model, network in networks.items():
        await publish_network(inference_server.registry, model, network)
    for model in networks:
        await inference_server.wait_for_alias(model, 1)
    assert PYTHON.exists(), "run `make .tools/tritonclient/.done`"
    process = await asyncio.create_subprocess_exec(
        PYTHON, SCRIPT, inference_server.address, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    answered: dict[str, Any] = json.loads(output)
    return answered


async def test_triton_s_client_finds_everything_that_it_knows(found: dict[str, Any]) -> None:
    ours = described(open_inference_pb2.DESCRIPTOR.message_types_by_name.values())
    differences = {
        f"{message}.{field}" for message, fields in ours.items() for field in fields if found["contract"][message][field] != fields[field]
    }
    assert differences == set()

    assert (found["live"], found["ready"]) == (True, True)
    assert found["server"]["name"] == "tessera"
    assert found["model_ready"] == [True, True, True, False]
    tensor = {"datatype": "FP32", "shape": ["-1", "-1"]}
    assert found["metadata"] == {
        "name": "arithmetic",
        "versions": ["1"],
        "platform": "onnxruntime",
        "inputs": [{"name": "a", **tensor}, {"name": "b", **tensor}],
        "outputs": [{"name": "sum", **tensor}, {"name": "difference", **tensor}],
    }

    assert sorted(found["plain"]) == sorted(PLAIN)
    assert found["bfloat"] == ["BF16", "FP32"]
    assert found["sum"] == [[14, 14, 14]] * 2
    assert found["difference"] is None  # it was not asked for
    assert found["answer"] == ["r1", "arithmetic", "1", "onnxruntime"]

    assert {(entry["name"], entry["version"], entry["state"]) for entry in found["index"]["models"]} == {
        ("arithmetic", "1", "READY"),
        ("bfloat", "1", "READY"),
        ("plain", "1", "READY"),
    }
    (statistics,) = found["statistics"]["model_stats"]
    assert (statistics["inference_count"], statistics["execution_count"]) == ("2", "1")
    assert statistics["inference_stats"]["success"]["count"] == "1"
    assert [batch["batch_size"] for batch in statistics["batch_stats"]] == ["1"]

    assert found["unknown model"][0] == "StatusCode.NOT_FOUND"
    assert found["unknown version"][0] == "StatusCode.NOT_FOUND"
    assert found["missing input"] == ["StatusCode.INVALID_ARGUMENT", "missing: b; every input of the model is needed"]
    assert found["wrong priority"][0] == "StatusCode.INVALID_ARGUMENT"
    assert found["unload"][0] == "StatusCode.FAILED_PRECONDITION"
