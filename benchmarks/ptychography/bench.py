"""The benchmark's way: train or register the models on a stack of its own, and reconstruct every scan with each of them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.ptychography.rows import Row
from tessera.api.trainer.v1 import trainer_pb2
from tessera.cli import output
from tessera.cli.demo.steps import ALIAS, deploy, train_once
from tessera.cli.reconstructing import Reconstructed, reconstruct_scan
from tessera.cli.reconstruction_output import Watcher, draw
from tessera.client import Client
from tessera.client.ptychography import reconstruction_plan
from tessera.tasks.ptychography.scan import Scan

FAMILY = "ptycho"
RUNTIMES = {".onnx": "onnxruntime", ".pt2": "torchserve"}
"""What computes a graph, by its extension."""
WARM_UP = 32
"""Frames of a reconstruction that nobody measures: it has the versions loaded."""
ENGINE = {"epochs": 3}
"""Of the job that registers an engine: passes over its scan, for the version's metrics and pictures."""


@dataclass(frozen=True)
class Model:
    """A model that the server has.

    Args:
        name: Its name.
        runtimes: Those that can compute it, the preferred one first.
    """

    name: str
    runtimes: tuple[str, ...]


@dataclass
class Bench:
    """A stack, and the rows that were measured on it so far.

    Args:
        client: Of the stack.
        pictures: Directory for pictures.
        epochs: Of every training, in place of its recipe's; None for those.
    """

    client: Client
    pictures: Path
    epochs: int | None = None
    rows: list[Row] = field(default_factory=list)

    async def model(
        self, name: str, architecture: str, scans: Mapping[str, Path], config: Mapping[str, Any], hyperparameters: Mapping[str, Any]
    ) -> Model:
        """Return a model that was trained on files of scans (an engine is registered as it is), as soon as the server answers with it."""
        spec = trainer_pb2.JobSpec(family=FAMILY, architecture=architecture, model=name, alias=ALIAS)
        spec.model_config.update(config)
        spec.hyperparameters.update(hyperparameters)
        if self.epochs and "epochs" in hyperparameters:
            spec.hyperparameters.update({"epochs": self.epochs})
        job = await train_once(self.client, spec, scans, fresh=False, what=f"{name} ({architecture})")
        version = await self.client.registry.get_version(name, version=job.version)
        await deploy(self.client, version)
        manifest = json.loads(version.manifest_json)
        carried = [RUNTIMES[Path(file["path"]).suffix] for file in manifest["files"] if file["role"] == "graph"]
        return Model(name, tuple(sorted(carried, key=lambda runtime: runtime != manifest["runtime"])))

    async def reconstruct(self, scan: Scan, model: Model, *, runtime: str = "", refine: Model | None = None, **plan: Any) -> Reconstructed:
        """Return what the server makes of a scan, by versions that are loaded already."""
        runtime = runtime or model.runtimes[0]
        few = Scan(scan.amplitudes[:WARM_UP], scan.positions[:WARM_UP])
        title = model.name if refine is None else f"{model.name} + {refine.name}"
        wishes: dict[str, Any] = {"probe": scan.probe, "refine_with": refine.name if refine else ""}
        short = reconstruction_plan(model.name, **wishes, **plan | {"iterations": 1})
        await reconstruct_scan(self.client, few, short, Watcher(f"loading {title}"), runtime=runtime, preview_s=0)
        whole = reconstruction_plan(model.name, **wishes, **plan)
        return await reconstruct_scan(
            self.client, scan, whole, Watcher(f"{title}, {runtime}", whole.iterations), runtime=runtime, preview_s=0
        )

    def add(self, scan: str, engine: str, done: Reconstructed, figures: Mapping[str, float] = {}, *, target: float = 0.0) -> None:
        """Draw and note a row, and tell about it."""
        directory = self.pictures / re.sub(r"[^a-z0-9]+", "-", f"{scan} {engine}".lower()).strip("-")
        directory.mkdir(parents=True, exist_ok=True)
        row = Row(scan, engine, done, draw(done, directory, {}, target), dict(figures))
        self.rows.append(row)
        error = f", Fourier error {done.errors[-1]:.4f}" if done.errors else ""
        output.note(f"{scan}: {engine}: {done.seconds:.2f} s, {done.iterations} passes{error}")
