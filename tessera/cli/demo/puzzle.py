"""The puzzle demo: a network that says where each piece of a photograph belongs, asked for every piece."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.api.trainer.v1 import trainer_pb2
from tessera.cli import output
from tessera.cli.demo.asking import measure
from tessera.cli.demo.report import Report
from tessera.cli.demo.steps import ALIAS, SERVE_TIMEOUT_S, deploy, eventually, fetch_pictures, train_once, train_seconds, verified_version
from tessera.cli.train import check_readable
from tessera.errors import DeadlineExceededError, UnavailableError
from tessera.tasks import puzzle_cells
from tessera.tasks.images import encode_png, load_image

if TYPE_CHECKING:
    from tessera.client import Client
    from tessera.stack.home import Home

FAMILY = puzzle_cells.NAME
RUNTIMES = {".onnx": "onnxruntime", ".pt2": "torchserve"}
"""What computes a graph, by its extension."""


@dataclass(frozen=True)
class PuzzleDemo:
    """Cuts a photograph into pieces, trains a network on them, and asks a server for each.

    Args:
        picture: The photograph.
        columns: Pieces from left to right.
        rows: Pieces from top to bottom.
        epochs: Passes over the pieces; None for the family's default.
        architecture: Network.
        model: Model to register under.
        fresh: Whether to train although there is a version already.
    """

    picture: Path
    columns: int
    rows: int
    epochs: int | None
    architecture: str
    model: str
    fresh: bool

    def check(self) -> None:
        """Raise InvalidArgumentError unless the picture can be read and cut."""
        check_readable(self.picture, f"--picture {self.picture}")
        self.pieces()

    def pieces(self) -> list[bytes]:
        """Return every piece of the picture as a PNG file, in the order of its index."""
        return [encode_png(piece) for piece in puzzle_cells.cut(load_image(self.picture), self.columns, self.rows)]

    def spec(self) -> trainer_pb2.JobSpec:
        """Return the job without its input."""
        spec = trainer_pb2.JobSpec(family=FAMILY, architecture=self.architecture, model=self.model, alias=ALIAS)
        spec.model_config.update({"columns": self.columns, "rows": self.rows})
        if self.epochs is not None:
            spec.hyperparameters.update({"epochs": self.epochs})
        return spec

    async def run(self, client: "Client", home: "Home") -> Report:
        """Go the whole way and return what came of it.

        Raises:
            FailedPreconditionError: The training failed.
            DataLossError: The version is damaged, or serves other answers than it was measured with.
            DeadlineExceededError: No worker announced the family, or no server picked up the version, in two minutes.
        """
        what = f"{self.architecture} on {self.columns} x {self.rows} pieces"
        job = await train_once(client, self.spec(), {"picture": self.picture}, fresh=self.fresh, what=what)
        version = await verified_version(client, self.model, job.version)
        await deploy(client, version)
        pieces = self.pieces()
        manifest: dict[str, Any] = json.loads(version.manifest_json)
        runtimes = await _loaded(client, self.model, manifest, pieces[0])
        output.note(f"asking for {len(pieces)} pieces, and again by {' and by '.join(runtimes)}")
        answers = await measure(client, self.model, pieces, runtimes)
        report = Report(
            family=version.family,
            architecture=version.architecture,
            model=version.model,
            version=version.version,
            parameters=manifest["parameters"],
            epochs=job.progress.epochs,
            train_seconds=train_seconds(job),
            measured=dict(version.metrics),
            answers=answers,
            pictures=await fetch_pictures(client, manifest, home.demo),
        )
        report.check_agreement()
        self._piece(home).write_bytes(pieces[len(pieces) // 2])
        return report

    def next_command(self, home: "Home") -> Sequence[str]:
        """Return the arguments of `tessera` that ask where the piece in the middle belongs."""
        return "predict", self.model, str(self._piece(home))

    def _piece(self, home: "Home") -> Path:
        return home.demo / "piece.png"


async def _loaded(client: "Client", model: str, manifest: dict[str, Any], piece: bytes) -> list[str]:
    """Have the version loaded by every runtime that it carries a graph for, and return their names, the preferred one first."""
    carried = {RUNTIMES[suffix] for file in manifest["files"] if (suffix := Path(file["path"]).suffix) in RUNTIMES}
    names = sorted(carried, key=lambda name: (name != manifest["runtime"], name))

    async def answers(runtime: str) -> bool | None:
        try:
            await client.inference.classify_cell(piece, model, runtime=runtime, top_k=1)
        except (DeadlineExceededError, UnavailableError):  # it is being started, and loads the version
            return None
        return True

    for name in names:
        begun = time.monotonic()
        await eventually(partial(answers, name), SERVE_TIMEOUT_S, f"the version does not answer by {name}")
        output.note(f"loaded: by {name} after {time.monotonic() - begun:.1f} s")
    return names
