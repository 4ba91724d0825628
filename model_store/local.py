"""A blob store in a local directory: `blobs/sha256/ab/abcd...` for what is complete, `uploads/` for what is being written."""

import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from model_store.store import BlobInfo, BlobRef
from tessera.blob_files import VerifiedFile, Verifier, check_room, disk_errors, read_chunks, sync_folder
from tessera.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, UnavailableError
from tessera.names import check_sha256, is_sha256


class LocalStore:
    """Implements `BlobStore` on a directory.

    A blob is written to a temporary file, flushed to the disk and renamed: readers never see a part of it, whatever dies when.

    Args:
        root: The directory; made if missing.

    Raises:
        UnavailableError: It cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._blobs = self._root / "blobs" / "sha256"
        self._uploads = self._root / "uploads"
        self._make_folders()

    def check(self) -> None:
        """See `BlobStore.check`."""
        self._make_folders()
        for folder in (self._blobs, self._uploads):
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise UnavailableError(f"the blob directory {str(folder)!r} is not writable")
        check_room(self._root)

    def write(self, ref: BlobRef, chunks: Iterable[bytes]) -> None:
        """See `BlobStore.write`."""
        path = self._path(ref.sha256)
        with VerifiedFile(ref, path, folder=self._uploads, error=InvalidArgumentError) as file:
            for chunk in chunks:
                file.write(chunk)
            self._make_parent(path)
            file.commit()

    def read(self, sha256: str) -> Iterator[bytes]:
        """See `BlobStore.read`."""
        verifier = Verifier(sha256)
        with disk_errors():
            try:
                for chunk in read_chunks(self._path(sha256)):
                    verifier.update(chunk)
                    yield chunk
            except FileNotFoundError:
                raise NotFoundError(f"blob {sha256} is not stored", field="sha256") from None
        verifier.finish()

    def stat(self, sha256: str) -> BlobInfo | None:
        """See `BlobStore.stat`."""
        return _info(self._path(sha256))

    def delete(self, sha256: str) -> None:
        """See `BlobStore.delete`."""
        with disk_errors():
            self._path(sha256).unlink(missing_ok=True)

    def list(self) -> Iterator[BlobInfo]:
        """See `BlobStore.list`."""
        with disk_errors():
            for folder in self._blobs.iterdir():
                for path in folder.iterdir():
                    if is_sha256(path.name) and (info := _info(path)):
                        yield info

    def presign_upload(self, upload_id: str, expires: timedelta) -> str | None:
        """See `BlobStore.presign_upload`; a directory has no URLs."""
        return None

    def complete_upload(self, upload_id: str, ref: BlobRef) -> None:
        """See `BlobStore.complete_upload`; always refused."""
        raise FailedPreconditionError("this registry keeps blobs in a directory and gives no upload URLs; stream them with UploadBlob")

    def presign_download(self, sha256: str, expires: timedelta) -> str | None:
        """See `BlobStore.presign_download`; a directory has no URLs."""
        return None

    def delete_uploads(self, older_than: datetime, *, dry_run: bool) -> int:
        """See `BlobStore.delete_uploads`."""
        with disk_errors():
            found = [(path, _info(path)) for path in self._uploads.iterdir()]
            stale = [path for path, info in found if info and info.modify_time < older_than]
            if not dry_run:
                for path in stale:
                    path.unlink(missing_ok=True)
        return len(stale)

    def _path(self, sha256: str) -> Path:
        return self._blobs / check_sha256(sha256, "sha256")[:2] / sha256

    def _make_folders(self) -> None:
        with disk_errors():
            self._blobs.mkdir(parents=True, exist_ok=True)
            self._uploads.mkdir(exist_ok=True)

    def _make_parent(self, path: Path) -> None:
        with disk_errors():
            if not path.parent.is_dir():
                path.parent.mkdir(exist_ok=True)
                sync_folder(self._blobs)


def _info(path: Path) -> BlobInfo | None:
    """Look at a file that somebody else may be renaming or removing."""
    with disk_errors():
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
    return BlobInfo(path.name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))
