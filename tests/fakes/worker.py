"""The real worker around the child of `tests.fakes.child`."""

import sys

from tessera.lifecycle import launch, run
from trainers.settings import WorkerSettings
from trainers.worker import Worker


async def work(settings: WorkerSettings) -> None:
    worker = Worker(
        settings,
        child_command=[sys.executable, "-m", "tests.fakes.child"],
        describe_command=[sys.executable, "-m", "tests.fakes.describe"],
    )
    await run(settings, components=[worker])


if __name__ == "__main__":
    launch(WorkerSettings, "worker", work)
