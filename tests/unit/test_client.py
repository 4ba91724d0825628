"""The client on real gRPC servers: what is tried again, what is not, deadlines, and streams that outlive a server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import pytest

from tessera.api.inference.v1 import puzzle_pb2, puzzle_pb2_grpc
from tessera.api.registry.v1 import registry_pb2, registry_pb2_grpc
from tessera.api.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from tessera.client import Client
from tessera.client.calls import LONGEST_PAUSE_S, pause_s
from tessera.errors import AlreadyExistsError, DeadlineExceededError, NotFoundError, UnavailableError
from tessera.settings import ClientSettings
from tests.fixtures.ports import free_port
from tests.fixtures.waiting import until


class Registry(registry_pb2_grpc.RegistryServiceServicer):
    """Counts calls; fails the first `failures` of them as unavailable."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.calls: list[str] = []
        self.models: set[str] = set()
        self.watched_from: list[int] = []

    async def _count(self, name: str, context: Any) -> None:
        self.calls.append(name)
        if self.failures:
            self.failures -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")

    async def GetModel(self, request: Any, context: Any) -> Any:
        await self._count("GetModel", context)
        if request.name not in self.models:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name!r}")
        return registry_pb2.GetModelResponse(model=registry_pb2.Model(name=request.name))

    async def CreateModel(self, request: Any, context: Any) -> Any:
        await self._count("CreateModel", context)
        if request.name == "raced":
            self.models.add(request.name)
        if request.name in self.models:
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "exists")
        self.models.add(request.name)
        return registry_pb2.CreateModelResponse(model=registry_pb2.Model(name=request.name))

    async def CreateVersion(self, request: Any, context: Any) -> Any:
        await self._count("CreateVersion", context)
        return registry_pb2.CreateVersionResponse(version=registry_pb2.Version(version=1))

    async def VerifyVersion(self, request: Any, context: Any) -> Any:
        await asyncio.Event().wait()

    async def ListModels(self, request: Any, context: Any) -> Any:
        await self._count("ListModels", context)
        position = int(request.page_token or 0)
        return registry_pb2.ListModelsResponse(
            models=[registry_pb2.Model(name=f"m{position}")], next_page_token=str(position + 1) if position < 2 else ""
        )

    async def UpdateModel(self, request: Any, context: Any) -> Any:
        assert context.time_remaining() < 5, "the deadline came along"
        await asyncio.Event().wait()

    async def Watch(self, request: Any, context: Any) -> Any:
        """Send three events, then break in one of the ways in which streams break."""
        self.watched_from.append(request.since_revision)
        if request.model == "refused":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        for revision in range(request.since_revision + 1, request.since_revision + 4):
            yield registry_pb2.WatchResponse(revision=revision)
        match len(self.watched_from):
            case 1:
                return
            case 2:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
            case 3:
                await context.abort(grpc.StatusCode.CANCELLED, "stopped")
            case _:
                await asyncio.Event().wait()


class Trainer(trainer_pb2_grpc.TrainerServiceServicer):
    """Breaks the first stream in the middle of a job."""

    def __init__(self) -> None:
        self.streams = 0

    async def WatchJob(self, request: Any, context: Any) -> Any:
        if request.id == "unknown":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such job")
        self.streams += 1
        yield trainer_pb2.WatchJobResponse(job=trainer_pb2.Job(id=request.id, state=trainer_pb2.JOB_STATE_RUNNING))
        if self.streams == 1:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "restarting")
        yield trainer_pb2.WatchJobResponse(job=trainer_pb2.Job(id=request.id, state=trainer_pb2.JOB_STATE_SUCCEEDED, version=2))


class Puzzle(puzzle_pb2_grpc.PuzzleServiceServicer):
    """Never answers in time."""

    async def ClassifyCell(self, request: Any, context: Any) -> Any:
        assert context.time_remaining() < 5, "the deadline came along"
        await asyncio.Event().wait()


