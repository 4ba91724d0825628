"""The demo's way: train or find the job, deploy, ask for every piece, fetch the pictures."""

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tessera.api.inference.v1 import serving_pb2
from tessera.api.registry.v1 import registry_pb2
from tessera.api.trainer.v1 import trainer_pb2
from tessera.cli import output
from tessera.cli.demo.asking import measure
from tessera.cli.demo.report import Report
from tessera.cli.train import attach, check_readable
from tessera.cli.versions import download_files
from tessera.cli.watching import follow
from tessera.client.trainer import FINISHED
from tessera.errors import DataLossError, DeadlineExceededError, FailedPreconditionError, NotFoundError, UnavailableError
from tessera.names import DEFAULT_ALIAS
from tessera.tasks import puzzle_cells
from tessera.tasks.images import encode_png, load_image

if TYPE_CHECKING:
    from tessera.client import Client
    from tessera.stack.home import Home

T = TypeVar("T")
FAMILY = puzzle_cells.NAME
ALIAS = DEFAULT_ALIAS
RUNTIMES = {".onnx": "onnxruntime", ".pt2": "torchserve"}
"""What computes a graph, by its extension."""
ANNOUNCE_TIMEOUT_S = 120.0
SERVE_TIMEOUT_S = 120.0
POLL_S = 0.1


@dataclass(frozen=True)
class Settings:
    """What to train on, and what.

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
        """Return the job without its input; its name tells jobs with the same settings and picture."""
        spec = trainer_pb2.JobSpec(family=FAMILY, architecture=self.architecture, model=self.model, alias=ALIAS)
        spec.model_config.update({"columns": self.columns, "rows": self.rows})
        if self.epochs is not None:
            spec.hyperparameters.update({"epochs": self.epochs})
        digest = hashlib.sha256(self.picture.read_bytes() + json.dumps([self.architecture, self.columns, self.rows, self.epochs]).encode())
        spec.name = f"demo {digest.hexdigest()[:12]}"
        return spec


async def run_demo(client: "Client", settings: Settings, home: "Home") -> Report:
    """Go the whole way and return what came of it.

    Raises:
        FailedPreconditionError: The training failed.
        DataLossError: The version is damaged, or serves other answers than it was measured with.
        DeadlineExceededError: No worker announced the family, or no server picked up the version, in two minutes.
    """
    job = await _trained(client, settings)
    version = await client.registry.get_version(settings.model, version=job.version)
    output.note(f"registered: {settings.model} version {version.version}, digest {version.digest[:12]}")
    verified = await client.registry.verify_version(settings.model, version.version)
    if not verified.intact:
        raise DataLossError(f"{settings.model} {version.version} is damaged: {'; '.join(verified.problems)}")
    output.note(f"verified: {output.size_text(verified.bytes_read)} read again, every digest right")
    await _deploy(client, version)
    pieces = settings.pieces()
    manifest: dict[str, Any] = json.loads(version.manifest_json)
    runtimes = await _loaded(client, settings.model, manifest, pieces[0])
    output.note(f"asking for {len(pieces)} pieces, and again by {' and by '.join(runtimes)}")
    answers = await measure(client, settings.model, pieces, runtimes)
    report = Report(
        family=version.family,
        architecture=version.architecture,
        model=version.model,
        version=version.version,
        parameters=manifest["parameters"],
        epochs=job.progress.epochs,
        train_seconds=_train_seconds(job),
        measured=dict(version.metrics),
        answers=answers,
        pictures=await _pictures(client, manifest, home),
    )
    report.check_agreement()
    return report


async def _trained(client: "Client", settings: Settings) -> trainer_pb2.Job:
    """Return a job with these settings that ended well: of an earlier run, or trained now."""
    await _eventually(lambda: _announced(client), ANNOUNCE_TIMEOUT_S, f"no worker has announced the family {FAMILY}")
    spec = settings.spec()
    earlier = [job async for job in client.trainer.list_jobs(model=settings.model) if job.spec.name == spec.name]
    for job in [] if settings.fresh else earlier:
        if job.state not in FINISHED:
            output.note(f"going on with job {job.id}")
            return await follow(client, job.id)
        if job.state == trainer_pb2.JOB_STATE_SUCCEEDED and await _is_ready(client, settings.model, job.version):
            output.note(f"found version {job.version} of job {job.id}; --fresh would train again")
            return job
    await attach(client, spec, {"picture": settings.picture})
    # The number of earlier jobs makes the key: two demos at once get one job, a later --fresh gets another.
    job = (await client.trainer.submit_job(spec, idempotency_key=f"{spec.name} {len(earlier)}")).job
    output.note(f"training {settings.architecture} on {settings.columns} x {settings.rows} pieces: job {job.id}")
    return await follow(client, job.id)


async def _announced(client: "Client") -> bool | None:
    return any(family.name == FAMILY for family in await client.trainer.list_families()) or None


async def _is_ready(client: "Client", model: str, version: int) -> bool:
    try:
        return (await client.registry.get_version(model, version=version)).state == registry_pb2.VERSION_STATE_READY
    except NotFoundError:
        return False


async def _deploy(client: "Client", version: registry_pb2.Version) -> None:
    """Make sure that the champion is this version and that the server answers with it."""
    aliases = (await client.registry.get_model(version.model)).aliases
    current = aliases.get(ALIAS, 0)
    if current != version.version:
        await client.registry.set_alias(version.model, ALIAS, version.version, expected_version=current, reason="demo")
    output.note(f"alias: {ALIAS} of {version.model} is version {version.version}")
    served = await _eventually(lambda: _served(client, version), SERVE_TIMEOUT_S, f"the server has not picked up version {version.version}")
    output.note(
        f"serving: version {version.version} on {served.runtime}, {served.load_time.ToNanoseconds() / 1e9:.2f} s after the alias moved"
    )


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
        await _eventually(partial(answers, name), SERVE_TIMEOUT_S, f"the version does not answer by {name}")
        output.note(f"loaded: by {name} after {time.monotonic() - begun:.1f} s")
    return names


async def _served(client: "Client", version: registry_pb2.Version) -> serving_pb2.ServedVersion | None:
    for served in (await client.inference.list_served(version.model)).versions:
        if served.version != version.version:
            continue
        if served.state == serving_pb2.SERVED_STATE_FAILED:
            raise FailedPreconditionError(f"the server cannot load version {version.version}: {served.error}")
        if served.state == serving_pb2.SERVED_STATE_READY and ALIAS in served.aliases:
            return served
    return None


async def _eventually(probe: Callable[[], Awaitable[T | None]], timeout_s: float, otherwise: str) -> T:
    """Return the first result that is not None. Raises DeadlineExceededError with the text `otherwise`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = await probe()
        if found is not None:
            return found
        await asyncio.sleep(POLL_S)
    raise DeadlineExceededError(f"{otherwise} within {timeout_s:g} s; `tessera logs` may say why")


def _train_seconds(job: trainer_pb2.Job) -> float:
    """Return the time that all attempts took, from claim to registration."""
    nanoseconds = sum(a.finish_time.ToNanoseconds() - a.start_time.ToNanoseconds() for a in job.attempts if a.HasField("finish_time"))
    return nanoseconds / 1e9


async def _pictures(client: "Client", manifest: dict[str, Any], home: "Home") -> list[Path]:
    files = [{**file, "path": Path(file["path"]).name} for file in manifest["files"] if file["role"] == "picture"]
    return await download_files(client, files, home.demo)
