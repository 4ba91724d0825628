"""The pool against a real registry: what its aliases name is served, proven, swapped and let go, and no request is lost."""

import asyncio
import gc
import hashlib
import weakref
from collections import Counter
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from model_store.manifest import Manifest
from services.inference import leases
from services.inference.runtimes import onnxruntime as runtime
from tessera.client.inference import InferenceClient
from tessera.errors import DataLossError, FailedPreconditionError, InvalidArgumentError, NotFoundError, TesseraError
from tessera.rpc.channel import open_channel
from tests.fixtures.inference import CELLS, InferenceServer, TinyModel, check_answer, piece, poll, publish_version, serve_inference, tensor
from tests.fixtures.registry import RegistryServer
from tests.fixtures.waiting import WAIT_S

MODEL = "puzzle"


async def test_an_alias_that_is_set_is_served_and_answers_as_the_network_does(inference_server: InferenceServer) -> None:
    tiny = TinyModel(marker=5)
    version = await publish_version(inference_server.registry, MODEL, tiny, alias="champion")
    await inference_server.wait_for_alias(MODEL, 1)
    image = piece()
    answer = await inference_server.client.classify_cell(tensor(image), MODEL, include_probabilities=True)
    check_answer(answer, tiny, image)
    best = answer.candidates[0]
    assert (answer.columns, answer.rows, len(answer.candidates), best.column, best.row) == (4, 3, 5, 1, 1)
    signed = answer.answered_by
    assert (signed.model, signed.version, signed.digest, signed.batch_size) == (MODEL, 1, version.digest, 1)
    assert all(phase.ToNanoseconds() > 0 for phase in (signed.decode, signed.queue, signed.compute, signed.encode))
    listed = await inference_server.client.list_served(MODEL)
    assert [(one.version, one.runtime, one.digest, list(one.aliases)) for one in listed.versions] == [
        (1, "onnxruntime", version.digest, ["champion"])
    ]
    assert listed.versions[0].load_time.ToNanoseconds() > 0
    assert listed.revision > 0


async def test_what_was_named_before_the_start_is_loaded_before_the_server_is_ready(
    registry_server: RegistryServer, tmp_path: Path
) -> None:
    async with serve_inference(registry_server.address, tmp_path / "first") as first:
        for number in range(3):
            await publish_version(first.registry, f"{MODEL}-{number}", TinyModel(marker=number), alias="champion")
        await first.registry.set_alias(f"{MODEL}-1", "candidate", 1)
    async with serve_inference(registry_server.address, tmp_path / "second") as second:
        assert await second.served() == {(f"{MODEL}-{number}", 1): "READY" for number in range(3)}
        answer = await second.client.classify_cell(tensor(piece()), f"{MODEL}-1", alias="candidate")
        assert answer.candidates[0].index == 1


async def test_twenty_swaps_under_load_lose_no_request_and_every_answer_is_of_the_version_that_signed_it(
    inference_server: InferenceServer,
) -> None:
    models = {number: TinyModel(marker=number % CELLS) for number in range(1, 22)}
    await publish_version(inference_server.registry, MODEL, models[1], alias="champion")
    await inference_server.wait_for_alias(MODEL, 1)
    answered: Counter[int] = Counter()
    stop = asyncio.Event()

    async def client(number: int) -> None:
        async with open_channel(inference_server.address) as channel:
            inference = InferenceClient(channel, WAIT_S)
            seed = number * 10_000
            while not stop.is_set():
                seed += 1
                image = piece(seed)
                answer = await inference.classify_cell(tensor(image), MODEL, include_probabilities=True)
                check_answer(answer, models[answer.answered_by.version], image)
                answered[answer.answered_by.version] += 1

    async with asyncio.TaskGroup() as clients:
        for number in range(6):
            clients.create_task(client(number))
        for number in range(2, 22):
            await publish_version(inference_server.registry, MODEL, models[number], alias="champion")
            await poll(lambda number=number: answered[number] >= 3)
        stop.set()
    assert sorted(answered) == list(range(1, 22))
    await poll(lambda: _only(inference_server, {(MODEL, 21): "READY"}))


async def _only(server: InferenceServer, expected: dict[tuple[str, int], str]) -> bool:
    return await server.served() == expected


async def test_a_version_that_fails_its_golden_example_is_refused_and_the_old_one_goes_on(inference_server: InferenceServer) -> None:
    await publish_version(inference_server.registry, MODEL, TinyModel(marker=1), alias="champion")
    await inference_server.wait_for_alias(MODEL, 1)
    await publish_version(inference_server.registry, MODEL, TinyModel(marker=2), alias="champion", golden_error=0.5)
    await inference_server.wait_for(MODEL, 2, "FAILED")
    listed = {one.version: one for one in (await inference_server.client.list_served(MODEL)).versions}
    assert "golden example" in listed[2].error
    assert "differs by up to 0.5" in listed[2].error
    assert (list(listed[1].aliases), list(listed[2].aliases)) == (["champion"], [])
    assert (await inference_server.client.classify_cell(tensor(piece()), MODEL)).answered_by.version == 1
    with pytest.raises(FailedPreconditionError, match="golden example"):
        await inference_server.client.classify_cell(tensor(piece()), MODEL, version=2)
    await publish_version(inference_server.registry, MODEL, TinyModel(marker=3), alias="champion")
    await inference_server.wait_for_alias(MODEL, 3)
    assert (await inference_server.client.classify_cell(tensor(piece()), MODEL)).answered_by.version == 3


