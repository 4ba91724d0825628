"""The benchmark of serving must not flatter anybody: what it sends, what it counts, and what it calls right."""

import asyncio
import subprocess
import sys

import grpc
import numpy as np
import pytest

from benchmarks.serving.jobs import Load, Outcome
from benchmarks.serving.loops import Record, closed_loop, open_loop
from benchmarks.serving.network import INPUTS, logits
from benchmarks.serving.processes import tree, tree_cpu_s
from benchmarks.serving.protocols import OpenInference, TorchServe, TypedPng
from benchmarks.serving.report import tables
from benchmarks.serving.results import Result, rows
from tessera.api.inference.v1.puzzle_pb2 import CellCandidate, ClassifyCellResponse
from tessera.api.openinference.v2.open_inference_pb2 import ModelInferRequest, ModelInferResponse


def answer(array: np.ndarray) -> bytes:
    response = ModelInferResponse(raw_output_contents=[array.tobytes()])
    response.outputs.add(name="logits", datatype="FP32", shape=array.shape)
    response.parameters["queue_ns"].int64_param = 250_000
    return response.SerializeToString()


@pytest.mark.parametrize("items", [1, 8])
def test_an_answer_is_right_only_for_the_request_that_it_belongs_to(items: int) -> None:
    protocol = OpenInference("bench", items)
    assert protocol.is_right(3, answer(protocol.expected(3)))
    assert protocol.is_right(3 + INPUTS, answer(protocol.expected(3)))
    assert not protocol.is_right(4, answer(protocol.expected(3)))


def test_all_requests_differ() -> None:
    requests = OpenInference("bench", 2).requests()
    assert len(set(requests)) == INPUTS
    assert list(ModelInferRequest.FromString(requests[0]).inputs[0].shape) == [2, 3, 64, 64]


def test_the_phases_that_a_server_tells_are_read() -> None:
    assert OpenInference("bench", 1).phases_ms(answer(logits()[:1])) == {"queue": 0.25}


def test_a_typed_answer_is_compared_by_cells_and_probabilities() -> None:
    protocol = TypedPng("bench", 1)
    best = [CellCandidate(index=int(index), probability=probability) for index, probability in protocol.expected(0)]
    assert protocol.is_right(0, ClassifyCellResponse(candidates=best).SerializeToString())
    assert not protocol.is_right(0, ClassifyCellResponse(candidates=best[::-1]).SerializeToString())


def test_torchserve_answers_are_read_whatever_their_length() -> None:
    for items in (1, 32):
        protocol = TorchServe("onnx", items)
        body, length = protocol.expected(5).tobytes(), bytearray()
        size = len(body)
        while size > 0x7F:
            length.append(size & 0x7F | 0x80)
            size >>= 7
        assert protocol.is_right(5, bytes((0x0A, *length, size)) + body)


class Refused(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_refusals_are_counted_and_not_timed() -> None:
    async def call(number: int) -> bytes:
        raise Refused

    record = Record()
    await record.one(call, 0, 0.0)
    assert record.errors == {"RESOURCE_EXHAUSTED": 1}
    assert record.seconds == []


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    together = asyncio.Event()
    under_way: set[int] = set()

    async def call(number: int) -> bytes:
        under_way.add(number)
        if len(under_way) >= 5:
            together.set()
        await together.wait()
        return b""

    record = await open_loop([call], 1000.0, 0.05)
    assert len(record.seconds) == len(under_way) >= 5


async def test_a_closed_loop_has_one_request_a_client_under_way() -> None:
    under_way = most = 0

    async def call(number: int) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.05)
        under_way -= 1
        return b""

    record = await closed_loop([call] * 3, 0.5)
    assert most == 3
    assert len(record.seconds) >= 3
    assert record.errors == {}


def outcome(answers: int, latency_s: float, **errors: int) -> Outcome:
    return Outcome(wall_s=1.0, seconds=[latency_s] * answers, errors=errors, checked=1, server_cpu_s=answers / 1000)


def test_rows_say_what_the_issue_of_a_comparison_needs() -> None:
    alone = Load("closed", 1)
    figures = rows([Result("raw", alone, [outcome(100, 0.001)]), Result("ours", alone, [outcome(50, 0.0015), outcome(70, 0.0015)])], "raw")
    assert figures[1].keys() >= {"name", "mode", "clients", "rps", "items_per_s", "p50_ms", "p99_ms", "p999_ms", "errors", "server_cpu_ms"}
    assert (figures[1]["rps"], figures[1]["p50_ms"], figures[1]["added_ms"], figures[1]["server_cpu_ms"]) == (60, 1.5, 0.5, 1.0)
    assert "ours" in tables(figures)


def test_an_overload_is_set_against_the_capacity_of_its_row() -> None:
    results = [
        Result("ours", Load("capacity", 32, items=8), [outcome(100, 0.01)]),
        Result("ours", Load("overload", 64, rate=200, items=8), [outcome(90, 0.05, RESOURCE_EXHAUSTED=100, DEADLINE_EXCEEDED=10)]),
    ]
    figures = rows(results, "raw")[1]
    assert (figures["goodput_of_capacity"], figures["refused"], figures["accepted_in_time"]) == (0.9, 0.5, 0.9)
    assert figures["items_per_s"] == 720


def test_the_cpu_time_of_a_server_is_that_of_its_children_too() -> None:
    work = "sum(range(10**7)); print(flush=True); input()"
    wait = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
    with subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        parent.stdout.readline()
        processes = tree(parent.pid)
        child_s = tree_cpu_s(processes[1])
        assert 0 < child_s <= tree_cpu_s(parent.pid)
        parent.communicate(b"\n")
    assert len(processes) == 2
