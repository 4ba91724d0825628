"""What a file of a version may be: safe paths, a few formats per role, and never a pickle, whatever it is called.

A pickle runs code when it is loaded, so it is refused by its extension and by its first bytes.
"""

import json
import re
import struct
from pathlib import Path, PurePosixPath
from typing import Literal

from tessera.blob_files import CHUNK_BYTES
from tessera.errors import InvalidArgumentError
from tessera.names import shown

Role = Literal["graph", "weights", "golden", "constants", "card", "picture", "other"]

MANIFEST_FILE = "manifest.json"
"""Where the manifest lies beside the files; no file of a version may take its place."""

_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_LONGEST_PATH = 255
_EXTENSIONS: dict[Role, tuple[str, ...]] = {
    "graph": (".onnx", ".pt2"),
    "weights": (".safetensors",),
    "golden": (".safetensors",),
    "constants": (".safetensors",),
    "card": (".md",),
    "picture": (".png", ".jpg", ".jpeg"),
}
_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib", ".dill", ".npy", ".npz"}
_KNOWN_BEGINNINGS = (
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"\x7fELF", "a program"),
    (b"#!", "a program"),
)
_LARGEST_SAFETENSORS_HEADER = 100_000_000  # the limit of the safetensors library, bytes
_ONNX_FIELDS_AFTER_IR_VERSION = frozenset(b"\x12\x1a\x22\x28\x32\x3a\x42\x72\xa2\xca")  # tags of onnx.ModelProto


def check_path(path: str) -> str:
    """Return `path` if it is a safe place below a version's folder.

    Raises:
        ValueError: It is absolute, leaves the folder, is hidden, or has characters that some filesystem refuses.
    """
    if len(path) > _LONGEST_PATH or not _PATH.fullmatch(path):
        rule = "a path is relative, at most 255 characters, of letters, digits, '.', '_', '-' and '/', no part beginning with '.' or '-'"
        raise ValueError(f"{shown(path)} is not a safe path; {rule}")
    if path.lower() == MANIFEST_FILE:
        raise ValueError(f"{MANIFEST_FILE!r} is taken by the manifest itself")
    if (suffix := PurePosixPath(path).suffix.lower()) in _PICKLES:
        raise ValueError(f"{shown(path)}: a {suffix} file may be a pickle, which runs code when loaded; use .safetensors or .onnx")
    return path


def check_extension(path: str, role: Role) -> Role:
    """Return `role` if a file called `path` may have it.

    Raises:
        ValueError: It may not.
    """
    allowed = _EXTENSIONS.get(role)
    if allowed and PurePosixPath(path).suffix.lower() not in allowed:
        raise ValueError(f"{shown(path)} cannot have the role {role!r}, which takes {' or '.join(allowed)}")
    return role


def check_file_magic(path: Path, role: Role) -> None:
    """Look into a file and refuse it if it is not what its role and extension promise.

    Raises:
        InvalidArgumentError: It is a pickle, an archive of one, damaged, or cannot be read; `field` is the file's name.
    """
    try:
        with path.open("rb") as file:
            head = file.read(CHUNK_BYTES)
        size = path.stat().st_size
    except OSError as error:
        raise InvalidArgumentError(f"cannot read {path.name}: {error.strerror}", field=path.name) from error
    check_beginning(path.name, role, head, size)


def check_beginning(path: str, role: Role, head: bytes, size_bytes: int) -> None:
    """Refuse a file whose first bytes are not what its role and extension promise.

    Args:
        path: Its path in the version.
        role: Its role.
        head: Its first bytes, up to 1 MiB: the first chunk that a blob store yields.
        size_bytes: Size of the whole file.

    Raises:
        InvalidArgumentError: It is not what it should be; the message says what it looks like instead.
    """
    suffix = PurePosixPath(path).suffix.lower()
    problem = "" if suffix == ".safetensors" and _may_be_safetensors(head) else _pickle(head)
    if not problem and suffix == ".safetensors":
        problem = _not_safetensors(head, size_bytes)
    elif not problem and suffix == ".onnx":
        problem = _not_onnx(head)
    elif not problem and suffix == ".pt2" and not head.startswith(b"PK\x03\x04"):
        problem = f"not an exported program but {_looks_like(head)}"
    elif not problem and role == "picture" and not head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
        problem = f"neither PNG nor JPEG but {_looks_like(head)}"
    elif not problem and role == "card" and b"\0" in head:
        problem = f"not text but {_looks_like(head)}"
    if problem:
        raise InvalidArgumentError(f"{path} ({role}) is {problem}", field=path)


def _pickle(head: bytes) -> str:
    """Recognise pickles of protocol 2 and later, and what torch.save writes: a zip archive around one."""
    if len(head) > 1 and head[0] == 0x80 and head[1] <= 5:
        return "a pickle, which runs code when loaded; use safetensors or ONNX"
    if head.startswith(b"PK\x03\x04") and b"/data.pkl" in head[:4096]:
        return "a zip archive with a pickle (torch.save), which runs code when loaded; use safetensors or ONNX"
    return ""


def _may_be_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{"


def _not_safetensors(head: bytes, size_bytes: int) -> str:
    """Check the layout of https://github.com/huggingface/safetensors: u64 length, JSON header, then exactly the tensors."""
    if len(head) < 8 or not _may_be_safetensors(head):
        return f"not safetensors but {_looks_like(head)}"
    (length,) = struct.unpack("<Q", head[:8])
    if length > min(_LARGEST_SAFETENSORS_HEADER, size_bytes - 8):
        return f"damaged: its safetensors header claims {length} bytes in a file of {size_bytes}"
    if 8 + length > len(head):  # too many tensors for a look at the beginning; the loader sees the rest
        return ""
    try:
        tensors = json.loads(head[8 : 8 + length])
        end = max((entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"), default=0)
        expected = 8 + length + int(end)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError):
        return "damaged: its safetensors header is not the JSON that it should be"
    return "" if expected == size_bytes else f"damaged: its safetensors header describes {expected} bytes, the file has {size_bytes}"


def _not_onnx(head: bytes) -> str:
    """Check that the bytes begin like a serialised onnx.ModelProto: field 1 (ir_version), then another of its fields."""
    if len(head) > 2 and head[0] == 0x08 and head[1] < 0x80 and head[2] in _ONNX_FIELDS_AFTER_IR_VERSION:
        return ""
    return f"not ONNX but {_looks_like(head)}"


def _looks_like(head: bytes) -> str:
    if not head:
        return "empty"
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive"
    if _may_be_safetensors(head):
        return "safetensors"
    for beginning, what in _KNOWN_BEGINNINGS:
        if head.startswith(beginning):
            return what
    return f"something that begins with {head[:8].hex(' ')}"
