"""Rollouts from the registry to the answers: real servers follow them, lose no request, and give up a version that is worse."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from typer.testing import CliRunner

from services.inference.runtimes import onnxruntime as runtime
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.inference.v1.puzzle_pb2 import ClassifyCellRequest
from tessera.api.inference.v1.serving_pb2 import SERVED_STATE_FAILED, SERVED_STATE_READY, ServedRollout
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.cli.main import app
from tessera.client.registry import RegistryClient
from tessera.errors import TesseraError
from tessera.rpc.channel import open_channel
from tests.fixtures.inference import InferenceServer, TinyModel, check_answer, piece, poll, publish_version, serve_inference, tensor
from tests.fixtures.registry import RegistryProcess, RegistryServer
from tests.fixtures.waiting import WAIT_S

MODEL = "puzzle"
STABLE, CANDIDATE = TinyModel(marker=1), TinyModel(marker=2)
MODELS = {1: STABLE, 2: CANDIDATE}
LENIENT = pb.RolloutGuard(max_error_rate_increase=1.0, max_latency_ratio=1000.0)


class Trouble:
    """What the candidate does instead of answering, once a test wants it: not yet when it is loaded and proven."""

    def __init__(self) -> None:
        self.failing = threading.Event()
        self.slow_s = 0.0

    def applied_to(self, run: Callable[..., Any]) -> Callable[..., Any]:
        def troubled(model: Any, inputs: Any) -> Any:
            outputs = run(model, inputs)
            if outputs["logits"][0].argmax() == CANDIDATE.marker:
                time.sleep(self.slow_s)
                if self.failing.is_set():
                    raise RuntimeError("a bug of the candidate")
            return outputs

        return troubled


@pytest.fixture
def trouble(monkeypatch: pytest.MonkeyPatch) -> Trouble:
    made = Trouble()
    monkeypatch.setattr(runtime.OnnxModel, "run", made.applied_to(runtime.OnnxModel.run))
    return made


@pytest.fixture
async def servers(registry_server: RegistryServer, tmp_path: Path) -> AsyncIterator[tuple[InferenceServer, InferenceServer]]:
    """Two servers of one registry whose champion is version 1."""
    address = registry_server.address
    async with two_versions(address), serve_inference(address, tmp_path / "one") as one, serve_inference(address, tmp_path / "two") as two:
        yield one, two


@asynccontextmanager
async def two_versions(registry_address: str) -> AsyncIterator[None]:
    async with open_channel(registry_address) as channel:
        registry = RegistryClient(channel)
        await publish_version(registry, MODEL, STABLE, alias="champion")
        await publish_version(registry, MODEL, CANDIDATE)
        yield


async def follows(server: InferenceServer, rollout: pb.Rollout) -> None:
    """Wait until a server knows a rollout and has its candidate ready."""

    async def there() -> bool:
        for seen in (await server.client.list_served(MODEL)).rollouts:
            if seen.revision == rollout.revision:
                return seen.candidate.state == SERVED_STATE_READY
        return False

    await poll(there)


async def seen(server: InferenceServer) -> ServedRollout | None:
    """Return what a server tells of the rollout, if it has one."""
    return next(iter((await server.client.list_served(MODEL)).rollouts), None)


async def gone(server: InferenceServer) -> bool:
    return await seen(server) is None


async def ask(server: InferenceServer, seed: int = 0, key: str = "") -> int:
    """Make one call, check its answer against the version that signed it, and return that version."""
    image = piece(seed)
    request = ClassifyCellRequest(model=ModelSelector(model=MODEL), tensor=tensor(image), include_probabilities=True)
    answer = await server.client.puzzle_stub.ClassifyCell(request, timeout=WAIT_S, metadata=(("tessera-sticky-key", key),))
    check_answer(answer, MODELS[answer.answered_by.version], image)
    return answer.answered_by.version


async def try_it(server: InferenceServer) -> int:
    """Make one call; return the version that answered, 0 if the call failed."""
    try:
        return (await server.client.classify_cell(tensor(piece()), MODEL)).answered_by.version
    except TesseraError as error:
        assert error.code == "INTERNAL"
        return 0


class Traffic:
    """Clients of several servers that never stop asking. A call that fails ends them, and the test."""

    def __init__(self, *servers: InferenceServer) -> None:
        self._servers = servers
        self._stop = asyncio.Event()
        self.answers: list[Counter[int]] = [Counter() for _ in servers]

    async def __aenter__(self) -> "Traffic":
        self._tasks = [asyncio.create_task(self._client(number % len(self._servers), number)) for number in range(2 * len(self._servers))]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _client(self, index: int, seed: int) -> None:
        while not self._stop.is_set():
            seed += 100
            self.answers[index][await ask(self._servers[index], seed)] += 1

    async def answered_by(self, *versions: int) -> None:
        """Wait until from now on every one of these versions, and no other, has answered 20 calls of each server."""

        async def settled() -> bool:
            before = [Counter(answers) for answers in self.answers]
            await poll(lambda: all((now - then).total() >= 60 for now, then in zip(self.answers, before, strict=True)))
            fresh = [now - then for now, then in zip(self.answers, before, strict=True)]
            return all(set(counts) == set(versions) and min(counts.values()) >= 10 for counts in fresh)

        await poll(settled)


async def test_no_request_is_lost_while_a_rollout_starts_grows_is_promoted_and_another_is_aborted(
    servers: tuple[InferenceServer, InferenceServer],
) -> None:
    registry = servers[0].registry
    async with Traffic(*servers) as traffic:
        await traffic.answered_by(1)
        await registry.start_rollout(MODEL, 2, weight_percent=50.0, shadow_percent=20.0, guard=LENIENT)
        await traffic.answered_by(1, 2)
        await registry.update_rollout(MODEL, weight_percent=100.0)
        await traffic.answered_by(2)
        await registry.update_rollout(MODEL, weight_percent=0.0)
        await traffic.answered_by(1)
        await registry.end_rollout(MODEL, pb.ROLLOUT_STATE_PROMOTED, reason="good")
        await traffic.answered_by(2)
        await registry.start_rollout(MODEL, 1, weight_percent=50.0, guard=LENIENT)
        await traffic.answered_by(1, 2)
        await registry.end_rollout(MODEL, pb.ROLLOUT_STATE_ABORTED)
        await traffic.answered_by(2)
    assert (await registry.get_model(MODEL)).aliases["champion"] == 2


async def test_a_sticky_key_is_answered_by_one_version_on_all_servers(servers: tuple[InferenceServer, InferenceServer]) -> None:
    rollout = await servers[0].registry.start_rollout(MODEL, 2, weight_percent=40.0, guard=LENIENT)
    keys = [f"user-{number}" for number in range(40)]
    answers = []
    for server in servers:
        await follows(server, rollout)
        answers += [[await ask(server, key=key) for key in keys] for _ in range(2)]
    assert answers[0] == answers[1] == answers[2] == answers[3]
    assert set(answers[0]) == {1, 2}


async def test_a_server_that_starts_during_a_rollout_takes_part_in_it(registry_server: RegistryServer, tmp_path: Path) -> None:
    async with two_versions(registry_server.address):
        async with serve_inference(registry_server.address, tmp_path / "first", wait=False) as early:
            await early.registry.start_rollout(MODEL, 2, weight_percent=100.0, guard=LENIENT)
        async with serve_inference(registry_server.address, tmp_path / "second") as late:
            assert await ask(late) == 2


async def test_a_candidate_that_fails_is_rolled_back_and_stays_so_on_every_server(
    servers: tuple[InferenceServer, InferenceServer], trouble: Trouble
) -> None:
    judging, other = servers
    rollout = await judging.registry.start_rollout(MODEL, 2, weight_percent=50.0, guard=pb.RolloutGuard(min_requests=20))
    await follows(judging, rollout)
    await follows(other, rollout)
    trouble.failing.set()
    answers: Counter[int] = Counter()

    async def rolled_back() -> bool:
        answers[await try_it(judging)] += 1
        return (await judging.registry.get_rollout(MODEL)).state == pb.ROLLOUT_STATE_ROLLED_BACK

    await poll(rolled_back)
    ended = await judging.registry.get_rollout(MODEL)
    assert answers[0] == 20, "not one request more than it takes to judge"
    assert "error rate 100.00% (20 of 20) against 0.00%" in ended.reason
    assert ended.revision > rollout.revision
    for server in servers:
        await poll(lambda server=server: gone(server))  # type: ignore[misc]
        assert Counter([await try_it(server) for _ in range(30)]) == {1: 30}
    await poll(lambda: len(other.pool.slots(MODEL)) == 1)
    assert (await judging.registry.get_model(MODEL)).aliases["champion"] == 1


async def test_a_candidate_that_is_slow_is_rolled_back(servers: tuple[InferenceServer, InferenceServer], trouble: Trouble) -> None:
    judging, other = servers
    rollout = await judging.registry.start_rollout(MODEL, 2, weight_percent=50.0, guard=pb.RolloutGuard(min_requests=5))
    await follows(judging, rollout)
    trouble.slow_s = 0.5

    async def rolled_back() -> bool:
        assert await try_it(judging) in MODELS, "slow is not lost"
        return (await judging.registry.get_rollout(MODEL)).state == pb.ROLLOUT_STATE_ROLLED_BACK

    await poll(rolled_back)
    assert "latency" in (await judging.registry.get_rollout(MODEL)).reason
    await poll(lambda: gone(other))
    assert Counter([await try_it(other) for _ in range(30)]) == {1: 30}


@pytest.mark.slow
async def test_without_the_registry_a_bad_candidate_is_left_at_once_and_rolled_back_when_it_returns(
    registry_process: RegistryProcess, tmp_path: Path, trouble: Trouble
) -> None:
    async with two_versions(registry_process.address), serve_inference(registry_process.address, tmp_path / "cache") as server:
        guard = pb.RolloutGuard(min_requests=10)
        await follows(server, await server.registry.start_rollout(MODEL, 2, weight_percent=100.0, guard=guard))
        await asyncio.to_thread(registry_process.kill)
        trouble.failing.set()
        assert [await try_it(server) for _ in range(30)] == [0] * 10 + [1] * 20
        rollout = await seen(server)
        assert rollout
        assert "error rate 100.00% (10 of 10)" in rollout.halted
        await asyncio.to_thread(registry_process.start)
        await poll(lambda: gone(server))
        ended = await server.registry.get_rollout(MODEL)
        assert (ended.state, ended.reason) == (pb.ROLLOUT_STATE_ROLLED_BACK, rollout.halted)
        assert await ask(server) == 1


async def test_a_candidate_that_cannot_be_loaded_gets_no_traffic(inference_server: InferenceServer) -> None:
    registry = inference_server.registry
    await publish_version(registry, MODEL, STABLE, alias="champion")
    await publish_version(registry, MODEL, CANDIDATE, golden_error=1.0)
    await inference_server.wait_for_alias(MODEL, 1)
    await registry.start_rollout(MODEL, 2, weight_percent=100.0)
    await inference_server.wait_for(MODEL, 2, "FAILED")
    assert [await ask(inference_server, seed) for seed in range(20)] == [1] * 20
    rollout = await seen(inference_server)
    assert rollout
    assert (rollout.candidate.state, rollout.stable.requests, rollout.candidate.requests) == (SERVED_STATE_FAILED, 20, 0)


async def test_the_command_leads_a_version_from_its_first_requests_to_all_of_them(
    inference_server: InferenceServer, registry_server: RegistryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESSERA_REGISTRY_ADDRESS", registry_server.address)
    monkeypatch.setenv("TESSERA_INFERENCE_ADDRESS", inference_server.address)

    async def tessera(*words: object) -> Any:
        result = await asyncio.to_thread(CliRunner().invoke, app, ["rollout", *map(str, words), "--json"])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    await publish_version(inference_server.registry, MODEL, STABLE, alias="champion")
    await publish_version(inference_server.registry, MODEL, CANDIDATE)
    await inference_server.wait_for_alias(MODEL, 1)
    assert (await tessera("start", MODEL, "--version", 2, "--weight", 100, "--reason", "try it"))["state"] == "ACTIVE"
    await follows(inference_server, await inference_server.registry.get_rollout(MODEL))
    assert [await ask(inference_server) for _ in range(5)] == [2] * 5
    status = await tessera("status", MODEL)
    assert (status["rollout"]["reason"], status["server"]["candidate"]["requests"]) == ("try it", 5)
    assert (await tessera("set", MODEL, "--weight", 1))["weight_percent"] == 1.0
    assert [one["model"] for one in await tessera("list")] == [MODEL]
    assert (await tessera("promote", MODEL))["state"] == "PROMOTED"
    await poll(lambda: gone(inference_server))
    assert await ask(inference_server) == 2
    assert await tessera("list") == []
    assert [(change["state"], change["weight_percent"]) for change in await tessera("history", MODEL)] == [
        ("PROMOTED", 1.0),
        ("ACTIVE", 1.0),
        ("ACTIVE", 100.0),
    ]
    assert (await tessera("status", MODEL))["server"] is None


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"model": MODEL, **labels}) or 0.0


async def test_copies_show_how_the_candidate_differs_and_callers_see_nothing_of_it(
    inference_server: InferenceServer, trouble: Trouble
) -> None:
    registry = inference_server.registry
    await publish_version(registry, MODEL, STABLE, alias="champion")
    await publish_version(registry, MODEL, CANDIDATE)
    await inference_server.wait_for_alias(MODEL, 1)
    compared = metric("inference_shadow_requests_total", alias="champion", outcome="compared")
    differences = metric("inference_shadow_max_absolute_difference_count", output="logits")
    await follows(inference_server, await registry.start_rollout(MODEL, 2, shadow_percent=100.0, guard=LENIENT))

    async def shadows(outcome: str, count: int) -> ServedRollout:
        """Ask until so many copies have ended so; return what the server tells of the rollout then."""

        async def reached() -> ServedRollout | None:
            assert await ask(inference_server) == 1
            rollout = await seen(inference_server)
            return rollout if rollout and rollout.shadow.requests[outcome] >= count else None

        found: ServedRollout = await poll(reached)
        return found

    rollout = await shadows("compared", 10)
    assert (rollout.shadow.rows, rollout.shadow.agreeing_rows) == (rollout.shadow.requests["compared"], 0)
    assert rollout.shadow.max_absolute_difference == pytest.approx(8, abs=3)
    assert metric("inference_shadow_requests_total", alias="champion", outcome="compared") >= compared + 10
    assert metric("inference_shadow_max_absolute_difference_count", output="logits") >= differences + 10
    trouble.failing.set()
    rollout = await shadows("failed", 10)
    assert not rollout.halted
    assert rollout.candidate.requests == 0
