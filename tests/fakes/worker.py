"""The real worker around the child of `tests.fakes.child`."""

import asyncio
import sys

from tessera.lifecycle import run
from tessera.settings import load_settings
from trainers.settings import WorkerSettings
from trainers.worker import Worker


def main() -> None:
    settings = load_settings(WorkerSettings)
    worker = Worker(
        settings,
        child_command=[sys.executable, "-m", "tests.fakes.child"],
        describe_command=[sys.executable, "-m", "tests.fakes.describe"],
    )
    asyncio.run(run(settings, name="worker", components=[worker]))


if __name__ == "__main__":
    main()