@asynccontextmanager
async def serving(registry: Registry, trainer: Trainer | None = None, **settings: Any) -> AsyncIterator[Client]:
    server = grpc.aio.server()
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
    trainer_pb2_grpc.add_TrainerServiceServicer_to_server(trainer or Trainer(), server)
    puzzle_pb2_grpc.add_PuzzleServiceServicer_to_server(Puzzle(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        async with Client(address, address, address, ClientSettings(**settings)) as client:
            yield client
    finally:
        await server.stop(None)


async def test_a_read_is_tried_again_while_the_server_is_away() -> None:
    registry = Registry(failures=2)
    registry.models.add("m")
    async with serving(registry) as client:
        assert (await client.registry.get_model("m")).name == "m"
    assert registry.calls == ["GetModel"] * 3


async def test_a_write_that_may_be_repeated_is_tried_again() -> None:
    registry = Registry(failures=2)
    async with serving(registry) as client:
        assert (await client.registry.create_version("m", b"{}", idempotency_key="k")).version == 1
    assert registry.calls == ["CreateVersion"] * 3


async def test_a_write_that_must_not_happen_twice_is_sent_once() -> None:
    registry = Registry(failures=1)
    async with serving(registry) as client:
        with pytest.raises(UnavailableError):
            await client.registry.create_version("m", b"{}")
        assert registry.calls == ["CreateVersion"]
        registry.failures = 1
        with pytest.raises(UnavailableError):
            await client.registry.create_model("m")
    assert registry.calls == ["CreateVersion", "CreateModel"]


async def test_trying_again_ends_when_the_server_stays_away() -> None:
    registry = Registry(failures=1000)
    async with serving(registry) as client:
        with pytest.raises(UnavailableError, match="away"):
            await client.registry.create_version("m", b"{}", idempotency_key="k")
    assert len(registry.calls) == 4


async def test_an_address_where_nobody_listens_is_unavailable() -> None:
    address = f"127.0.0.1:{free_port()}"
    async with Client(address, address, address) as client:
        with pytest.raises(UnavailableError, match=address.partition(":")[2]):
            await client.registry.get_model("m")


async def test_every_call_has_a_deadline() -> None:
    async with serving(Registry(), timeout_s=0.3) as client:  # the server would not answer for ever
        with pytest.raises(DeadlineExceededError):
            await client.registry.update_model("m", description="x")
        with pytest.raises(DeadlineExceededError):
            await client.inference.classify_cell(b"piece", "m")


async def test_ensure_model_makes_it_once() -> None:
    registry = Registry()
    async with serving(registry) as client:
        assert (await client.registry.ensure_model("m")).name == "m"
        assert (await client.registry.ensure_model("m")).name == "m"
        assert registry.calls.count("CreateModel") == 1
        assert (await client.registry.ensure_model("raced")).name == "raced", "somebody else made it in between"
        with pytest.raises(AlreadyExistsError):
            await client.registry.create_model("m")


async def test_lists_go_on_over_all_pages() -> None:
    async with serving(Registry()) as client:
        assert [model.name async for model in client.registry.list_models()] == ["m0", "m1", "m2"]


async def test_watch_goes_on_from_the_last_revision_however_the_stream_breaks() -> None:
    registry = Registry()
    async with serving(registry) as client:
        seen = []
        async with aclosing(client.registry.watch(since_revision=5)) as messages:
            async for message in messages:
                seen.append(message.revision)
                if len(seen) == 12:
                    break
    assert seen == list(range(6, 18)), "nothing lost, nothing twice"
    assert registry.watched_from == [5, 8, 11, 14]


async def test_a_silent_watch_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.client.registry_watch.IDLE_TIMEOUT_S", 0.2)
    registry = Registry()
    registry.watched_from = [0, 0, 0]  # the next stream says three things and falls silent
    async with serving(registry) as client, aclosing(client.registry.watch()) as messages:
        seen = [(await anext(messages)).revision for _ in range(6)]
    assert seen == [1, 2, 3, 4, 5, 6]


async def test_watch_outlives_a_server_that_is_started_again() -> None:
    port = free_port()

    async def server() -> grpc.aio.Server:
        started = grpc.aio.server()
        registry_pb2_grpc.add_RegistryServiceServicer_to_server(registry, started)
        started.add_insecure_port(f"127.0.0.1:{port}")
        await started.start()
        return started

    registry = Registry()
    registry.watched_from = [0, 0, 0]
    first = await server()
    async with Client(registry=f"127.0.0.1:{port}") as client, aclosing(client.registry.watch()) as messages:
        assert [(await anext(messages)).revision for _ in range(3)] == [1, 2, 3]
        await first.stop(None)
        following = asyncio.ensure_future(anext(messages))
        second = await server()
        assert (await following).revision == 4
    await second.stop(None)


async def test_a_watch_that_is_refused_says_so() -> None:
    async with serving(Registry()) as client:
        with pytest.raises(NotFoundError):
            await anext(client.registry.watch(model="refused"))
        with pytest.raises(NotFoundError):
            await anext(client.trainer.watch_job("unknown"))


async def test_a_cancelled_watch_stops() -> None:
    registry = Registry()
    registry.watched_from = [0, 0, 0]
    async with serving(registry) as client:

        async def follow() -> None:
            async for _ in client.registry.watch():
                pass

        task = asyncio.create_task(follow())
        await until(lambda: len(registry.watched_from) == 4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_watch_job_goes_on_until_the_job_has_ended() -> None:
    trainer = Trainer()
    async with serving(Registry(), trainer) as client:
        states = [job.state async for job in client.trainer.watch_job("j")]
    assert states == [trainer_pb2.JOB_STATE_RUNNING, trainer_pb2.JOB_STATE_RUNNING, trainer_pb2.JOB_STATE_SUCCEEDED]
    assert trainer.streams == 2


async def test_watch_job_gives_up_when_the_trainer_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.client.trainer.PATIENCE_S", 0.3)
    async with Client(trainer=f"127.0.0.1:{free_port()}") as client:
        with pytest.raises(UnavailableError):
            await anext(client.trainer.watch_job("j"))


def test_pauses_grow_and_are_bounded() -> None:
    assert all(0.05 <= pause_s(1) <= 0.1 for _ in range(100))
    assert all(LONGEST_PAUSE_S / 2 <= pause_s(1000) <= LONGEST_PAUSE_S for _ in range(100))


def test_the_puzzle_request_names_what_was_asked() -> None:
    from tessera.client.calls import selector

    assert selector("m", 3, None).version == 3
    assert selector("m", None, "candidate").alias == "candidate"
    assert selector("m", None, None).WhichOneof("selector") is None
    assert puzzle_pb2.ClassifyCellRequest(model=selector("m", None, None)).model.model == "m"


def test_wishes_travel_as_metadata_and_no_wish_as_nothing() -> None:
    from tessera.client.wishes import metadata

    assert metadata() is None
    assert metadata(priority="low") == (("tessera-priority", "low"),)
    assert dict(metadata("torchserve", "high", "user 7") or ()) == {
        "tessera-runtime": "torchserve",
        "tessera-priority": "high",
        "tessera-sticky-key": "user 7",
    }
