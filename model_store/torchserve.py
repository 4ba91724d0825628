"""Packs a version's graph into the archive that TorchServe loads (.mar).

The archive is a zip file that is stored, not compressed: weights do not shrink, and a large one would take minutes. `torch-model-archiver`
is not used because it gathers the files in a folder of /tmp named after the model, where two processes would destroy each other's work.
"""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

from model_store.manifest import Manifest
from tessera.blob_files import disk_errors
from tessera.errors import DataLossError

DESCRIPTION = "tessera.json"
"""What the handler reads, beside it."""
_MANIFEST = {"runtime": "python", "archiverVersion": "0.12.0", "createdOn": "01/01/1980 00:00:00"}
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # of zip; equal contents make equal archives


def pack_mar(manifest: Manifest, graph: Path, handler: Path, target: Path, *, name: str, threads: int) -> None:
    """Write an archive.

    Args:
        manifest: Of the version.
        graph: Its .pt2 file.
        handler: Python file with the one class that computes.
        target: The archive; written anew.
        name: What TorchServe shall call the model.
        threads: Threads that a worker may use, 1 or more.

    Raises:
        DataLossError: The graph is not the file that the manifest names.
        ResourceExhaustedError: The disk is full.
        UnavailableError: The disk fails.
    """
    with disk_errors():
        with graph.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 not in {entry.sha256 for entry in manifest.files_in_role("graph")}:
            raise DataLossError(f"the graph {graph.name} of {manifest.model} has the digest {sha256}, which its manifest does not name")
        model = {"modelName": name, "modelVersion": str(manifest.version or 0), "handler": handler.name}
        description = {
            "graph": "model.pt2",
            "sha256": sha256,
            "inputs": [spec.name for spec in manifest.inputs],
            "outputs": [spec.name for spec in manifest.outputs],
            "threads": threads,
        }
        with zipfile.ZipFile(target, "w") as archive:
            _write_json(archive, "MAR-INF/MANIFEST.json", {**_MANIFEST, "model": model})
            _write_json(archive, DESCRIPTION, description)
            archive.write(handler, handler.name)
            archive.write(graph, "model.pt2")


def _write_json(archive: zipfile.ZipFile, name: str, content: dict[str, Any]) -> None:
    archive.writestr(zipfile.ZipInfo(name, _FIRST_DAY), json.dumps(content, sort_keys=True))
