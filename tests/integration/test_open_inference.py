"""The Open Inference Protocol against a real server: every element type, several tensors, versions, parameters, the repository."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.inference.pool import LOADS_AT_ONCE
from tessera.api.openinference.v2 import open_inference_pb2 as pb
from tessera.api.openinference.v2.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tessera.errors import DeadlineExceededError, FailedPreconditionError, InvalidArgumentError, NotFoundError, UnavailableError
from tessera.rpc.status import rpc_errors
from tessera.tensors import DTYPES, Array, from_bytes, to_bytes, type_name
from tests.fixtures.inference import InferenceServer, TinyModel, poll, publish_version, serve_inference
from tests.fixtures.oip import PLAIN, arithmetic, echo, publish_network, sample
from tests.fixtures.registry import RegistryServer
from tests.fixtures.waiting import WAIT_S

A, B = np.array([[1, 2, 3]], np.float32), np.array([[10, 20, 30]], np.float32)


@pytest.fixture
async def server(inference_server: InferenceServer) -> AsyncIterator[InferenceServer]:
    """A server with a network that adds and subtracts."""
    await publish_network(inference_server.registry, "arithmetic", arithmetic())
    await inference_server.wait_for_alias("arithmetic", 1)
    yield inference_server


def stub(server: InferenceServer) -> Any:
    return GRPCInferenceServiceStub(server.channel)


def request(model: str, arrays: Mapping[str, Array], **fields: Any) -> pb.ModelInferRequest:
    """Return a request with raw contents."""
    return pb.ModelInferRequest(
        model_name=model,
        inputs=[
            pb.ModelInferRequest.InferInputTensor(name=name, datatype=type_name(array.dtype), shape=array.shape)
            for name, array in arrays.items()
        ],
        raw_input_contents=[to_bytes(array) for array in arrays.values()],
        **fields,
    )


async def send(server: InferenceServer, message: Any, method: str = "ModelInfer", timeout: float = WAIT_S) -> Any:
    with rpc_errors():
        return await getattr(stub(server), method)(message, timeout=timeout)


async def infer(server: InferenceServer, model: str, arrays: Mapping[str, Array], **fields: Any) -> pb.ModelInferResponse:
    answer: pb.ModelInferResponse = await send(server, request(model, arrays, **fields))
    return answer


def outputs(answer: pb.ModelInferResponse) -> dict[str, Array]:
    return {
        tensor.name: from_bytes(data, DTYPES[tensor.datatype], tuple(tensor.shape), tensor.name)
        for tensor, data in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }


@pytest.mark.parametrize("kinds", [PLAIN, ("BF16", "FP32")])
async def test_every_element_type_goes_through_a_model_unchanged(inference_server: InferenceServer, kinds: tuple[str, ...]) -> None:
    await publish_network(inference_server.registry, "echo", echo(*kinds))
    await inference_server.wait_for_alias("echo", 1)
    arrays = {f"in_{kind.lower()}": sample(kind, 3) for kind in kinds}
    answered = outputs(await infer(inference_server, "echo", arrays))
    assert list(answered) == [f"out_{kind.lower()}" for kind in kinds]
    for kind in kinds:
        array = answered[f"out_{kind.lower()}"]
        assert array.dtype == DTYPES[kind]
        assert np.array_equal(array, arrays[f"in_{kind.lower()}"])


async def test_a_request_of_very_many_elements_is_answered_like_a_small_one(server: InferenceServer) -> None:
    a = np.arange(32 * 20_000, dtype=np.float32).reshape(32, 20_000)
    assert np.array_equal(outputs(await infer(server, "arithmetic", {"a": a, "b": a}))["difference"], np.zeros_like(a))


async def test_an_answer_says_who_gave_it_and_returns_the_id(server: InferenceServer) -> None:
    answer = await infer(server, "arithmetic", {"b": B, "a": A}, id="request 7")
    version = await server.registry.get_version("arithmetic", version=1)
    assert (answer.model_name, answer.model_version, answer.id) == ("arithmetic", "1", "request 7")
    assert answer.parameters["digest"].string_param == version.digest
    assert answer.parameters["runtime"].string_param == "onnxruntime"
    assert answer.parameters["batch_size"].int64_param == 1
    assert all(answer.parameters[f"{phase}_ns"].int64_param > 0 for phase in ("decode", "queue", "compute"))
    assert np.array_equal(outputs(answer)["sum"], A + B)
    assert np.array_equal(outputs(answer)["difference"], A - B)


async def test_outputs_come_as_they_were_asked_for(server: InferenceServer) -> None:
    def wanted(*names: str) -> list[pb.ModelInferRequest.InferRequestedOutputTensor]:
        return [pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in names]

    one = outputs(await infer(server, "arithmetic", {"a": A, "b": B}, outputs=wanted("difference")))
    both = outputs(await infer(server, "arithmetic", {"a": A, "b": B}, outputs=wanted("difference", "sum")))
    assert list(one) == ["difference"]
    assert list(both) == ["difference", "sum"]
    assert np.array_equal(both["sum"], A + B)


async def test_a_version_is_named_by_number_or_alias_or_not_at_all(server: InferenceServer) -> None:
    await publish_network(server.registry, "arithmetic", arithmetic(), alias="candidate")
    await server.wait_for_alias("arithmetic", 2, "candidate")

    async def answered_by(version: str) -> str:
        return (await infer(server, "arithmetic", {"a": A, "b": B}, model_version=version)).model_version

    assert [await answered_by(version) for version in ("", "champion", "candidate", "2", "1")] == ["1", "1", "2", "2", "1"]


async def test_a_version_that_is_not_loaded_is_loaded_for_the_request(server: InferenceServer) -> None:
    await publish_network(server.registry, "arithmetic", arithmetic(), alias="")
    assert ("arithmetic", 2) not in await server.served()
    assert (await infer(server, "arithmetic", {"a": A, "b": B}, model_version="2")).model_version == "2"


async def test_a_call_waits_for_a_version_that_is_loading_as_long_as_its_deadline_allows(server: InferenceServer) -> None:
    await publish_network(server.registry, "arithmetic", arithmetic(), alias="")
    asked = request("arithmetic", {"a": A, "b": B}, model_version="2")
    for _ in range(LOADS_AT_ONCE):
        await server.pool._loading.acquire()  # nothing can be loaded now
    waiting = asyncio.create_task(send(server, asked))
    await server.wait_for("arithmetic", 2, "LOADING")
    with pytest.raises(DeadlineExceededError):
        await send(server, asked, timeout=0.2)
    assert (await send(server, pb.ModelReadyRequest(name="arithmetic", version="2"), "ModelReady")).ready is False
    index = await send(server, pb.RepositoryIndexRequest(), "RepositoryIndex")
    assert [(entry.version, entry.state) for entry in index.models] == [("1", "READY"), ("2", "LOADING")]
    for _ in range(LOADS_AT_ONCE):
        server.pool._loading.release()
    assert (await waiting).model_version == "2"


async def test_before_the_registry_was_read_calls_are_told_when_to_come_back(registry_server: RegistryServer, tmp_path: Path) -> None:
    async with serve_inference("127.0.0.1:1", tmp_path / "cache", wait=False) as server:
        with pytest.raises(UnavailableError) as refused:
            await infer(server, "arithmetic", {"a": A, "b": B})
        assert refused.value.retry_after_s
        assert (await send(server, pb.ServerLiveRequest(), "ServerLive")).live is True
        assert (await send(server, pb.ServerReadyRequest(), "ServerReady")).ready is False


async def test_a_server_tells_what_it_is(server: InferenceServer) -> None:
    metadata = await send(server, pb.ServerMetadataRequest(), "ServerMetadata")
    assert metadata.name == "tessera"
    assert {"model_repository", "statistics"} <= set(metadata.extensions)
    assert (await send(server, pb.ServerReadyRequest(), "ServerReady")).ready is True


async def test_a_model_tells_its_tensors(server: InferenceServer) -> None:
    metadata = await send(server, pb.ModelMetadataRequest(name="arithmetic"), "ModelMetadata")
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("arithmetic", ["1"], "onnxruntime")
    assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] == [
        ("a", "FP32", [-1, -1]),
        ("b", "FP32", [-1, -1]),
    ]
    assert [tensor.name for tensor in metadata.outputs] == ["sum", "difference"]
    with pytest.raises(NotFoundError) as refused:
        await send(server, pb.ModelMetadataRequest(name="nothing"), "ModelMetadata")
    assert refused.value.field == "name"


async def test_what_is_not_loaded_is_not_ready_and_is_not_loaded_by_asking(server: InferenceServer) -> None:
    await publish_network(server.registry, "arithmetic", arithmetic(), alias="")

    async def ready(name: str, version: str = "") -> bool:
        answer: pb.ModelReadyResponse = await send(server, pb.ModelReadyRequest(name=name, version=version), "ModelReady")
        return answer.ready

    asked = [("arithmetic", ""), ("arithmetic", "1"), ("arithmetic", "champion"), ("arithmetic", "2"), ("arithmetic", "beta"), ("none", "")]
    assert [await ready(*names) for names in asked] == [True, True, True, False, False, False]
    assert set(await server.served()) == {("arithmetic", 1)}


async def test_a_kept_version_stays_until_it_is_unloaded(registry_server: RegistryServer, tmp_path: Path) -> None:
    async with serve_inference(registry_server.address, tmp_path / "cache", max_on_demand=1) as server:
        for _ in range(4):
            await publish_network(server.registry, "arithmetic", arithmetic(), alias="")
        load = pb.RepositoryModelLoadRequest(model_name="arithmetic")
        load.parameters["version"].string_param = "1"
        await send(server, load, "RepositoryModelLoad")
        for version in ("2", "3", "4"):  # each pushes out the one before, but not what is kept
            await infer(server, "arithmetic", {"a": A, "b": B}, model_version=version)
        assert (await server.served())["arithmetic", 1] == "READY"
        unload = pb.RepositoryModelUnloadRequest(model_name="arithmetic")
        unload.parameters["version"].int64_param = 1
        await send(server, unload, "RepositoryModelUnload")

        async def gone() -> bool:
            return ("arithmetic", 1) not in await server.served()

        await poll(gone)
        await send(server, pb.RepositoryModelUnloadRequest(model_name="arithmetic"), "RepositoryModelUnload")
        with pytest.raises(NotFoundError):
            await send(server, unload, "RepositoryModelUnload")


async def test_what_an_alias_names_is_not_unloaded(server: InferenceServer) -> None:
    with pytest.raises(FailedPreconditionError, match="an alias names it") as refused:
        await send(server, pb.RepositoryModelUnloadRequest(model_name="arithmetic"), "RepositoryModelUnload")
    assert refused.value.field == "parameters.version"
    assert (await infer(server, "arithmetic", {"a": A, "b": B})).model_version == "1"


async def test_the_index_lists_models_without_a_version_here_too(server: InferenceServer) -> None:
    await server.registry.ensure_model("bare")

    async def listed(*, ready: bool) -> list[tuple[str, str, str]]:
        index = await send(server, pb.RepositoryIndexRequest(ready=ready), "RepositoryIndex")
        return [(entry.name, entry.version, entry.state) for entry in index.models]

    async def bare_is_known() -> bool:
        return len(await listed(ready=False)) == 2

    await poll(bare_is_known)
    assert await listed(ready=False) == [("arithmetic", "1", "READY"), ("bare", "", "UNAVAILABLE")]
    assert await listed(ready=True) == [("arithmetic", "1", "READY")]


async def test_repository_calls_that_mean_nothing_here_are_refused(server: InferenceServer) -> None:
    def load(**parameters: Any) -> pb.RepositoryModelLoadRequest:
        return pb.RepositoryModelLoadRequest(model_name="arithmetic", parameters=parameters)

    for method, message, field in (
        ("RepositoryIndex", pb.RepositoryIndexRequest(repository_name="s3"), "repository_name"),
        ("RepositoryModelLoad", load(config={}), "parameters"),
        ("RepositoryModelLoad", load(version={"string_param": "two"}), "parameters.version"),
        ("RepositoryModelLoad", load(alias={"int64_param": 2}), "parameters.alias"),
        ("RepositoryModelLoad", load(version={"int64_param": 1}, alias={"string_param": "champion"}), "parameters"),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(parameters={"alias": {}}), "parameters"),
    ):
        with pytest.raises(InvalidArgumentError) as refused:
            await send(server, message, method)
        assert refused.value.field == field


async def test_statistics_count_requests_rows_batches_and_failures(server: InferenceServer) -> None:
    for _ in range(3):
        await infer(server, "arithmetic", {"a": np.repeat(A, 2, axis=0), "b": np.repeat(B, 2, axis=0)})
    with pytest.raises(InvalidArgumentError):
        await infer(server, "arithmetic", {"a": A})
    answer = await send(server, pb.ModelStatisticsRequest(), "ModelStatistics")
    (statistics,) = answer.model_stats
    assert (statistics.name, statistics.version) == ("arithmetic", "1")
    assert (statistics.inference_count, statistics.execution_count) == (6, 3)
    assert statistics.last_inference > 0
    sums = statistics.inference_stats
    assert (sums.success.count, sums.fail.count, sums.compute_infer.count) == (3, 1, 3)
    assert sums.success.ns > sums.compute_infer.ns > 0
    assert [(batch.batch_size, batch.compute_infer.count) for batch in statistics.batch_stats] == [(1, 3)]
    with pytest.raises(NotFoundError) as refused:
        await send(server, pb.ModelStatisticsRequest(name="arithmetic", version="7"), "ModelStatistics")
    assert refused.value.field == "name"


async def test_a_typed_method_refuses_a_version_without_its_task(server: InferenceServer) -> None:
    with pytest.raises(FailedPreconditionError, match="task tensors, not of puzzle_cells"):
        await server.client.classify_cell(b"", "arithmetic")


async def test_a_version_with_a_typed_service_is_served_by_the_protocol_too(inference_server: InferenceServer) -> None:
    tiny = TinyModel(marker=5)
    await publish_version(inference_server.registry, "puzzle", tiny, alias="champion")
    await inference_server.wait_for_alias("puzzle", 1)
    images = np.random.default_rng(0).uniform(0, 1, (2, 3, 64, 64)).astype(np.float32)
    answer = outputs(await infer(inference_server, "puzzle", {"image": images}))
    np.testing.assert_allclose(answer["logits"], tiny.logits(images), rtol=1e-4, atol=1e-6)


async def test_the_client_asks_any_model(server: InferenceServer) -> None:
    answer = await server.client.infer("arithmetic", {"a": A, "b": B}, outputs=["difference"], runtime="onnxruntime", priority="high")
    version = await server.registry.get_version("arithmetic", version=1)
    assert (answer.model, answer.version, answer.digest, answer.runtime) == ("arithmetic", 1, version.digest, "onnxruntime")
    assert list(answer.outputs) == ["difference"]
    assert np.array_equal(answer.outputs["difference"], A - B)
    by_number = await server.client.infer("arithmetic", {"a": A, "b": B}, version=1)
    by_alias = await server.client.infer("arithmetic", {"a": A, "b": B}, alias="champion")
    assert list(by_number.outputs) == list(by_alias.outputs) == ["sum", "difference"]
    with pytest.raises(InvalidArgumentError, match="FP32 is needed"):
        await server.client.infer("arithmetic", {"a": A.astype(np.float64), "b": B})
    with pytest.raises(InvalidArgumentError, match="complex64"):
        await server.client.infer("arithmetic", {"a": A + 1j, "b": B})


async def test_the_client_sends_strings_as_people_write_them(inference_server: InferenceServer) -> None:
    await publish_network(inference_server.registry, "words", echo("BYTES"))
    await inference_server.wait_for_alias("words", 1)
    answer = await inference_server.client.infer("words", {"in_bytes": [["one", "zw\u00f6lf"]]})
    assert answer.outputs["out_bytes"].tolist() == [["one", "zw\u00f6lf"]]
