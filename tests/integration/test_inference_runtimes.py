"""A server with versions that carry both graphs: TorchServe starts when one asks for it; the other runtime answers when it is killed."""

from pathlib import Path

import psutil

from tests.fixtures.inference import InferenceServer, TinyModel, check_answer, piece, poll, serve_inference, tensor
from tests.fixtures.registry import RegistryServer
from tests.fixtures.torchserve import publish_both

MODEL = "puzzle"
TINY = TinyModel(marker=5)
LOAD_S = 90.0


def java() -> list[psutil.Process]:
    """Return the TorchServe processes of this process."""
    return [child for child in psutil.Process().children() if child.name() == "java"]


async def runtimes_of(server: InferenceServer) -> list[str]:
    (served,) = (await server.client.list_served(MODEL)).versions
    return list(served.runtimes)


async def ask(server: InferenceServer, runtime: str = "") -> str:
    """Return the runtime that answered, rightly."""
    image = piece()
    answer = await server.client.classify_cell(tensor(image), MODEL, runtime=runtime, include_probabilities=True)
    check_answer(answer, TINY, image)
    return answer.answered_by.runtime


async def test_torchserve_starts_when_asked_for_and_the_other_runtime_answers_when_it_is_killed(
    registry_server: RegistryServer, tmp_path: Path
) -> None:
    async with serve_inference(registry_server.address, tmp_path / "cache") as server:
        server.client.timeout_s = LOAD_S
        await publish_both(server.registry, MODEL, TINY, "onnxruntime")
        await server.wait_for_alias(MODEL, 1)
        assert await ask(server) == "onnxruntime"
        assert java() == [], "nobody has asked for TorchServe yet"
        assert await ask(server, "torchserve") == "torchserve"
        assert await runtimes_of(server) == ["onnxruntime", "torchserve"]

        await publish_both(server.registry, MODEL, TINY, "torchserve")
        await poll(lambda: answered_by_version(server, 2), LOAD_S)
        assert await ask(server) == "torchserve"
        (first,) = java()
        first.kill()
        assert await ask(server) == "onnxruntime", "nobody notices"
        await poll(lambda: back_on_torchserve(server), LOAD_S)
        assert [process.pid for process in java()] != [first.pid]
    assert java() == []
    assert not list(Path(tmp_path / "cache").glob("*.mar"))


async def answered_by_version(server: InferenceServer, version: int) -> bool:
    return (await server.client.classify_cell(tensor(piece()), MODEL)).answered_by.version == version


async def back_on_torchserve(server: InferenceServer) -> bool:
    return await ask(server) == "torchserve"