async def stored_graph(server: InferenceServer, blobs: Path, number: int) -> Path:
    """Return where the registry's local store keeps the graph of a version."""
    version = await server.registry.get_version(MODEL, version=number)
    sha256 = Manifest.parse(version.manifest_json).files_in_role("graph")[0].sha256
    return next(path for path in blobs.rglob("*") if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256)


async def test_a_corrupted_blob_is_refused_and_the_old_version_goes_on(inference_server: InferenceServer, tmp_path: Path) -> None:
    await publish_version(inference_server.registry, MODEL, TinyModel(marker=1), alias="champion")
    await inference_server.wait_for_alias(MODEL, 1)
    await publish_version(inference_server.registry, MODEL, TinyModel(marker=2))
    path = await stored_graph(inference_server, tmp_path / "blobs", 2)
    intact = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(intact[:-20] + bytes([intact[-20] ^ 1]) + intact[-19:])
    await inference_server.registry.set_alias(MODEL, "champion", 2)
    await inference_server.wait_for(MODEL, 2, "FAILED")
    assert (await inference_server.client.classify_cell(tensor(piece()), MODEL)).answered_by.version == 1
    with pytest.raises(DataLossError):
        await inference_server.client.classify_cell(tensor(piece()), MODEL, version=2)
    path.write_bytes(intact)
    await inference_server.registry.set_alias(MODEL, "champion", 2, reason="the blob was repaired")
    await inference_server.wait_for_alias(MODEL, 2)


async def test_a_missing_file_is_refused_and_the_old_version_goes_on(inference_server: InferenceServer, tmp_path: Path) -> None:
    await publish_version(inference_server.registry, MODEL, TinyModel(marker=1), alias="champion")
    await inference_server.wait_for_alias(MODEL, 1)
    await publish_version(inference_server.registry, MODEL, TinyModel(marker=2))
    (await stored_graph(inference_server, tmp_path / "blobs", 2)).unlink()
    await inference_server.registry.set_alias(MODEL, "champion", 2)
    await inference_server.wait_for(MODEL, 2, "FAILED")
    assert (await inference_server.client.classify_cell(tensor(piece()), MODEL)).answered_by.version == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task": {"name": "captions", "revision": 1}}, "the task 'captions'; this server knows ptychography, puzzle_cells, tensors"),
        ({"task": {"name": "puzzle_cells", "revision": 99}}, "revision 99 of the preprocessing"),
        ({"runtime": "abacus"}, "the runtime 'abacus'; this server has onnxruntime"),
        ({"mappings": {}}, "lacks mappings.grid"),
        ({"mappings": {"grid": {"columns": 5, "rows": 3}}}, "the task puzzle_cells has"),
        ({"mappings": {"grid": {"columns": 0, "rows": 3}}}, "a grid of 0 x 3"),
    ],
)
async def test_a_version_that_this_server_cannot_serve_fails_with_the_reason(
    inference_server: InferenceServer, changes: dict[str, object], reason: str
) -> None:
    await publish_version(inference_server.registry, MODEL, TinyModel(marker=1), alias="champion", **changes)
    await inference_server.wait_for(MODEL, 1, "FAILED")
    assert reason in (await inference_server.client.list_served()).versions[0].error
    with pytest.raises(FailedPreconditionError, match="puzzle version 1 cannot be served"):
        await inference_server.client.classify_cell(tensor(piece()), MODEL)


async def test_an_exact_version_is_loaded_once_for_all_who_ask(inference_server: InferenceServer) -> None:
    await publish_version(inference_server.registry, MODEL, TinyModel(marker=4))
    asked = [inference_server.client.classify_cell(tensor(piece(seed)), MODEL, version=1) for seed in range(20)]
    answers = await asyncio.gather(*asked)
    assert {(answer.answered_by.version, answer.candidates[0].index) for answer in answers} == {(1, 4)}
    assert REGISTRY.get_sample_value("inference_model_info", {"model": MODEL, "version": "1", "digest": answers[0].answered_by.digest}) == 1


async def test_of_versions_without_alias_only_the_last_used_stay_loaded(registry_server: RegistryServer, tmp_path: Path) -> None:
    async with serve_inference(registry_server.address, tmp_path / "cache", max_on_demand=2) as server:
        for number in range(4):
            await publish_version(server.registry, MODEL, TinyModel(marker=number), alias="champion" if number == 0 else "")
        for version in (2, 3, 2, 4):
            answer = await server.client.classify_cell(tensor(piece()), MODEL, version=version)
            assert answer.answered_by.version == version
        await poll(lambda: _only(server, {(MODEL, 1): "READY", (MODEL, 2): "READY", (MODEL, 4): "READY"}))


