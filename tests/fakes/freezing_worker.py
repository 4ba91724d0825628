"""The worker of `tests.fakes.worker`, which stops (SIGSTOP) once: as soon as it has made a version, before it can tell anybody."""

import os
import runpy
import signal
from typing import Any

from tessera.api.registry.v1.registry_pb2 import Version
from tessera.client.registry import RegistryClient

create_version = RegistryClient.create_version


async def create_version_and_freeze(*arguments: Any, **options: Any) -> Version:
    version = await create_version(*arguments, **options)
    RegistryClient.create_version = create_version  # type: ignore[method-assign]
    os.kill(os.getpid(), signal.SIGSTOP)
    return version


if __name__ == "__main__":
    RegistryClient.create_version = create_version_and_freeze  # type: ignore[method-assign,assignment]
    runpy.run_module("tests.fakes.worker", run_name="__main__")
