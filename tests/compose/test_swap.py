"""An alias moves to and fro under load: no request fails, both runtimes follow."""

from itertools import pairwise

from tests.compose.conftest import MODEL, Served
from tests.compose.load import RUNTIMES
from tests.compose.stack import Stack

SWAPS = 6


def move(stack: Stack, version: int) -> None:
    async def send() -> None:
        async with stack.client() as client:
            await client.registry.set_alias(MODEL, "champion", version, reason="compose test")

    stack.ask(send())


def test_an_alias_that_moves_under_load_loses_no_request(stack: Stack, served: Served) -> None:
    def swap(version: int) -> None:
        move(stack, version)
        seen = len(load.versions)
        wanted = {(version, runtime) for runtime in RUNTIMES}
        load.until(lambda: wanted <= set(load.versions[seen:]), f"version {version} does not answer on both runtimes")

    with served.load() as load:
        swap(2)
        first = len(load.versions)
        for version in (1, 2) * (SWAPS // 2):
            swap(version)
    for runtime in RUNTIMES:
        answers = [2, *(version for version, by in load.versions[first:] if by == runtime)]
        assert set(answers) == {1, 2}
        changes = sum(before != after for before, after in pairwise(answers))
        assert changes == SWAPS, f"{runtime}: once a version has answered, the one before it answers no more"
