"""A real Prometheus that scrapes a real stack under load has an answer to every query of every dashboard and rule."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import cycle
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from observability import pictures
from observability.asking import Prometheus, Span
from observability.check import Checked, check
from observability.dashboards import DASHBOARDS
from observability.questions import questions, selectors
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.inference.v1.puzzle_pb2 import ClassifyCellRequest
from tessera.api.inference.v1.puzzle_pb2_grpc import PuzzleServiceStub
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.client.queued import QueuedInferenceClient
from tessera.client.registry import RegistryClient
from tessera.errors import TesseraError
from tests.fixtures.certificates import Authority
from tests.fixtures.inference import InferenceProcess, TinyModel, piece, publish_version, tensor
from tests.fixtures.ports import free_port
from tests.fixtures.prometheus import running_prometheus
from tests.fixtures.queued import images
from tests.fixtures.redis import RedisServer
from tests.fixtures.registry import RegistryProcess
from tests.fixtures.torchserve import publish_both
from tests.fixtures.trainer import TrainerProcess, TrainingStack

pytestmark = pytest.mark.slow

MODEL = "puzzle"
TINY = TinyModel(marker=5)
SPAN = Span(minutes=2, rate_interval="8s", points=120)
WITHIN_S = 400.0


@contextmanager
def observed_stack(
    directory: Path, redis: RedisServer, authority: Authority
) -> Iterator[tuple[TrainingStack, InferenceProcess, Prometheus]]:
    """Registry, trainer, worker and inference server as processes, and a Prometheus that scrapes them from their first second on."""
    registry_metrics = free_port()
    registry = RegistryProcess(directory, metrics_port=str(registry_metrics))
    trainer = TrainerProcess(directory, redis.url, registry.address)
    pair = authority.issue("inference")
    inference = InferenceProcess(
        directory,
        registry.address,
        tls_cert=str(pair.cert),
        tls_key=str(pair.key),
        database_url=f"sqlite:///{directory / 'queue.db'}",
        redis_url=redis.url,
        queue_reconcile_s="0.2",
    )
    ports = {"registry": registry_metrics, "trainer": trainer.metrics_port, "worker": free_port(), "inference": inference.metrics_port}
    stack = TrainingStack(directory, redis, registry, trainer)
    with running_prometheus(directory / "prometheus", ports) as prometheus:
        try:
            registry.start()
            inference.start(serving=False)
            trainer.start()
            stack.start_worker(metrics_port=str(ports["worker"]))
            yield stack, inference, prometheus
        finally:
            for program in (*stack.workers, trainer):
                program.close()
            for server in (inference, registry):
                if server.process is not None:
                    server.kill()


class Load:
    """Everything that the dashboards show, again and again: calls of all kinds, right and wrong, and trainings."""

    def __init__(self, stack: TrainingStack, channel: grpc.aio.Channel) -> None:
        self._stack = stack
        self._stub = PuzzleServiceStub(channel)
        self._queued = QueuedInferenceClient(channel, stack.client.registry)
        large = io.BytesIO()
        Image.new("RGB", (4000, 4000)).save(large, "PNG")
        self._large = large.getvalue()
        self._too_short_s = cycle((0.02, 0.05, 0.1, 0.2, 0.4, 0.8))  # one of them is enough for the call to arrive, and not to be decoded

    @asynccontextmanager
    async def applied(self) -> AsyncIterator[None]:
        """Call until the block ends."""
        kinds = (self.ask, self.ask_for_a_failure, self.ask_too_many, self.ask_too_late, self.train, self.queue)
        tasks = [asyncio.create_task(self._repeat(kind)) for kind in kinds]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def ask(self) -> None:
        for runtime in ("onnxruntime", "torchserve"):
            await self._call(ClassifyCellRequest(tensor=tensor(piece())), runtime)

    async def ask_for_a_failure(self) -> None:
        await self._call(ClassifyCellRequest(tensor=tensor(np.zeros((64, 64, 3), np.float32))), "torchserve")

    async def ask_too_many(self) -> None:
        await asyncio.gather(*(self._call(ClassifyCellRequest(tensor=tensor(piece(seed))), "torchserve") for seed in range(20)))
        await asyncio.sleep(0.2)

    async def ask_too_late(self) -> None:
        await self._call(ClassifyCellRequest(image=self._large), "onnxruntime", timeout_s=next(self._too_short_s))
        await asyncio.sleep(0.5)

    async def train(self) -> None:
        await self._stack.until_ended(await self._stack.submit(epochs=3, epoch_s=0.2))

    async def queue(self) -> None:
        await self._queued.submit({"image": images(2)}, MODEL)
        await asyncio.sleep(0.5)

    async def _call(self, request: ClassifyCellRequest, runtime: str, timeout_s: float = 20.0) -> None:
        request.model.CopyFrom(ModelSelector(model=MODEL))
        with suppress(grpc.aio.AioRpcError):  # many of them are meant to fail
            await self._stub.ClassifyCell(request, timeout=timeout_s, metadata=(("tessera-runtime", runtime),))

    @staticmethod
    async def _repeat(kind: Callable[[], Awaitable[None]]) -> None:
        while True:
            with suppress(TesseraError):
                await kind()
            await asyncio.sleep(0.05)


async def deploy(registry: RegistryClient) -> None:
    """Register a version with both graphs and few calls at once, and give a second one a part of its traffic."""
    await publish_both(registry, MODEL, TINY, "onnxruntime")
    await registry.update_model(MODEL, serving=pb.ServingLimits(max_concurrency=12))
    second = await publish_version(registry, MODEL, TinyModel(marker=7))
    guard = pb.RolloutGuard(max_error_rate_increase=1.0, max_latency_ratio=1000.0)
    await registry.start_rollout(MODEL, second.version, weight_percent=30, shadow_percent=50, guard=guard)


async def until_answered(prometheus: Prometheus) -> list[Checked]:
    """Return what came of every query as soon as nothing is wrong, or what is still wrong at last."""
    deadline = asyncio.get_running_loop().time() + WITHIN_S
    while True:
        wrong = [one for one in await asyncio.to_thread(check, prometheus, SPAN, all_have_data=True) if one.problem]
        if not wrong or asyncio.get_running_loop().time() > deadline:
            return wrong
        await asyncio.sleep(1.0)


def unanswered_parts_of_alerts(prometheus: Prometheus) -> set[str]:
    """Return what alerts look at and what is not there: alerts are silent in good times, what they look at is not."""
    alerts = [question for question in questions() if question.where.startswith("alert: ")]
    parts = {str(selector.prettify()).strip() for alert in alerts for selector in selectors(alert.expr)}
    return {part for part in parts if not prometheus.ask(part, SPAN)}


@pytest.mark.timeout(900)
async def test_every_query_has_an_answer_from_a_stack_under_load(tmp_path: Path, redis_server: RedisServer) -> None:
    authority = Authority(tmp_path, "authority")
    credentials = grpc.ssl_channel_credentials(authority.cert.read_bytes())
    with observed_stack(tmp_path, redis_server, authority) as (stack, inference, prometheus):
        async with stack.client, grpc.aio.secure_channel(inference.address, credentials) as channel:
            await deploy(stack.client.registry)
            async with Load(stack, channel).applied():
                wrong = await until_answered(prometheus)
                assert not wrong, f"{wrong}\n{stack.logs()}\n{inference.log.read_text()[-4000:]}"
                assert await asyncio.to_thread(unanswered_parts_of_alerts, prometheus) == set()
        path = tmp_path / "training.png"
        pictures.draw(next(one for one in DASHBOARDS if one.name == "training"), prometheus, SPAN, path)
        with Image.open(path) as picture:
            assert min(picture.size) > 500
