"""Samples of requests: which calls are sampled, what is kept, and that callers never notice."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client import REGISTRY
from safetensors import safe_open

from services.inference.batches import Answer
from services.inference.calls import Ended
from services.inference.options import CallOptions
from services.inference.sampling import QUEUED_SAMPLES, Sampler
from services.inference.settings import SamplingSettings
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.blobs import BlobRef
from tessera.errors import UnavailableError
from tessera.samples import Sample, SampleName, prefix
from tessera.strings import unpack
from tests.fixtures.waiting import until
from tests.unit.cli_fakes import Fakes, tessera

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Store:
    """A registry that keeps blobs and leases in memory, once it is told to."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.error: Exception | None = None
        self.blobs: dict[str, bytes] = {}
        self.leases: dict[str, tuple[float, str]] = {}

    async def upload_bytes(self, data: bytes) -> BlobRef:
        await self.open.wait()
        if self.error:
            raise self.error
        ref = BlobRef.of_bytes(data)
        self.blobs[ref.sha256] = data
        return ref

    async def acquire_lease(self, holder: str, ttl_s: float, *, blob_sha256: str) -> None:
        assert blob_sha256 in self.blobs
        self.leases[holder] = (ttl_s, blob_sha256)


def call(model: str = "puzzle", *, rows: int = 2, answered: bool = True) -> Ended:
    served = cast("Any", SimpleNamespace(model=model, version=7, digest="d" * 64))
    answer = Answer({"logits": np.arange(rows * 3.0).reshape(rows, 3)[:, ::-1]}, 4, 0.25, 0.5, "onnxruntime")
    inputs = {"image": np.ones((rows, 2), np.float32)}
    code = "OK" if answered else "INTERNAL"
    return Ended(served, CallOptions(), inputs, answer if answered else None, code, 0.75, TRACE)


def counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("inference_samples_total", {"outcome": outcome}) or 0


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def sampler(store: Store) -> AsyncIterator[Sampler]:
    async with started(store, ratio=1.0) as made:
        yield made


class started:  # noqa: N801 - used like a function
    """A sampler that runs within the block."""

    def __init__(self, store: Store, **settings: Any) -> None:
        self.sampler = Sampler(cast("Any", store), SamplingSettings(**settings))

    async def __aenter__(self) -> Sampler:
        await self.sampler.start()
        return self.sampler

    async def __aexit__(self, *_: object) -> None:
        await self.sampler.stop()


async def test_a_sample_holds_inputs_outputs_and_what_is_known_but_not_who_called(sampler: Sampler, store: Store, tmp_path: Path) -> None:
    sampler(call())
    await until(lambda: store.leases)
    ((holder, (ttl_s, sha256)),) = store.leases.items()
    name = SampleName.parse(holder)
    assert name and (name.model, name.version, name.trace_id) == ("puzzle", 7, TRACE)
    assert holder.startswith(prefix("puzzle", 7))
    assert ttl_s == 7 * 86400
    file = tmp_path / "sample.safetensors"
    file.write_bytes(store.blobs[sha256])
    with safe_open(file, "numpy") as tensors:
        assert sorted(tensors.keys()) == ["inputs.image", "outputs.logits"]
        np.testing.assert_array_equal(tensors.get_tensor("outputs.logits"), [[2, 1, 0], [5, 4, 3]])
        facts = tensors.metadata()
    assert datetime.fromisoformat(facts.pop("time")) == name.time
    assert facts == {
        "model": "puzzle",
        "version": "7",
        "digest": "d" * 64,
        "trace_id": TRACE,
        "priority": "normal",
        "code": "OK",
        "seconds": "0.750000",
        "runtime": "onnxruntime",
        "batch_size": "4",
        "queue_seconds": "0.250000",
        "compute_seconds": "0.500000",
    }


async def test_what_the_model_failed_on_is_kept_too(sampler: Sampler, store: Store, tmp_path: Path) -> None:
    sampler(call(answered=False))
    await until(lambda: store.leases)
    file = tmp_path / "sample.safetensors"
    file.write_bytes(*store.blobs.values())
    with safe_open(file, "numpy") as tensors:
        assert list(tensors.keys()) == ["inputs.image"]
        assert tensors.metadata()["code"] == "INTERNAL"


async def test_strings_are_kept_as_the_protocol_writes_them(sampler: Sampler, store: Store, tmp_path: Path) -> None:
    words = np.array([["ab", "ü"], ["", "xyz"]], np.object_)
    sampler(replace(call(), inputs={"words": words}))
    await until(lambda: store.leases)
    file = tmp_path / "sample.safetensors"
    file.write_bytes(*store.blobs.values())
    with safe_open(file, "numpy") as tensors:
        assert tensors.metadata()["inputs.words"] == "[2, 2]"
        data = tensors.get_tensor("inputs.words").tobytes()
    assert unpack(data, 4, "words").reshape(2, 2).tolist() == words.tolist()


