"""Ask a server for every piece, and measure it as a caller sees it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tessera.errors import TesseraError

if TYPE_CHECKING:
    from tessera.api.inference.v1.puzzle_pb2 import ClassifyCellResponse
    from tessera.client import Client

CONCURRENCY = 16
WARM_UP = 20
ALONE = 300
"""Pieces asked one at a time, to measure latency without a queue."""
EQUAL = 0.001
"""Two probabilities that differ by no more are the same answer: the runtimes add up in another order."""
PHASES = ("decode", "queue", "compute", "encode")


@dataclass(frozen=True)
class Answer:
    """One answered request.

    Args:
        index: Of the piece, and so of its right cell.
        cells: Candidates, best first, with their probabilities.
        total_s: Seconds that the caller waited.
        phases_s: Seconds in each phase, as the server says.
    """

    index: int
    cells: dict[int, float]
    total_s: float
    phases_s: dict[str, float]

    @property
    def rank(self) -> int | None:
        """Where the right cell stands among the candidates, 0 for first; None if not among the five."""
        return list(self.cells).index(self.index) if self.index in self.cells else None


@dataclass(frozen=True)
class Round:
    """Many requests.

    Args:
        answers: Those that were answered.
        errors: Those that were not, by message.
        seconds: From the first request to the last answer.
    """

    answers: list[Answer]
    errors: list[str]
    seconds: float

    @property
    def requests_per_s(self) -> float:
        """Answers a second."""
        return len(self.answers) / self.seconds

    def by_piece(self) -> dict[int, Answer]:
        """Return the answers by the index of their piece."""
        return {answer.index: answer for answer in self.answers}

    def percentile_ms(self, percent: float, phase: str | None = None) -> float:
        """Return a percentile of the whole time or of one phase, milliseconds; NaN without answers."""
        values = [answer.total_s if phase is None else answer.phases_s[phase] for answer in self.answers]
        return float(np.percentile(values, percent)) * 1000 if values else float("nan")


@dataclass(frozen=True)
class Answers:
    """What came of asking.

    Args:
        loaded: Every piece once, `CONCURRENCY` at a time.
        alone: Some pieces, one at a time.
        runtimes: Every piece once in each runtime, by its name, `CONCURRENCY` at a time.
    """

    loaded: Round
    alone: Round
    runtimes: dict[str, Round]

    def top(self, k: int) -> float:
        """Return the share of all pieces whose right cell is among the first k candidates, 0 to 1; an error counts as wrong."""
        right = sum(answer.rank is not None and answer.rank < k for answer in self.loaded.answers)
        return right / (len(self.loaded.answers) + len(self.loaded.errors))

    def agreement(self) -> "Agreement":
        """Compare what the runtimes said."""
        first, *others = (round_.by_piece() for round_ in self.runtimes.values())
        differences = [
            abs(answer.cells[best] - other[index].cells.get(best, 0.0))
            for other in others
            for index, answer in first.items()
            if index in other
            for best in list(answer.cells)[:1]
        ]
        return Agreement(sum(value <= EQUAL for value in differences), max(differences, default=0.0))


@dataclass(frozen=True)
class Agreement:
    """How far the runtimes agree.

    Args:
        equal: Pieces whose best cell has the same probability in all, within `EQUAL`.
        largest_difference: Of the probabilities of a best cell.
    """

    equal: int
    largest_difference: float


async def measure(client: "Client", model: str, pieces: Sequence[bytes], runtimes: Sequence[str]) -> Answers:
    """Ask for every piece, and for some again one at a time.

    Args:
        client: Of the server.
        model: Whose champion shall answer.
        pieces: Image files in the order of their index.
        runtimes: In each of which every piece is asked for once more.
    """
    await _ask_all(client, model, pieces[:WARM_UP], concurrency=1)
    alone = await _ask_all(client, model, pieces[:ALONE], concurrency=1)
    loaded = await _ask_all(client, model, pieces, concurrency=CONCURRENCY)
    by_runtime = {name: await _ask_all(client, model, pieces, concurrency=CONCURRENCY, runtime=name) for name in runtimes}
    return Answers(loaded, alone, by_runtime)


async def _ask_all(client: "Client", model: str, pieces: Sequence[bytes], *, concurrency: int, runtime: str = "") -> Round:
    waiting = iter(enumerate(pieces))
    answers: list[Answer] = []
    errors: list[str] = []

    async def caller() -> None:
        for index, piece in waiting:
            begun = time.perf_counter()
            try:
                response = await client.inference.classify_cell(piece, model, top_k=min(5, len(pieces)), runtime=runtime)
            except TesseraError as error:
                errors.append(error.message)
            else:
                answers.append(_answer(index, response, time.perf_counter() - begun))

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    return Round(answers, errors, time.perf_counter() - begun)


def _answer(index: int, response: "ClassifyCellResponse", total_s: float) -> Answer:
    cells = {candidate.index: candidate.probability for candidate in response.candidates}
    phases = {phase: getattr(response.answered_by, phase).ToNanoseconds() / 1e9 for phase in PHASES}
    return Answer(index, cells, total_s, phases)