async def test_a_deleted_alias_unloads_its_version_and_frees_it(inference_server: InferenceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[weakref.ref[object]] = []
    make = runtime.ort.InferenceSession

    def made(*args: object, **options: object) -> object:
        session = make(*args, **options)
        sessions.append(weakref.ref(session))
        return session

    monkeypatch.setattr(runtime.ort, "InferenceSession", made)
    monkeypatch.setattr(leases, "RELEASE_TIMEOUT_S", WAIT_S)  # else a busy machine may leave one, which runs out later
    version = await publish_version(inference_server.registry, MODEL, TinyModel(marker=4), alias="champion")
    await inference_server.wait_for_alias(MODEL, 1)
    assert await inference_server.client.classify_cell(tensor(piece()), MODEL)
    assert [session() is not None for session in sessions] == [True]
    with pytest.raises(FailedPreconditionError):
        await inference_server.registry.delete_version(MODEL, 1)
    await inference_server.registry.delete_alias(MODEL, "champion")
    await poll(lambda: _only(inference_server, {}))
    gc.collect()
    assert [session() for session in sessions] == [None]
    assert REGISTRY.get_sample_value("inference_model_info", {"model": MODEL, "version": "1", "digest": version.digest}) is None
    with pytest.raises(NotFoundError, match="has no alias 'champion'; aliases: none"):
        await inference_server.client.classify_cell(tensor(piece()), MODEL)
    await inference_server.registry.delete_version(MODEL, 1)  # neither alias nor lease holds it


async def test_a_lease_protects_a_version_that_is_served_without_alias(inference_server: InferenceServer) -> None:
    await publish_version(inference_server.registry, MODEL, TinyModel(marker=4))
    await inference_server.client.classify_cell(tensor(piece()), MODEL, version=1)
    with pytest.raises(FailedPreconditionError, match="lease"):
        await inference_server.registry.delete_version(MODEL, 1)


async def test_what_does_not_exist_is_not_found_and_the_message_names_what_does(inference_server: InferenceServer) -> None:
    await publish_version(inference_server.registry, MODEL, TinyModel(marker=4), alias="champion")
    await inference_server.wait_for_alias(MODEL, 1)
    ask = inference_server.client.classify_cell
    with pytest.raises(NotFoundError, match="no model 'nobody'; models: puzzle"):
        await ask(tensor(piece()), "nobody")
    with pytest.raises(NotFoundError, match=r"no alias 'candidate'; aliases: champion \(version 1\)"):
        await ask(tensor(piece()), MODEL, alias="candidate")
    with pytest.raises(NotFoundError, match="version 9"):
        await ask(tensor(piece()), MODEL, version=9)
    with pytest.raises(NotFoundError, match="nobody"):
        await ask(tensor(piece()), "nobody", version=1)


@pytest.mark.parametrize(
    ("model", "selector", "field"),
    [
        ("", {}, "model.model"),
        ("a" * 300, {}, "model.model"),
        ("../../etc/passwd", {}, "model.model"),
        ("bad\nname", {"version": 1}, "model.model"),
        ("puzzle", {"version": 0}, "model.version"),
        ("puzzle", {"version": -5}, "model.version"),
        ("puzzle", {"alias": "UPPER"}, "model.alias"),
        ("puzzle", {"alias": "17"}, "model.alias"),
        ("puzzle", {"alias": ""}, "model.alias"),
    ],
)
async def test_a_malformed_selector_is_refused(
    inference_server: InferenceServer, model: str, selector: dict[str, int | str], field: str
) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        await inference_server.client.classify_cell(tensor(piece()), model, **selector)  # type: ignore[arg-type]
    assert refused.value.field == field


async def test_a_deleted_version_is_not_served(inference_server: InferenceServer) -> None:
    await publish_version(inference_server.registry, MODEL, TinyModel(marker=4))
    await inference_server.registry.delete_version(MODEL, 1)
    with pytest.raises(TesseraError, match=r"deleted|version 1") as refused:
        await inference_server.client.classify_cell(tensor(piece()), MODEL, version=1)
    assert refused.value.code in {"FAILED_PRECONDITION", "NOT_FOUND"}


async def test_a_graph_that_takes_one_row_at_a_time_is_served_too(inference_server: InferenceServer) -> None:
    fixed = {
        "inputs": ({"name": "image", "data_type": "FP32", "shape": (1, 3, 64, 64)},),
        "outputs": ({"name": "logits", "data_type": "FP32", "shape": (1, CELLS)},),
    }
    tiny = TinyModel(marker=6, batch=1)
    await publish_version(inference_server.registry, MODEL, tiny, alias="champion", **fixed)
    await inference_server.wait_for_alias(MODEL, 1)
    images = [piece(seed) for seed in range(10)]
    asked = [inference_server.client.classify_cell(tensor(image), MODEL, include_probabilities=True) for image in images]
    for image, answer in zip(images, await asyncio.gather(*asked), strict=True):
        check_answer(answer, tiny, image)
        assert answer.answered_by.batch_size == 1
