"""The one stack of all these tests: built, started, and taken down at the end; what its containers said is kept if a test failed."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from PIL import Image

from tessera.api.inference.v1.serving_pb2 import SERVED_STATE_READY
from tessera.api.trainer.v1 import trainer_pb2
from tessera.cli.train import attach
from tests.compose.load import Load
from tests.compose.stack import ROOT, Stack, until

LOGS = ROOT / ".tools" / "compose-logs"
MODEL = "meadow"
PHOTO = ROOT / "examples" / "photo.jpg"

DURATIONS = pytest.StashKey[dict[str, float]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(900, func_only=True))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for step, seconds in config.stash.get(DURATIONS, {}).items():
        terminalreporter.write_line(f"{seconds:7.1f} s  {step}")


@pytest.fixture
def stack(built: Stack) -> Stack:
    """The stack, with everything in it running, however the test before has left it."""
    built.up()
    return built


@pytest.fixture(scope="session")
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    durations = request.config.stash.setdefault(DURATIONS, {})

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        durations[step] = time.monotonic() - begun

    stack = Stack(tmp_path_factory.mktemp("compose"))
    stack.compose("down", "--volumes", "--remove-orphans")  # of a run that was killed
    with timed("docker compose build"):
        stack.compose("build", "--quiet")
    started = False
    try:
        with timed("docker compose up --wait"):
            stack.up()
        started = True
        yield stack
    finally:
        if request.session.testsfailed or not started:
            keep_logs(stack)
        with timed("docker compose down"):
            stack.compose("down", "--volumes", "--remove-orphans")


def keep_logs(stack: Stack) -> None:
    LOGS.mkdir(parents=True, exist_ok=True)
    for service in stack.compose("ps", "--all", "--services").split():
        (LOGS / f"{service}.log").write_text(stack.compose("logs", "--no-color", "--timestamps", service))
    (LOGS / "ps.txt").write_text(stack.compose("ps", "--all"))


@dataclass
class Served:
    """A model of the stack with versions 1 and 2, trained there on a photograph; its champion is version 2 or what a test made it.

    Args:
        stack: Where it is.
        piece: An image file to ask about.
        jobs: The jobs that trained it, and those that tests have added; all must succeed.
    """

    stack: Stack
    piece: bytes
    jobs: list[str] = field(default_factory=list)

    def load(self, **options: Any) -> Load:
        """Return load on it; the options are those of `Load`."""
        return Load(self.stack, MODEL, self.piece, **options)

    def submit(self, epochs: int, alias: str = "") -> str:
        """Submit a small training job of this model and return its id."""
        spec = trainer_pb2.JobSpec(family="puzzle_cells", architecture="cells_exp3", model=MODEL, alias=alias, max_attempts=10)
        spec.model_config.update({"columns": 4, "rows": 3})
        spec.hyperparameters.update({"epochs": epochs})

        async def send() -> str:
            async with self.stack.client() as client:
                await attach(client, spec, {"picture": PHOTO})
                return (await client.trainer.submit_job(spec)).job.id

        self.jobs.append(self.stack.ask(send()))
        return self.jobs[-1]

    def job(self, job_id: str) -> trainer_pb2.Job:
        """Return a job as it stands."""

        async def get() -> trainer_pb2.Job:
            async with self.stack.client() as client:
                return await client.trainer.get_job(job_id)

        return self.stack.ask(get())

    def finish(self, job_id: str) -> trainer_pb2.Job:
        """Wait for the end of a job, which must have succeeded."""

        async def watch() -> trainer_pb2.Job:
            async with self.stack.client() as client:
                return [job async for job in client.trainer.watch_job(job_id)][-1]

        job = self.stack.ask(watch())
        assert job.state == trainer_pb2.JOB_STATE_SUCCEEDED, job.error
        return job

    def is_champion(self, version: int) -> bool:
        """Tell whether the server answers with this version where the champion is asked for."""

        async def look() -> bool:
            async with self.stack.client() as client:
                found = (await client.inference.list_served(MODEL)).versions
                return any(one.version == version and one.state == SERVED_STATE_READY and "champion" in one.aliases for one in found)

        return self.stack.ask(look())


@pytest.fixture(scope="session")
def served(built: Stack) -> Served:
    with Image.open(PHOTO) as photo:
        file = io.BytesIO()
        photo.crop((0, 0, photo.width // 4, photo.height // 3)).save(file, "PNG")
    served = Served(built, file.getvalue())
    for epochs in (3, 4):
        served.finish(served.submit(epochs, alias="champion"))
    until(lambda: served.is_champion(2), "version 2 is not served")
    return served
