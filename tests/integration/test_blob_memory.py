"""A large blob through client and registry, each in its own process: neither holds it in memory."""

import subprocess
import sys
import textwrap
from pathlib import Path

from tests.fixtures.registry import RegistryProcess

SIZE_MIB = 256
CLIENT = """
    import asyncio, sys
    from pathlib import Path
    from tessera.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
    from tessera.blobs import BlobTransfers
    from tessera.rpc.channel import open_channel

    def peak_kib():
        return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))

    async def main(address, source, destination):
        async with open_channel(address) as channel:
            stub = RegistryServiceStub(channel)
            before = peak_kib()
            ref = await BlobTransfers(stub).upload_file(Path(source))
            await BlobTransfers(stub).download_file(ref, Path(destination))
            print(ref.size_bytes, peak_kib() - before)

    asyncio.run(main(*sys.argv[1:]))
"""


def peak_kib(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def test_a_large_blob_passes_through_client_and_registry_in_constant_memory(registry_process: RegistryProcess, tmp_path: Path) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    with source.open("wb") as file:
        file.truncate(SIZE_MIB << 20)
    before = peak_kib(registry_process.process.pid)
    command = [sys.executable, "-c", textwrap.dedent(CLIENT), registry_process.address, str(source), str(destination)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    size_bytes, client_kib = map(int, done.stdout.split())
    registry_kib = peak_kib(registry_process.process.pid) - before
    assert size_bytes == SIZE_MIB << 20
    assert destination.stat().st_size == SIZE_MIB << 20
    assert client_kib < 64 << 10, f"the client grew by {client_kib} KiB"
    assert registry_kib < 64 << 10, f"the registry grew by {registry_kib} KiB"
    for path in (source, destination, *registry_process.blobs.rglob("*")):
        if path.is_file():
            path.unlink()
