"""Full volumes: whoever needs the room says so, what needs none goes on, and all is well again once there is some.

A worker's is filled in `test_faults_start`.
"""

from pathlib import Path

import pytest

from tessera.client.inference import InferenceClient
from tessera.client.registry import RegistryClient
from tessera.errors import ResourceExhaustedError
from tessera.rpc.channel import open_channel
from tests.fixtures.faults import Service, closing
from tests.fixtures.inference import TinyModel, piece, publish_version, tensor
from tests.fixtures.registry import RegistryServer
from tests.fixtures.volume import Volume

FULL = "no space left"
MODEL = "puzzle"


async def test_a_registry_whose_volume_is_full_refuses_blobs_and_answers_with_those_that_it_has(tmp_path: Path) -> None:
    service = Service(
        "services.registry", tmp_path, database_url=f"sqlite:///{tmp_path / 'registry.db'}", blob_store=f"file://{tmp_path / 'volume'}"
    )
    volume = Volume(service, tmp_path / "volume", size_mib=4)
    async with closing(service), open_channel(service.address) as channel:
        client = RegistryClient(channel)
        service.start()
        await service.until(True)
        kept = await client.upload_bytes(b"kept")
        volume.fill()
        await service.until(False, FULL)
        with pytest.raises(ResourceExhaustedError, match=FULL):
            await client.upload_bytes(bytes(1 << 20))
        assert [line["size_bytes"] for line in service.lines() if line["event"] == "no room for a blob"] == [1 << 20]
        await client.download_file(kept, tmp_path / "downloaded")
        assert (tmp_path / "downloaded").read_bytes() == b"kept"
        volume.free()
        await service.until(True)
        await client.upload_bytes(bytes(1 << 20))


async def test_an_inference_server_whose_cache_is_full_loads_its_version_when_there_is_room(
    registry_server: RegistryServer, tmp_path: Path
) -> None:
    service = Service("services.inference", tmp_path, registry_address=registry_server.address, cache_dir=tmp_path / "volume")
    volume = Volume(service, tmp_path / "volume", size_mib=4)
    async with closing(service), open_channel(service.address) as channel:
        service.start()
        await service.until(True)
        volume.fill()
        await publish_version(RegistryClient(registry_server.channel), MODEL, TinyModel(marker=1), alias="champion")
        await service.until(False, "find no room in the cache directory")
        volume.free()
        await service.until(True)
        answer = await InferenceClient(channel).classify_cell(tensor(piece()), MODEL)
        assert answer.answered_by.version == 1
