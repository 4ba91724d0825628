"""Versions, leases and garbage collection, on SQLite and on PostgreSQL."""

import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from model_store.manifest import MAX_MANIFEST_BYTES, Manifest
from model_store.store import BlobRef
from services.registry import versions
from services.registry.blobs import verify
from services.registry.tokens import PageRequest
from tessera.api.common.v1 import common_pb2
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import DataLossError, FailedPreconditionError, InvalidArgumentError, NotFoundError, StaleFenceError, TesseraError
from tests.fixtures.artifacts import Artifact, onnx_bytes, safetensors_bytes
from tests.fixtures.registry import RegistryCore

DAY = timedelta(days=1)


def create(core: RegistryCore, seed: int = 0, **options: object) -> pb.Version:
    return core.registry.versions.create("cells", Artifact(seed=seed).store(core.store), tags={}, **options)


def selector(**which: object) -> common_pb2.ModelSelector:
    return common_pb2.ModelSelector(model="cells", **which)


@pytest.fixture(autouse=True)
def _model(core: RegistryCore) -> None:
    core.registry.models.create("cells", "", {})


def test_versions_are_numbered_and_found_by_number_and_by_alias(core: RegistryCore) -> None:
    made = [create(core, seed) for seed in range(3)]
    assert [version.version for version in made] == [1, 2, 3]
    assert core.registry.versions.get(selector(version=2)) == made[1]
    core.registry.aliases.set("cells", "champion", 3, expected=0, actor="", reason="")
    for which in (selector(), selector(alias="champion")):
        assert core.registry.versions.get(which).version == 3
    assert list(core.registry.versions.get(selector(version=3)).aliases) == ["champion"]
    for missing, text in [(selector(alias="candidate"), "known: champion"), (selector(version=9), "version 9")]:
        with pytest.raises(NotFoundError, match=text):
            core.registry.versions.get(missing)


def test_the_stored_manifest_has_number_and_time_and_the_digest_is_its_own(core: RegistryCore) -> None:
    made = create(core)
    manifest = Manifest.parse(made.manifest_json)
    assert (manifest.version, manifest.digest(), manifest.canonical_json()) == (1, made.digest, made.manifest_json)
    assert manifest.create_time == made.create_time.ToDatetime(tzinfo=manifest.create_time.tzinfo)


def test_the_same_key_answers_the_same_version(core: RegistryCore) -> None:
    first = create(core, key="job/1")
    assert create(core, seed=5, key="job/1") == first
    assert create(core, seed=5, key="job/2").version == 2


def test_many_creators_at_once_get_one_number_each_and_one_key_makes_one_version(core: RegistryCore) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda index: create(core, index, key=f"job/{index // 2}").version, range(16)))
    assert sorted(made) == sorted([*range(1, 9)] * 2)


def test_an_attempt_that_is_over_makes_no_version(core: RegistryCore) -> None:
    fence = common_pb2.Fence(key="job/1", token=2)
    create(core, fence=fence)
    with pytest.raises(StaleFenceError):
        create(core, seed=1, fence=common_pb2.Fence(key="job/1", token=1))
    create(core, seed=1, fence=fence)


def changed(files: dict[str, bytes] | None = None, **fields: object) -> tuple[Artifact, dict[str, bytes]]:
    artifact = Artifact(changes=fields)
    return artifact, artifact.files() | (files or {})


@pytest.mark.parametrize(
    ("artifact", "text"),
    [
        (changed({"weights.safetensors": pickle.dumps({"weights": [1.0] * 10})}), "weights.safetensors.*pickle"),
        (changed({"weights.safetensors": b"PK\x03\x04" + b"archive/data.pkl" * 3}), "weights.safetensors.*pickle"),
        (changed({"model.onnx": safetensors_bytes()}), "model.onnx.*not ONNX"),
        (changed({"model.onnx": b""}), "model.onnx"),
        (changed(model="dots"), "manifest.model"),
        (changed(version="first"), "manifest.version"),
        (changed(surprise=1), "manifest.surprise"),
        (changed(metrics={"two words": 1.0}), "manifest.metrics"),
        (changed(lineage={"experiment_id": "nul\0"}), "experiment_id"),
    ],
)
def test_a_wrong_manifest_or_file_makes_no_version(core: RegistryCore, artifact: tuple[Artifact, dict[str, bytes]], text: str) -> None:
    manifest = artifact[0].store(core.store, artifact[1])
    with pytest.raises(InvalidArgumentError, match=text):
        core.registry.versions.create("cells", manifest, tags={})
    assert core.registry.models.get("cells").latest_version == 0


def test_a_manifest_that_is_none_or_too_large_is_refused(core: RegistryCore) -> None:
    for data in (b"", b"{", b"\x80\x04.", b"[]", b" " * ((1 << 20) + 1)):
        with pytest.raises(InvalidArgumentError, match="manifest"):
            core.registry.versions.create("cells", data, tags={})


