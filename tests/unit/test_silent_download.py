"""A registry that begins to send a blob and then falls silent holds a download up for a while, not for ever."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tessera import blobs
from tessera.api.registry.v1.registry_pb2 import DownloadBlobRequest, DownloadBlobResponse, GetDownloadRequest, GetDownloadResponse
from tessera.blobs import BlobRef, BlobTransfers
from tessera.errors import UnavailableError

DATA = b"some bytes of a blob"


class SilentRegistry:
    """Sends half of a blob and then nothing; or all of it, piece by piece."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self.ended = False

    async def GetDownload(self, request: GetDownloadRequest, timeout: float) -> GetDownloadResponse:
        return GetDownloadResponse()

    async def DownloadBlob(self, request: DownloadBlobRequest) -> AsyncIterator[DownloadBlobResponse]:
        try:
            yield DownloadBlobResponse(chunk=DATA[:10])
            if self._silent:
                await asyncio.Event().wait()
            yield DownloadBlobResponse(chunk=DATA[10:])
        finally:
            self.ended = True


async def test_a_download_that_falls_silent_is_given_up_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "_STALL_S", 0.1)
    registry: Any = SilentRegistry(silent=True)
    with pytest.raises(UnavailableError, match=r"sent nothing for 0\.1 seconds, after 10 of 20 bytes"):
        await BlobTransfers(registry).download_file(BlobRef.of_bytes(DATA), tmp_path / "file")
    assert registry.ended
    assert list(tmp_path.iterdir()) == []


async def test_a_download_that_goes_on_is_not(tmp_path: Path) -> None:
    registry: Any = SilentRegistry(silent=False)
    await BlobTransfers(registry).download_file(BlobRef.of_bytes(DATA), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == DATA