async def test_only_the_models_that_are_named_are_sampled(store: Store) -> None:
    async with started(store, ratio=1.0, models=["lego"]) as sampler:
        sampler(call("puzzle"))
        sampler(call("lego"))
        await until(lambda: store.leases)
        assert [SampleName.parse(holder).model for holder in store.leases] == ["lego"]  # type: ignore[union-attr]


async def test_the_ratio_decides_how_many(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    chances = iter([0.4, 0.6, 0.49, 0.5])
    monkeypatch.setattr("services.inference.sampling.random", SimpleNamespace(random=lambda: next(chances)))
    async with started(store, ratio=0.5) as sampler:
        for _ in range(4):
            sampler(call())
        await until(lambda: len(store.leases) == 2)
        assert next(chances, None) is None


async def test_a_store_that_hangs_delays_nobody_and_what_finds_no_room_is_counted(sampler: Sampler, store: Store) -> None:
    store.open.clear()
    before = counted("queue_full")
    for _ in range(QUEUED_SAMPLES + 5):
        sampler(call())
    assert counted("queue_full") == before + 5
    stopped = counted("stopped")
    await sampler.stop()
    assert counted("stopped") > stopped
    await sampler.start()


async def test_large_samples_fill_the_queue_by_their_bytes(sampler: Sampler, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.open.clear()
    monkeypatch.setattr("services.inference.sampling.QUEUED_BYTES", 100)
    before = counted("queue_full")
    sampler(call(rows=2))  # 16 bytes in, 48 out
    sampler(call(rows=2))
    assert counted("queue_full") == before + 1


async def test_an_hour_has_so_many_bytes_and_the_next_one_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 3600.0 * 1000
    monkeypatch.setattr("services.inference.sampling.time", SimpleNamespace(monotonic=lambda: now))
    before = counted("over_budget")
    async with started(store, ratio=1.0, bytes_per_hour=100) as sampler:
        sampler(call())
        sampler(call())
        assert counted("over_budget") == before + 1
        now += 3600
        sampler(call())
        await until(lambda: len(store.leases) == 2)


async def test_a_store_that_fails_costs_the_sample_and_nothing_else(sampler: Sampler, store: Store) -> None:
    before = counted("failed")
    store.error = UnavailableError("no registry")
    sampler(call())
    await until(lambda: counted("failed") == before + 1)
    store.error = RuntimeError("a bug")
    sampler(call())
    await until(lambda: counted("failed") == before + 2)
    store.error = None
    sampler(call())
    await until(lambda: len(store.leases) == 1)


def test_a_name_says_what_it_is_a_sample_of_and_others_say_nothing() -> None:
    name = SampleName("a.b-c_d", 12, datetime(2026, 1, 2, 3, 4, 5, 678900, UTC), TRACE)
    assert SampleName.parse(name.holder()) == name
    for holder in ("inference/host-7", "sample/x", "sample/../1/2026-01-02T03:04:05.678900Z/t", name.holder().replace("sample", "other")):
        assert SampleName.parse(holder) is None
    assert Sample.of(pb.Lease(holder=name.holder(), version=pb.VersionRef(model="m", version=1))) is None


def test_samples_are_listed_and_the_newest_downloaded(fakes: Fakes, tmp_path: Path) -> None:
    for version, second in ((1, 1), (1, 2), (2, 3)):
        data = f"sample {second}".encode()
        digest = hashlib.sha256(data).hexdigest()
        fakes.registry.blobs[digest] = data
        holder = SampleName("puzzle", version, datetime(2026, 1, 2, 3, 4, second, tzinfo=UTC), TRACE).holder()
        fakes.registry.leases.append(pb.Lease(holder=holder, blob_sha256=digest))
    listed = json.loads(tessera("samples", "list", "puzzle", "--version", 1, "--json").stdout)
    assert [(entry["version"], entry["time"]) for entry in listed] == [(1, "2026-01-02T03:04:01+00:00"), (1, "2026-01-02T03:04:02+00:00")]
    assert json.loads(tessera("samples", "list", "lego", "--json").stdout) == []
    written = json.loads(tessera("samples", "download", "puzzle", "--limit", 2, "--to", tmp_path / "out", "--json").stdout)["files"]
    assert [Path(file).read_bytes() for file in written] == [b"sample 2", b"sample 3"]
    assert "puzzle-2-20260102T030403" in written[1]
