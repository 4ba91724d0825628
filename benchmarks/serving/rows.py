"""The rows of the benchmark: what is measured, and under which loads."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving import servers
from benchmarks.serving.jobs import Load, Target
from benchmarks.serving.publishing import MODEL

RAW = "raw onnxruntime in process"
ECHO = "echo grpc.aio"
DIRECT = "torchserve direct"

CLOSED = tuple(Load("closed", clients) for clients in (1, 8, 32))
BATCHES = tuple(Load("batch", clients, items=32) for clients in (1, 4))
OVERLOAD_ITEMS = 8
"""Pieces in a request of the overload: with one, the load generator on the same machine would be what is overloaded."""
OVERLOAD_TIMEOUT_S = 0.25
CAPACITY = Load("capacity", 32, items=OVERLOAD_ITEMS)


@dataclass(frozen=True)
class Row:
    """One thing to measure.

    Args:
        name: As in the tables.
        target: Where to send requests; None to compute in this process.
        batches: Whether a request may carry many pieces.
        overload: Whether to measure it at twice its capacity too.
    """

    name: str
    target: Target | None
    batches: bool = True
    overload: bool = False

    def loads(self, rates: list[float]) -> list[Load]:
        """Return the loads of every round; the open loops have these rates."""
        opened = [Load("open", 64, rate=rate) for rate in rates if self.target]
        return [*CLOSED, *opened, *(BATCHES if self.batches else ())]


def overload(capacity: float) -> Load:
    """Return the load of twice this many requests a second."""
    return Load("overload", 64, rate=2 * capacity, items=OVERLOAD_ITEMS, timeout_s=OVERLOAD_TIMEOUT_S)


@contextmanager
def running(directory: Path, wanted: str) -> Iterator[list[Row]]:
    """Start what is needed and yield the rows whose names hold `wanted`."""
    with ExitStack() as stack:
        rows = [Row(RAW, None)]
        address, pid = stack.enter_context(servers.echo())
        rows.append(Row(ECHO, Target("echo", address, pid)))
        if wanted in f"{DIRECT}, torch handler":
            address, pid = stack.enter_context(servers.torchserve_alone(directory / "torchserve"))
            rows.append(Row(DIRECT, Target("torchserve", address, pid, "onnx"), overload=True))
            rows.append(Row(f"{DIRECT}, torch handler", Target("torchserve", address, pid, "torch")))
        address, pid = stack.enter_context(servers.service(directory))
        for runtime in ("onnxruntime", "torchserve"):
            metadata = (("tessera-runtime", runtime),)
            rows.append(Row(f"ours {runtime} OIP raw", Target("oip", address, pid, MODEL, metadata), overload=True))
            rows.append(Row(f"ours {runtime} PNG", Target("png", address, pid, MODEL, metadata), batches=False))
        yield [row for row in rows if wanted in row.name]
