"""The ptychography demo: a photograph as a specimen, a network that learns from its diffraction patterns, an engine, and both together."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tessera.api.inference.v1 import ptychography_pb2 as pb
from tessera.api.trainer.v1 import trainer_pb2
from tessera.cli import output
from tessera.cli.demo.ptycho_report import Report, Row
from tessera.cli.demo.steps import ALIAS, SERVE_TIMEOUT_S, deploy, eventually, fetch_pictures, train_once, train_seconds, verified_version
from tessera.cli.reconstructing import Reconstructed, reconstruct_scan
from tessera.cli.reconstruction_output import Watcher, check_libraries, draw, save
from tessera.cli.train import check_readable
from tessera.client.ptychography import reconstruction_plan
from tessera.errors import DeadlineExceededError, UnavailableError
from tessera.tasks.images import load_image
from tessera.tasks.ptychography.files import write_scan
from tessera.tasks.ptychography.metrics import aligned
from tessera.tasks.ptychography.scan import Scan
from tessera.tasks.ptychography.simulation import beam, object_from_picture, simulate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

    from tessera.client import Client
    from tessera.stack.home import Home

FAMILY = "ptycho"
VALIDATION = "validation"
"""What the job calls the scan that it is measured on."""
ENGINE = "rpie"
"""The engine's architecture, and the model that it is registered under."""
SIZE = 64
SPACING = 8.5
"""Mean distance of neighbouring frames, pixels; those of the Siemens star are 9 apart."""
PHOTONS = 1e6
DIFFUSER = 1.5
"""Radians: a diffuser in the beam, without which a single frame leaves the slow changes of the phase open."""
RECIPE: dict[str, float | str] = {"learning_rate": 3e-3, "loss": "mae", "batch_size": 8}
"""Of the model card, for few epochs."""
PASSES = 30
"""Of the engine, with the network's answer to begin with as without."""
TRIAL = 5
"""Passes of the engine on its job's scan, which measure it before it is registered."""
WARM_UP = 32
"""Frames of a reconstruction that nobody measures: it has the versions loaded."""


@dataclass(frozen=True)
class PtychoDemo:
    """Scans both halves of a photograph, trains on one, and reconstructs the other, which the network has never seen.

    Args:
        picture: The photograph.
        frames: Of each scan.
        epochs: Passes over the frames.
        architecture: Network.
        model: Model to register the network under.
        fresh: Whether to train although there is a version already.
    """

    picture: Path
    frames: int
    epochs: int
    architecture: str
    model: str
    fresh: bool

    def check(self) -> None:
        """Raise TesseraError unless the picture can be read and the libraries for metrics and pictures are there."""
        check_libraries()
        check_readable(self.picture, f"--picture {self.picture}")
        load_image(self.picture)

    async def run(self, client: "Client", home: "Home") -> Report:
        """Go the whole way and return what came of it.

        Raises:
            FailedPreconditionError: A training failed.
            DataLossError: A version is damaged, or serves another object than it was measured with.
            DeadlineExceededError: No worker announced the family, or no server picked up a version, in two minutes.
        """
        directory = home.demo / FAMILY
        directory.mkdir(parents=True, exist_ok=True)
        scans = {name: directory / f"{name}.safetensors" for name in ("scan", VALIDATION)}
        training, test = simulated_halves(load_image(self.picture), self.frames)
        for path, scan in zip(scans.values(), (training, test), strict=True):
            write_scan(path, scan)
        output.note(f"simulated: two scans of {self.frames} frames of {SIZE} x {SIZE} pixels, {PHOTONS:g} photons each")
        what = f"{self.architecture} on the left half, measured on the right"
        job = await train_once(client, self.spec(), scans, fresh=self.fresh, what=what)
        registered = await train_once(client, engine_spec(), {"scan": scans[VALIDATION]}, fresh=False, what=f"nothing: the engine {ENGINE}")
        versions = [await verified_version(client, one.spec.model, one.version) for one in (job, registered)]
        for version in versions:
            await deploy(client, version)
        done = await self._reconstruct_all(client, test)
        manifest = json.loads(versions[0].manifest_json)
        rows = [Row.of(name, one) for name, one in done.items()]
        report = Report(
            architecture=versions[0].architecture,
            model=self.model,
            version=versions[0].version,
            parameters=manifest["parameters"],
            epochs=job.progress.epochs,
            train_seconds=train_seconds(job),
            measured=dict(versions[0].metrics),
            frames=self.frames,
            rows=rows,
            pictures=_draw(done, rows, directory) + await fetch_pictures(client, manifest, directory / "training"),
        )
        report.check_agreement()
        return report

    def next_command(self, home: "Home") -> Sequence[str]:
        """Return the arguments of `tessera` that reconstruct the half that was measured."""
        return "reconstruct", str(home.demo / FAMILY / f"{VALIDATION}.safetensors"), "--model", self.model

    def spec(self) -> trainer_pb2.JobSpec:
        """Return the network's job without its inputs."""
        spec = trainer_pb2.JobSpec(family=FAMILY, architecture=self.architecture, model=self.model, alias=ALIAS)
        spec.model_config.update({"size": SIZE})
        spec.hyperparameters.update({**RECIPE, "epochs": self.epochs})
        return spec

    async def _reconstruct_all(self, client: "Client", scan: Scan) -> dict[str, Reconstructed]:
        """Reconstruct a scan by the network, by the engine from there, and by the engine from nothing."""
        plans = {
            "network": reconstruction_plan(self.model, probe=scan.probe),
            "network + engine": reconstruction_plan(self.model, refine_with=ENGINE, iterations=PASSES, probe=scan.probe),
            "engine": reconstruction_plan(ENGINE, iterations=PASSES, probe=scan.probe),
        }
        few = replace(scan, amplitudes=scan.amplitudes[:WARM_UP], positions=scan.positions[:WARM_UP])
        await eventually(lambda: _answers(client, few, plans["network + engine"]), SERVE_TIMEOUT_S, "the versions do not answer")
        return {name: await reconstruct_scan(client, scan, plan, Watcher(name, PASSES)) for name, plan in plans.items()}


