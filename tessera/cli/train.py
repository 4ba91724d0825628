"""`tessera train`: submit a training job."""

import json as json_module
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessera.cli import output
from tessera.cli.connection import run
from tessera.cli.options import Json, complete_models, pairs
from tessera.errors import InvalidArgumentError

if TYPE_CHECKING:
    from tessera.api.trainer.v1 import trainer_pb2 as pb
    from tessera.client import Client


def train(
    ctx: typer.Context,
    family: Annotated[str, typer.Argument(help="What to train; `tessera families` shows the choices.")],
    *,
    architecture: Annotated[str, typer.Option("--architecture", help="Network within the family.")],
    model: Annotated[
        str, typer.Option("--model", help="Model to register the version under; made if missing.", autocompletion=complete_models)
    ],
    inputs: Annotated[
        list[str], typer.Option("--input", metavar="NAME=FILE", help="A file to train on, for example picture=photo.jpg.")
    ] = [],  # noqa: B006 - typer copies it
    hyperparameters: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="A hyperparameter; the value is read as JSON.")
    ] = [],  # noqa: B006
    model_config: Annotated[
        list[str], typer.Option("--model-config", metavar="KEY=VALUE", help="A setting of the network; the value is read as JSON.")
    ] = [],  # noqa: B006
    name: Annotated[str, typer.Option("--name", help="Name of the experiment, for people.")] = "",
    alias: Annotated[str, typer.Option("--alias", help="Point this alias at the new version.", show_default="none")] = "",
    max_attempts: Annotated[int, typer.Option("--max-attempts", min=1, max=10, help="Attempts before the job fails.")] = 3,
    idempotency_key: Annotated[str, typer.Option("--key", help="The same key again answers the same job.")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")] = False,
    json: Json = False,
) -> None:
    """Upload the inputs and submit a training job."""
    from tessera.api.trainer.v1 import trainer_pb2 as pb
    from tessera.cli.watching import follow

    files = input_files(inputs)
    spec = pb.JobSpec(family=family, architecture=architecture, model=model, name=name, alias=alias, max_attempts=max_attempts)
    spec.hyperparameters.update(settings(hyperparameters, "--set"))
    spec.model_config.update(settings(model_config, "--model-config"))

    async def main(client: "Client") -> "pb.Job":
        await attach(client, spec, files)
        job = (await client.trainer.submit_job(spec, idempotency_key=idempotency_key)).job
        return await follow(client, job.id, as_json=json) if watch else job

    job = run(ctx, main)
    if json and not watch:
        output.print_json(job)
    elif watch:
        output.note(f"registered {model} version {job.version}; see it with `tessera versions show {model} {job.version}`")
    else:
        output.note(f"submitted job {job.id}; follow it with `tessera jobs watch {job.id}`")


async def attach(client: "Client", spec: "pb.JobSpec", files: dict[str, Path]) -> None:
    """Upload files and name them in the spec."""
    for name, path in files.items():
        blob = await client.registry.upload_file(path)
        spec.inputs.add(name=name, sha256=blob.sha256, size_bytes=blob.size_bytes)


def input_files(assignments: Sequence[str]) -> dict[str, Path]:
    """Return the files of NAME=FILE assignments. Raises InvalidArgumentError for one that cannot be read."""
    files = {name: Path(value).expanduser() for name, value in pairs(assignments, "--input", "NAME=FILE").items()}
    for name, path in files.items():
        check_readable(path, f"--input {name}={path}")
    return files


def check_readable(path: Path, what: str) -> None:
    """Raise InvalidArgumentError unless this is a file with something in it that can be read."""
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise InvalidArgumentError(f"{what}: the file is empty")
    except OSError as error:
        raise InvalidArgumentError(f"{what}: cannot read the file: {error.strerror}") from error


def settings(assignments: Sequence[str], option: str) -> dict[str, Any]:
    """Return the values of KEY=VALUE assignments, read as JSON where they are JSON, else as text.

    Raises:
        InvalidArgumentError: An assignment without `=`, or a key twice.
    """
    return {key: _value(text) for key, text in pairs(assignments, option, "KEY=VALUE").items()}


def _value(text: str) -> Any:
    try:
        return json_module.loads(text)
    except ValueError:
        return text
