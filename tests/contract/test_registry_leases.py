"""Leases of blobs and the list of leases, on SQLite and on PostgreSQL."""

from datetime import timedelta

import pytest

from model_store.store import BlobRef
from services.registry.tokens import PageRequest
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.errors import InvalidArgumentError
from tests.fixtures.artifacts import Artifact
from tests.fixtures.registry import RegistryCore

HOUR = timedelta(hours=1)


def blob(core: RegistryCore, data: bytes = b"data") -> str:
    ref = BlobRef.of_bytes(data)
    core.store.write(ref, [data])
    return ref.sha256


def held(core: RegistryCore, prefix: str = "") -> list[str]:
    return [lease.holder for lease in core.registry.leases.page(prefix, PageRequest()).leases]


def test_a_blob_is_held_up_to_30_days(core: RegistryCore) -> None:
    sha256 = blob(core)
    core.registry.leases.acquire_blob("host", timedelta(days=30), sha256)
    for ttl in (timedelta(days=30, seconds=1), timedelta(milliseconds=999)):
        with pytest.raises(InvalidArgumentError, match="outside 1 s to 720 h"):
            core.registry.leases.acquire_blob("host", ttl, sha256)


def test_leases_are_listed_with_what_they_hold(core: RegistryCore) -> None:
    core.registry.models.create("cells", "", {})
    core.registry.versions.create("cells", Artifact().store(core.store), tags={})
    version = core.registry.leases.acquire_version("inference/a", HOUR, "cells", 1)
    sample = core.registry.leases.acquire_blob("sample/a", HOUR, blob(core))
    assert list(core.registry.leases.page("", PageRequest()).leases) == [
        pb.Lease(
            lease_id=version.lease_id,
            holder="inference/a",
            version=pb.VersionRef(model="cells", version=1),
            expire_time=version.expire_time,
        ),
        pb.Lease(lease_id=sample.lease_id, holder="sample/a", blob_sha256=blob(core), expire_time=sample.expire_time),
    ]


def test_a_prefix_is_taken_as_it_is_and_what_has_ended_is_left_out(core: RegistryCore) -> None:
    for holder in ("sample/a/1", "sample/a/2", "sample/b/1", "sample_a"):
        core.registry.leases.acquire_blob(holder, HOUR, blob(core))
    core.registry.leases.acquire_blob("sample/a/0", timedelta(minutes=1), blob(core))
    assert held(core, "sample/a/") == ["sample/a/0", "sample/a/1", "sample/a/2"]
    assert held(core, "sample_") == ["sample_a"]
    assert held(core, "%") == []
    core.clock.advance(timedelta(minutes=1))
    assert held(core, "sample/a/") == ["sample/a/1", "sample/a/2"]


def test_pages_follow_each_other_by_holder_even_if_one_holds_several(core: RegistryCore) -> None:
    for holder, data in (("b", b"1"), ("a", b"2"), ("a", b"3"), ("c d", b"4"), ("a", b"5")):
        core.registry.leases.acquire_blob(holder, HOUR, blob(core, data))
    seen: list[str] = []
    token = ""
    while True:
        page = core.registry.leases.page("", PageRequest(size=2, token=token))
        seen += [f"{lease.holder} {lease.blob_sha256}" for lease in page.leases]
        if not (token := page.next_page_token):
            break
    assert [entry.rpartition(" ")[0] for entry in seen] == ["a", "a", "a", "b", "c d"]
    assert len(set(seen)) == 5
    with pytest.raises(InvalidArgumentError, match="page_token"):
        core.registry.leases.page("a", PageRequest(size=2, token=core.registry.leases.page("", PageRequest(size=1)).next_page_token))
