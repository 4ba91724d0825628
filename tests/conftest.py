"""Fixtures shared by all tests; each module under tests/fixtures starts real servers of one kind."""

pytest_plugins = [
    "tests.fixtures.redis",
    "tests.fixtures.postgres",
    "tests.fixtures.s3",
    "tests.fixtures.registry",
    "tests.fixtures.trainer",
    "tests.fixtures.inference",
    "tests.fixtures.family",
]