def test_every_blob_must_be_there_whole_and_undamaged(core: RegistryCore) -> None:
    files = Artifact().files()
    with pytest.raises(FailedPreconditionError, match=r"model\.onnx.*not stored"):
        core.registry.versions.create("cells", Artifact().manifest(), tags={})
    manifest = json.loads(Artifact().store(core.store))
    manifest["files"][1]["size_bytes"] += 1
    with pytest.raises(FailedPreconditionError, match=r"weights\.safetensors.* bytes, the manifest says"):
        core.registry.versions.create("cells", json.dumps(manifest).encode(), tags={})
    flip(core, files["weights.safetensors"])
    with pytest.raises(DataLossError, match=r"weights\.safetensors"):
        core.registry.versions.create("cells", Artifact().manifest(), tags={})
    assert core.registry.models.get("cells").latest_version == 0


def flip(core: RegistryCore, data: bytes) -> None:
    """Flip a bit of a stored blob, as a failing disk would."""
    sha256 = BlobRef.of_bytes(data).sha256
    path = core.store._path(sha256)
    path.chmod(0o644)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_a_verification_names_every_damaged_or_missing_file(core: RegistryCore) -> None:
    made = create(core)
    assert core.registry.versions.verify("cells", 1) == pb.VerifyVersionResponse(intact=True, bytes_read=made.size_bytes)
    flip(core, Artifact().files()["weights.safetensors"])
    core.store.delete(BlobRef.of_bytes(onnx_bytes()).sha256)
    found = core.registry.versions.verify("cells", 1)
    assert not found.intact
    assert [problem.partition(":")[0] for problem in found.problems] == ["model.onnx", "weights.safetensors"]


def test_a_version_changes_in_its_tags_only(core: RegistryCore) -> None:
    before = create(core)
    after = core.registry.versions.update("cells", 1, {"site": "lab"}, ["none"])
    assert (dict(after.tags), after.digest, after.revision) == ({"site": "lab"}, before.digest, before.revision + 1)
    assert core.registry.versions.get(selector(version=1)).manifest_json == before.manifest_json


def test_a_version_that_an_alias_or_a_live_lease_holds_is_not_deleted(core: RegistryCore) -> None:
    create(core)
    core.registry.aliases.set("cells", "champion", 1, expected=0, actor="", reason="")
    lease = core.registry.leases.acquire_version("inference/host-7", timedelta(minutes=1), "cells", 1)
    with pytest.raises(FailedPreconditionError, match=r"alias 'champion', a lease of 'inference/host-7'"):
        core.registry.versions.delete("cells", 1)
    core.registry.aliases.delete("cells", "champion", expected=1, actor="", reason="")
    with pytest.raises(FailedPreconditionError, match="lease"):
        core.registry.versions.delete("cells", 1)
    core.clock.advance(timedelta(seconds=50))
    assert core.registry.leases.acquire_version("inference/host-7", timedelta(minutes=1), "cells", 1).lease_id == lease.lease_id
    core.clock.advance(timedelta(seconds=50))
    with pytest.raises(FailedPreconditionError, match="lease"):
        core.registry.versions.delete("cells", 1)
    core.registry.leases.release(lease.lease_id)
    core.registry.leases.release(lease.lease_id)
    core.registry.versions.delete("cells", 1)
    with pytest.raises(FailedPreconditionError, match="retired"):
        core.registry.versions.delete("cells", 1)
    assert core.registry.versions.get(selector(version=1)).state == pb.VERSION_STATE_DELETED


def test_a_lease_that_has_ended_holds_nothing(core: RegistryCore) -> None:
    create(core)
    core.registry.leases.acquire_version("host", timedelta(minutes=1), "cells", 1)
    core.clock.advance(timedelta(minutes=1))
    core.registry.versions.delete("cells", 1)


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(milliseconds=999), timedelta(hours=24, seconds=1)])
def test_a_lease_lasts_1_second_to_24_hours(core: RegistryCore, ttl: timedelta) -> None:
    create(core)
    with pytest.raises(InvalidArgumentError, match="ttl"):
        core.registry.leases.acquire_version("host", ttl, "cells", 1)


def test_a_lease_needs_a_holder_and_something_to_hold(core: RegistryCore) -> None:
    for holder in ("", "x" * 257):
        with pytest.raises(InvalidArgumentError, match="holder"):
            core.registry.leases.acquire_blob(holder, DAY, BlobRef.of_bytes(stored(core)).sha256)
    with pytest.raises(NotFoundError):
        core.registry.leases.acquire_blob("host", DAY, "0" * 64)
    with pytest.raises(NotFoundError):
        core.registry.leases.acquire_version("host", DAY, "cells", 1)


