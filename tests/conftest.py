"""Fixtures shared by all tests; each module under tests/fixtures starts real servers of one kind."""

import sys
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

# A deadline for one example, or for the making of some, would fail on a busy machine. Every run tries the same examples, so that none fails
# for what it has nothing to do with; `pytest --hypothesis-profile search` looks for others.
settings.register_profile("tessera", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", settings.get_profile("tessera"), derandomize=False)
settings.load_profile("tessera")

pytest_plugins = [
    "tests.fixtures.redis",
    "tests.fixtures.postgres",
    "tests.fixtures.s3",
    "tests.fixtures.registry",
    "tests.fixtures.trainer",
    "tests.fixtures.inference",
    "tests.fixtures.torchserve",
    "tests.fixtures.torchserve_process",
    "tests.fixtures.queued",
    "tests.fixtures.ptychography",
    "tests.fixtures.family",
    "tests.fixtures.collector",
]


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Undo what a test, or a program that it called in this process, told structlog."""
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Give every test the same numbers from Torch's own generator, whichever tests ran before it."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
