"""Batching: answers are never mixed up."""

import asyncio
import math
from collections import Counter
from itertools import count

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.options import CallOptions, Priority
from tessera.errors import DeadlineExceededError, TesseraError
from tests.fixtures.batching import POISON, Model, batcher, request

FATES = st.sampled_from(["wait", "wait", "wait", "cancel", "poison", "expired"])
CALLS = st.lists(
    st.tuples(st.integers(1, 8), FATES, st.sampled_from(Priority), st.integers(1, 3), st.integers(0, 3)), min_size=1, max_size=60
)


@settings(max_examples=50)
@given(calls=CALLS, max_rows=st.integers(8, 20), instances=st.integers(1, 4))
def test_every_caller_gets_the_answer_to_its_own_request(
    calls: list[tuple[int, str, Priority, int, int]], max_rows: int, instances: int
) -> None:
    """Ids, priorities, shapes, cancellations, expiries and failures at random, over several instances."""

    async def scenario() -> None:
        model = Model()
        ids = count(1)

        async def one(rows: int, fate: str, priority: Priority, width: int, pause: int) -> None:
            for _ in range(pause):
                await asyncio.sleep(0)
            values = [float(next(ids)) for _ in range(rows)]
            if fate == "poison":
                values[-1] = POISON
            inputs = request(*values, width=width)
            call = asyncio.create_task(batches.submit(inputs, CallOptions(0.0 if fate == "expired" else math.inf, priority)))
            if fate == "cancel":
                await asyncio.sleep(0)
                call.cancel()
            try:
                answer = await call
            except asyncio.CancelledError:
                assert fate == "cancel"
            except DeadlineExceededError:
                assert fate == "expired"
                assert not set(values) & set(model.computed)
            except TesseraError as error:
                assert fate == "poison"
                assert "poison" not in error.message
            else:
                assert fate in {"wait", "cancel"}
                np.testing.assert_array_equal(answer.outputs["y"], inputs["x"] * 2)
                np.testing.assert_array_equal(answer.outputs["first"].ravel(), values)

        async with batcher(model, max_batch=max_rows, instances=instances) as batches:
            await asyncio.gather(*(one(*call) for call in calls))
        assert all(len(batch) <= max_rows for batch in model.batches)
        computed = Counter(value for value in model.computed if value != POISON)
        assert all(times <= 2 for times in computed.values()), "once, and again alone if a neighbour failed"

    asyncio.run(scenario())