def stored(core: RegistryCore, data: bytes = b"orphan") -> bytes:
    core.store.write(BlobRef.of_bytes(data), [data])
    return data


def test_garbage_is_what_nothing_needs_and_nobody_has_touched(core: RegistryCore) -> None:
    create(core)
    orphan, leased, asked = (BlobRef.of_bytes(stored(core, data)) for data in (b"orphan", b"leased", b"asked for"))
    assert core.registry.garbage.collect(DAY).blobs_removed == 0
    core.clock.advance(DAY + timedelta(minutes=1))
    core.registry.leases.acquire_blob("host", DAY, leased.sha256)
    assert core.registry.blobs.begin_upload(asked).exists
    expected = pb.CollectGarbageResponse(blobs_removed=1, bytes_freed=orphan.size_bytes)
    assert core.registry.garbage.collect(DAY, dry_run=True) == expected
    assert core.store.stat(orphan.sha256)
    assert core.registry.garbage.collect(DAY) == expected
    assert core.store.stat(orphan.sha256) is None
    core.clock.advance(2 * DAY)
    assert core.registry.garbage.collect(DAY).blobs_removed == 2
    assert core.registry.versions.verify("cells", 1).intact


def test_blobs_of_deleted_versions_are_garbage_unless_another_version_shares_them(core: RegistryCore) -> None:
    create(core, seed=0)
    create(core, seed=1)
    core.registry.versions.delete("cells", 1)
    core.clock.advance(2 * DAY)
    assert core.registry.garbage.collect(DAY).blobs_removed == 1
    assert core.registry.versions.verify("cells", 2).intact
    with pytest.raises(InvalidArgumentError, match="grace"):
        core.registry.garbage.collect(timedelta(seconds=59))


def test_a_collection_between_verification_and_commit_is_noticed(core: RegistryCore, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Artifact().store(core.store)

    def verify_and_collect(*arguments: object) -> None:
        verify(*arguments)
        core.registry.garbage.collect(DAY)

    monkeypatch.setattr(versions, "verify", verify_and_collect)
    core.clock.advance(2 * DAY)
    assert core.registry.versions.create("cells", manifest, tags={}).version == 1, "blobs in use are young"

    def verify_for_days_and_collect(*arguments: object) -> None:
        verify(*arguments)
        core.clock.advance(2 * DAY)
        core.registry.garbage.collect(DAY)

    monkeypatch.setattr(versions, "verify", verify_for_days_and_collect)
    with pytest.raises(FailedPreconditionError, match="upload it first"):
        core.registry.versions.create("cells", Artifact(seed=5).store(core.store), tags={})
    assert core.registry.models.get("cells").latest_version == 1


def test_no_version_ever_refers_to_a_blob_that_a_concurrent_collection_removed(core: RegistryCore) -> None:
    """All blobs are old and unused until the very moment in which versions are made of them, while collections run without pause."""
    seeds = range(30)
    manifests = [Artifact(seed=seed).store(core.store) for seed in seeds]
    core.clock.advance(2 * DAY)
    done = threading.Event()

    def collect() -> int:
        removed = 0
        while not done.is_set():
            removed += core.registry.garbage.collect(timedelta(minutes=1)).blobs_removed
        return removed

    def make(manifest: bytes) -> TesseraError | int:
        try:
            return core.registry.versions.create("cells", manifest, tags={}).version
        except FailedPreconditionError as error:
            return error

    with ThreadPoolExecutor(4) as threads:
        collecting = threads.submit(collect)
        try:
            made = list(threads.map(make, manifests))
        finally:
            done.set()
        collecting.result()
    for outcome in made:
        if isinstance(outcome, int):
            assert core.registry.versions.verify("cells", outcome).intact
        else:
            assert "upload it first" in outcome.message
    assert len(core.registry.versions.page("cells", PageRequest()).versions) == sum(isinstance(outcome, int) for outcome in made)


@pytest.mark.parametrize("missing", [0, 4000])
def test_a_manifest_that_was_taken_can_be_read_again_however_large_it_is(core: RegistryCore, missing: int) -> None:
    artifact = Artifact(changes={"mappings": {"text": ""}})
    artifact.changes = {"mappings": {"text": "x" * (MAX_MANIFEST_BYTES - missing - len(artifact.manifest()))}}
    sent = artifact.store(core.store)
    assert len(sent) == MAX_MANIFEST_BYTES - missing
    if missing < 4000:  # the number, the time and the fields that were left out have no room
        with pytest.raises(InvalidArgumentError, match="once every field is written out"):
            core.registry.versions.create("cells", sent, tags={})
    else:
        Manifest.parse(core.registry.versions.create("cells", sent, tags={}).manifest_json)
