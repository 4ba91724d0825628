"""How long a page of the registry takes with 10,000 versions: list, filter, order by metric, watch, on SQLite and on PostgreSQL.

    python -m benchmarks.registry [--versions 10000] [--repeats 50] [--json FILE]

Times are those of a caller over gRPC of a registry process on the same machine, page after page through the whole registry.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from services.registry.storage import MIGRATIONS
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.api.registry.v1 import registry_pb2_grpc
from tessera.rpc.channel import open_channel
from tessera.sql import migrate, open_database
from tests.fixtures.many_versions import fill
from tests.fixtures.postgres import PostgresServer
from tests.fixtures.registry import RegistryProcess

PAGE = 100

LISTS = {
    "list": {},
    "list, newest first": {"order_by": "create_time desc"},
    "list one model": {"model": "model-007"},
    "filter family": {"filter": 'family = "family-3"'},
    "filter metric": {"filter": "metrics.top1 >= 0.9"},
    "filter rare tag": {"filter": 'tags.site = "site-7"'},
    "order by metric": {"order_by": "metrics.top1 desc"},
    "filter and order": {"filter": "metrics.top1 >= 0.9 AND tags.owner = owner-1", "order_by": "metrics.top1 desc"},
}


async def measure(database_url: str, folder: Path, versions: int, repeats: int) -> dict[str, dict[str, float]]:
    """Return p50, p99 and the largest time of a page for every kind of page, milliseconds."""
    engine = open_database(database_url)
    migrate(engine, MIGRATIONS)
    fill(engine, versions)
    engine.dispose()
    results: dict[str, dict[str, float]] = {}
    process = RegistryProcess(folder, database_url)
    await asyncio.to_thread(process.start)
    async with open_channel(process.address) as channel:
        stub: Any = registry_pb2_grpc.RegistryServiceStub(channel)
        for name, request in LISTS.items():
            results[name] = await _pages(stub.ListVersions, request, repeats)
        results["watch"] = await _watch(stub.Watch, repeats)
    process.stop()
    return results


async def _pages(call: Callable[[Any], Awaitable[Any]], request: dict[str, str], repeats: int) -> dict[str, float]:
    times: list[float] = []
    token = ""
    while len(times) < repeats + 1:
        begin = time.perf_counter()
        page = await call(pb.ListVersionsRequest(page_size=PAGE, page_token=token, **request))
        times.append(time.perf_counter() - begin)
        token = page.next_page_token
    return _summary(times[1:])


async def _watch(call: Callable[[Any], Any], repeats: int) -> dict[str, float]:
    """Time 100 events at a time of replays of the whole registry."""
    times: list[float] = []
    while len(times) < repeats + 1:
        begin = time.perf_counter()
        count = 0
        async for event in call(pb.WatchRequest()):
            count += 1
            if count % PAGE == 0:
                times.append(time.perf_counter() - begin)
                begin = time.perf_counter()
            if event.WhichOneof("event") is None or len(times) > repeats:
                break
    return _summary(times[1:])


def _summary(times: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"p50_ms": round(cuts[49] * 1000, 2), "p99_ms": round(cuts[98] * 1000, 2), "max_ms": round(max(times) * 1000, 2)}


def main() -> None:
    """Measure both databases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="tessera-benchmark-") as name:
        folder = Path(name)
        sqlite_url = f"sqlite:///{folder / 'registry.db'}"
        results["sqlite"] = asyncio.run(measure(sqlite_url, folder, options.versions, options.repeats))
        server = PostgresServer(folder / "postgres")
        results["postgresql"] = asyncio.run(measure(server.create_database(), folder, options.versions, options.repeats))
        server.close()
    print(f"{options.versions} versions, pages of {PAGE}, {options.repeats} pages each, milliseconds")
    print(f"{'':12}{'page':22}{'p50':>8}{'p99':>8}{'max':>8}")
    for database, pages in results.items():
        for page, summary in pages.items():
            print(f"{database:12}{page:22}{summary['p50_ms']:8.1f}{summary['p99_ms']:8.1f}{summary['max_ms']:8.1f}")
    if options.json:
        options.json.write_text(json.dumps({"versions": options.versions, "page_size": PAGE, **results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
