"""Opens the blob store that a setting names."""

from pathlib import Path
from urllib.parse import urlsplit

from model_store.local import LocalStore
from model_store.store import BlobStore
from tessera.errors import InvalidArgumentError


def open_store(
    url: str,
    *,
    s3_endpoint: str = "",
    s3_access_key: str = "",
    s3_secret_key: str = "",
    s3_region: str = "us-east-1",
    s3_secure: bool = True,
    s3_public_endpoint: str = "",
    s3_public_secure: bool = True,
) -> BlobStore:
    """Return the blob store behind `url`. S3 is not dialled before `BlobStore.check` or the first use.

    Args:
        url: `file:///directory` or `s3://bucket`.
        s3_endpoint: `host:port` of any S3 server; needed for `s3://`, as are the keys.
        s3_access_key: Name of the key.
        s3_secret_key: The key itself.
        s3_region: Region with which requests are signed.
        s3_secure: TLS or not.
        s3_public_endpoint: `host:port` of the same server in presigned URLs; empty for `s3_endpoint`.
        s3_public_secure: TLS or not, at `s3_public_endpoint`.

    Raises:
        InvalidArgumentError: The URL is neither of the two, or a setting that it needs is missing.
        UnavailableError: The directory cannot be made.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidArgumentError(f"{url!r} is no URL: {error}", field="blob_store") from error
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return LocalStore(Path(parts.path))
    if parts.scheme == "s3" and parts.netloc and parts.path in ("", "/"):
        from model_store.s3 import S3Store  # only who uses S3 needs its client

        return S3Store(
            parts.netloc,
            endpoint=s3_endpoint,
            access_key=s3_access_key,
            secret_key=s3_secret_key,
            region=s3_region,
            secure=s3_secure,
            public_endpoint=s3_public_endpoint,
            public_secure=s3_public_secure,
        )
    raise InvalidArgumentError(f"{url!r} is no blob store; it takes file:///absolute/directory or s3://bucket", field="blob_store")
