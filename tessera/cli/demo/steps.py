"""What every demo does: train once, verify, deploy, wait, fetch the pictures."""

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tessera.api.inference.v1 import serving_pb2
from tessera.api.registry.v1 import registry_pb2
from tessera.api.trainer.v1 import trainer_pb2
from tessera.cli import output
from tessera.cli.train import attach
from tessera.cli.versions import download_files
from tessera.cli.watching import follow
from tessera.client.trainer import FINISHED
from tessera.errors import DataLossError, DeadlineExceededError, FailedPreconditionError, NotFoundError
from tessera.names import DEFAULT_ALIAS

if TYPE_CHECKING:
    from tessera.client import Client

T = TypeVar("T")
ALIAS = DEFAULT_ALIAS
ANNOUNCE_TIMEOUT_S = 120.0
SERVE_TIMEOUT_S = 120.0
POLL_S = 0.1


def job_name(spec: trainer_pb2.JobSpec, inputs: Mapping[str, Path]) -> str:
    """Return a name that tells jobs apart whose settings or files differ, and is the same for the same ones."""
    settings = json.dumps([spec.architecture, dict(spec.model_config.items()), dict(spec.hyperparameters.items())], sort_keys=True)
    digest = hashlib.sha256(settings.encode())
    for name, path in sorted(inputs.items()):
        digest.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return f"demo {digest.hexdigest()[:12]}"


async def train_once(client: "Client", spec: trainer_pb2.JobSpec, inputs: Mapping[str, Path], *, fresh: bool, what: str) -> trainer_pb2.Job:
    """Return a job with these settings and files that ended well: of an earlier run, or trained now.

    Args:
        client: Of trainer and registry.
        spec: Without inputs and name.
        inputs: Files by the family's names for them.
        fresh: Whether to train although there is a version already.
        what: What is trained on what, for people.

    Raises:
        FailedPreconditionError: The training failed.
        DeadlineExceededError: No worker announced the family in two minutes.
    """
    await eventually(lambda: _announced(client, spec.family), ANNOUNCE_TIMEOUT_S, f"no worker has announced the family {spec.family}")
    spec.name = job_name(spec, inputs)
    earlier = [job async for job in client.trainer.list_jobs(model=spec.model) if job.spec.name == spec.name]
    for job in [] if fresh else earlier:
        if job.state not in FINISHED:
            output.note(f"going on with job {job.id}")
            return await follow(client, job.id)
        if job.state == trainer_pb2.JOB_STATE_SUCCEEDED and await _is_ready(client, spec.model, job.version):
            output.note(f"found version {job.version} of job {job.id}; --fresh would train again")
            return job
    await attach(client, spec, dict(inputs))
    # The number of earlier jobs makes the key: two demos at once get one job, a later --fresh gets another.
    job = (await client.trainer.submit_job(spec, idempotency_key=f"{spec.name} {len(earlier)}")).job
    output.note(f"training {what}: job {job.id}")
    return await follow(client, job.id)


async def verified_version(client: "Client", model: str, number: int) -> registry_pb2.Version:
    """Return a version, every byte of which was read again. Raises DataLossError if one is not what was registered."""
    version = await client.registry.get_version(model, version=number)
    output.note(f"registered: {model} version {version.version}, digest {version.digest[:12]}")
    verified = await client.registry.verify_version(model, version.version)
    if not verified.intact:
        raise DataLossError(f"{model} {version.version} is damaged: {'; '.join(verified.problems)}")
    output.note(f"verified: {output.size_text(verified.bytes_read)} read again, every digest right")
    return version


async def deploy(client: "Client", version: registry_pb2.Version) -> None:
    """Make sure that the champion is this version and that the server answers with it.

    Raises:
        FailedPreconditionError: The server cannot load it.
        DeadlineExceededError: The server has not picked it up in two minutes.
    """
    aliases = (await client.registry.get_model(version.model)).aliases
    current = aliases.get(ALIAS, 0)
    if current != version.version:
        await client.registry.set_alias(version.model, ALIAS, version.version, expected_version=current, reason="demo")
    output.note(f"alias: {ALIAS} of {version.model} is version {version.version}")
    served = await eventually(lambda: _served(client, version), SERVE_TIMEOUT_S, f"the server has not picked up version {version.version}")
    output.note(
        f"serving: version {version.version} on {served.runtime}, {served.load_time.ToNanoseconds() / 1e9:.2f} s after the alias moved"
    )


async def eventually(probe: Callable[[], Awaitable[T | None]], timeout_s: float, otherwise: str) -> T:
    """Return the first result that is not None. Raises DeadlineExceededError with the text `otherwise`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = await probe()
        if found is not None:
            return found
        await asyncio.sleep(POLL_S)
    raise DeadlineExceededError(f"{otherwise} within {timeout_s:g} s; the log of that server or worker may say why")


def train_seconds(job: trainer_pb2.Job) -> float:
    """Return the time that all attempts took, from claim to registration."""
    nanoseconds = sum(a.finish_time.ToNanoseconds() - a.start_time.ToNanoseconds() for a in job.attempts if a.HasField("finish_time"))
    return nanoseconds / 1e9


async def fetch_pictures(client: "Client", manifest: Mapping[str, Any], directory: Path) -> list[Path]:
    """Download the pictures of a version and return their paths."""
    files = [{**file, "path": Path(file["path"]).name} for file in manifest["files"] if file["role"] == "picture"]
    return await download_files(client, files, directory)


async def _announced(client: "Client", name: str) -> bool | None:
    return any(family.name == name for family in await client.trainer.list_families()) or None


async def _is_ready(client: "Client", model: str, version: int) -> bool:
    try:
        return (await client.registry.get_version(model, version=version)).state == registry_pb2.VERSION_STATE_READY
    except NotFoundError:
        return False


async def _served(client: "Client", version: registry_pb2.Version) -> serving_pb2.ServedVersion | None:
    for served in (await client.inference.list_served(version.model)).versions:
        if served.version != version.version:
            continue
        if served.state == serving_pb2.SERVED_STATE_FAILED:
            raise FailedPreconditionError(f"the server cannot load version {version.version}: {served.error}")
        if served.state == serving_pb2.SERVED_STATE_READY and ALIAS in served.aliases:
            return served
    return None
