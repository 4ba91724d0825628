"""`tessera versions`: what was trained, immutable and verified."""

import json as json_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tessera.cli import output
from tessera.cli.connection import run
from tessera.cli.options import Filter, Json, Model, OrderBy, Version, complete_models, pairs
from tessera.errors import DataLossError, InvalidArgumentError
from tessera.names import DEFAULT_ALIAS

if TYPE_CHECKING:
    from tessera.api.registry.v1 import registry_pb2 as pb
    from tessera.client import Client

app = typer.Typer(no_args_is_help=True, help="Versions: what was trained, immutable and verified.")


@app.command("list")
def list_(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="Only this model.", autocompletion=complete_models, show_default="all")] = "",
    filter: Filter = "",  # noqa: A002 - its name in the API
    order_by: OrderBy = "",
    json: Json = False,
) -> None:
    """List the versions of a model, or of all."""

    async def main(client: "Client") -> "list[pb.Version]":
        return [version async for version in client.registry.list_versions(model, filter, order_by)]

    versions = run(ctx, main)
    if json:
        output.print_json(versions)
        return
    rows = [
        (
            v.model,
            v.version,
            v.architecture,
            " ".join(v.aliases),
            output.metrics_text(v.metrics),
            output.size_text(v.size_bytes),
            output.time_text(v.create_time),
        )
        for v in versions
    ]
    output.print_table(
        ("MODEL", "VERSION", "ARCHITECTURE", "ALIASES", "METRICS", "SIZE", "CREATED"),
        rows,
        empty="no versions yet; `tessera train` makes one",
    )


@app.command()
def show(
    ctx: typer.Context,
    model: Model,
    version: Annotated[str, typer.Argument(help="Number or alias of the version.")] = DEFAULT_ALIAS,
    json: Json = False,
) -> None:
    """Show one version with its files and lineage."""
    found = run(ctx, lambda client: get(client, model, version))
    if json:
        output.print_json(found)
        return
    manifest: dict[str, Any] = json_module.loads(found.manifest_json)
    output.print_fields(
        {
            "model": found.model,
            "version": found.version,
            "aliases": " ".join(found.aliases),
            "digest": found.digest,
            "family": f"{found.family}, {found.architecture}, {manifest['parameters']:,} parameters",
            "runtime": manifest["runtime"],
            "metrics": output.metrics_text(found.metrics),
            "tags": " ".join(f"{key}={value}" for key, value in sorted(found.tags.items())),
            "lineage": json_module.dumps(manifest["lineage"]),
            "created": output.time_text(found.create_time),
        }
    )
    output.print_table(
        ("FILE", "ROLE", "SIZE", "SHA256"),
        [(file["path"], file["role"], output.size_text(file["size_bytes"]), file["sha256"][:12]) for file in manifest["files"]],
    )


@app.command()
def verify(ctx: typer.Context, model: Model, version: Version, json: Json = False) -> None:
    """Have the registry read every file again and compare digests; exit code 1 if one is damaged."""
    result = run(ctx, lambda client: client.registry.verify_version(model, version))
    if json:
        output.print_json(result)
    elif result.intact:
        output.note(f"{model} {version} is intact: {output.size_text(result.bytes_read)} read")
    if not result.intact:
        raise DataLossError(f"{model} {version} is damaged:\n  " + "\n  ".join(result.problems) + "\nTrain or register it again.")


@app.command()
def tag(
    ctx: typer.Context,
    model: Model,
    version: Version,
    tags: Annotated[list[str], typer.Argument(metavar="[KEY=VALUE]...", help="Tags to set.", show_default=False)] = [],  # noqa: B006
    *,
    remove: Annotated[list[str], typer.Option("--remove", metavar="KEY", help="A tag to remove.")] = [],  # noqa: B006
    json: Json = False,
) -> None:
    """Set and remove tags of a version; lists filter by them: --filter 'tags.site = "lab"'."""
    new = pairs(tags, "tag", "KEY=VALUE")
    if not new and not remove:
        raise InvalidArgumentError("nothing to change: give KEY=VALUE, or --remove KEY")
    tagged = run(ctx, lambda client: client.registry.update_version(model, version, set_tags=new, remove_tags=remove))
    if json:
        output.print_json(tagged)
    else:
        output.print_table(("TAG", "VALUE"), sorted(tagged.tags.items()), empty=f"{model} {version} has no tags")


@app.command()
def delete(ctx: typer.Context, model: Model, version: Version, json: Json = False) -> None:
    """Retire a version that no alias and no server holds."""
    run(ctx, lambda client: client.registry.delete_version(model, version))
    if json:
        output.print_json({"model": model, "deleted": version})
    else:
        output.note(f"retired {model} {version}")


@app.command()
def download(
    ctx: typer.Context,
    model: Model,
    version: Annotated[str, typer.Argument(help="Number or alias of the version.")] = DEFAULT_ALIAS,
    directory: Annotated[Path, typer.Option("--to", help="Directory to write to.", file_okay=False)] = Path(),
    json: Json = False,
) -> None:
    """Download the manifest and all files of a version, verified."""

    async def main(client: "Client") -> list[Path]:
        found = await get(client, model, version)
        return await download_files(client, json_module.loads(found.manifest_json)["files"], directory)

    files = run(ctx, main)
    if json:
        output.print_json({"files": [str(file) for file in files]})
    else:
        output.stdout().print("\n".join(str(file) for file in files), soft_wrap=True, highlight=False)


async def get(client: "Client", model: str, version: str) -> "pb.Version":
    """Return a version by number or alias. Raises NotFoundError."""
    if version.isdigit():
        return await client.registry.get_version(model, version=int(version))
    return await client.registry.get_version(model, alias=version)


async def download_files(client: "Client", files: list[dict[str, Any]], directory: Path) -> list[Path]:
    """Download files of a manifest to a directory and return their paths.

    Raises:
        DataLossError: A file does not have its digest, or its path leads out of the directory.
    """
    from tessera.blobs import BlobRef

    written = []
    for file in files:
        relative = PurePosixPath(file["path"])
        if relative.is_absolute() or ".." in relative.parts:  # the registry refuses these; a registry can be wrong
            raise DataLossError(f"the manifest holds a path that leads out of its directory: {file['path']!r}")
        destination = directory / relative
        destination.parent.mkdir(parents=True, exist_ok=True)
        await client.registry.download_file(BlobRef(file["sha256"], file["size_bytes"]), destination)
        written.append(destination)
    return written
