"""`tessera samples`: what models took and gave in real life, where inference servers were told to keep it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tessera.cli import output
from tessera.cli.connection import run
from tessera.cli.options import Json, Model, complete_models

if TYPE_CHECKING:
    from datetime import datetime

    from tessera.client import Client
    from tessera.samples import Sample

app = typer.Typer(no_args_is_help=True, help="Samples: what models took and gave, where servers keep it (docs/guides/observability.md).")

Number = Annotated[int, typer.Option("--version", help="Only of this version.", min=0, show_default="all")]


@app.command("list")
def list_(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="Only of this model.", autocompletion=complete_models, show_default="all")] = "",
    version: Number = 0,
    json: Json = False,
) -> None:
    """List the samples that are kept now, the oldest of each version first."""
    samples = run(ctx, lambda client: _find(client, model, version))
    if json:
        output.print_json([_facts(sample) for sample in samples])
        return
    output.print_table(
        ("MODEL", "VERSION", "TIME", "TRACE", "KEPT UNTIL"),
        [(s.name.model, s.name.version, _local(s.name.time), s.name.trace_id, _local(s.expire_time)) for s in samples],
        empty="no samples; inference servers keep some with TESSERA_INFERENCE_SAMPLING__RATIO=0.001",
    )


@app.command()
def download(
    ctx: typer.Context,
    model: Model,
    *,
    version: Number = 0,
    limit: Annotated[int, typer.Option("--limit", help="Most files; the newest are taken.", min=1)] = 100,
    directory: Annotated[Path, typer.Option("--to", help="Directory to write to.", file_okay=False)] = Path(),
    json: Json = False,
) -> None:
    """Download samples: safetensors files with inputs, outputs, and what else is known in their header."""

    async def main(client: "Client") -> list[Path]:
        newest = sorted(await _find(client, model, version), key=lambda sample: sample.name.time)[-limit:]
        directory.mkdir(parents=True, exist_ok=True)
        files = [directory / sample.file_name for sample in newest]
        for sample, file in zip(newest, files, strict=True):
            await client.registry.download_file(await client.registry.find_blob(sample.sha256), file)
        return files

    files = run(ctx, main)
    if json:
        output.print_json({"files": [str(file) for file in files]})
    else:
        output.stdout().print("\n".join(str(file) for file in files), soft_wrap=True, highlight=False)


async def _find(client: "Client", model: str, version: int) -> "list[Sample]":
    from tessera.samples import Sample, prefix

    leases = client.registry.list_leases(prefix(model, version if model else 0))
    samples = [sample async for lease in leases if (sample := Sample.of(lease))]
    return [sample for sample in samples if version in (0, sample.name.version)]


def _local(time: "datetime") -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def _facts(sample: "Sample") -> dict[str, object]:
    return {
        "model": sample.name.model,
        "version": sample.name.version,
        "time": sample.name.time.isoformat(),
        "trace_id": sample.name.trace_id,
        "sha256": sample.sha256,
        "expire_time": sample.expire_time.isoformat(),
    }
