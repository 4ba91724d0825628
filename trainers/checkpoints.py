"""Checkpoint files that are whole or not there, and that are data only."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, syncs and renames it, so that a kill at any moment leaves the old one or the new one.

    Loads with `weights_only=True`, whatever is asked: a checkpoint holds tensors and plain values, never code.
    """

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: str | os.PathLike[str], storage_options: Any = None) -> None:
        """Write a checkpoint; OSError if that fails, with nothing left."""
        write_atomically(Path(path), _serialized(checkpoint))

    def load_checkpoint(self, path: str | os.PathLike[str], map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint; whatever `torch.load` raises if it is damaged."""
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        return checkpoint


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that it is there as a whole or not at all; OSError if that fails, with nothing left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_readable(path: Path) -> bool:
    """Whether a checkpoint is there and undamaged."""
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except Exception:  # torch.load raises OSError, RuntimeError, UnpicklingError, EOFError, ... for damaged files
        return False
    return True


def _serialized(checkpoint: Mapping[str, Any]) -> memoryview:
    """Return the bytes of a checkpoint; made in memory, for torch's own writer hides why a disk refuses them."""
    buffer = io.BytesIO()
    torch.save(dict(checkpoint), buffer)
    return buffer.getbuffer()