def engine_spec() -> trainer_pb2.JobSpec:
    """Return the engine's job without its inputs."""
    spec = trainer_pb2.JobSpec(family=FAMILY, architecture=ENGINE, model=ENGINE, alias=ALIAS)
    spec.model_config.update({"size": SIZE})
    spec.hyperparameters.update({"epochs": TRIAL})
    return spec


def simulated_halves(picture: "Image.Image", frames: int) -> tuple[Scan, Scan]:
    """Return scans of the left and of the right half of a picture, with the same probe; the same picture gives the same scans."""
    columns, rows = (SIZE + math.ceil(SPACING * math.sqrt(frames * share)) for share in (0.5, 2.0))
    middle = picture.width // 2
    halves = (picture.crop((0, 0, middle, picture.height)), picture.crop((middle, 0, picture.width, picture.height)))
    probe = beam(SIZE, diffuser=DIFFUSER)
    left, right = (
        simulate(
            object_from_picture(half, rows, columns), size=SIZE, frames=frames, layout="raster", photons=PHOTONS, seed=seed, probe=probe
        )
        for seed, half in enumerate(halves)
    )
    return left, right


async def _answers(client: "Client", scan: Scan, plan: pb.ReconstructionPlan) -> bool | None:
    try:
        await reconstruct_scan(client, scan, plan, Watcher("loading the models"))
    except (DeadlineExceededError, UnavailableError):  # they are being loaded
        return None
    return True


def _draw(done: "Mapping[str, Reconstructed]", rows: list[Row], directory: Path) -> list[Path]:
    """Write the pictures of all reconstructions, the objects and the curves side by side, and return their paths."""
    from tessera.tasks.ptychography import pictures

    # Unmoved, so that all stay on the same pixels: how far a network that knows nothing seems to be shifted, means nothing.
    pairs = {name: aligned(*one.beside_truth(), registered=True) for name, one in done.items()}
    objects = {"truth": pairs["network"][1]} | {name: found for name, (found, _) in pairs.items()}
    side_by_side = {
        "objects": pictures.draw_objects(objects),
        "frc": pictures.draw_correlations({row.name: row.comparison.correlation for row in rows}),
        "errors": pictures.draw_errors({name: one.errors for name, one in done.items() if len(one.errors) > 1}),
    }
    refined = directory / "network_and_engine"
    refined.mkdir(exist_ok=True)
    return [save(image, directory / f"{name}.png") for name, image in side_by_side.items()] + draw(done["network + engine"], refined, {})
