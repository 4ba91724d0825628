"""`tessera gc`: give the disk space of what nothing refers to back."""

from typing import Annotated

import typer

from tessera.cli import output
from tessera.cli.connection import run
from tessera.cli.options import Json

HOUR_S = 3600.0


def gc(
    ctx: typer.Context,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    grace: Annotated[
        float | None,
        typer.Option("--grace", metavar="HOURS", help="Spare what was touched in the last hours; a minute at least.", show_default="24"),
    ] = None,
    json: Json = False,
) -> None:
    """Remove the files in the registry that no version, no job and no server needs any more."""
    grace_s = None if grace is None else grace * HOUR_S
    removed = run(ctx, lambda client: client.registry.collect_garbage(grace_s, dry_run=dry_run))
    if json:
        output.print_json(removed)
        return
    files = f"{removed.blobs_removed} files ({output.size_text(removed.bytes_freed)}) and {removed.uploads_removed} unfinished uploads"
    output.note(f"would remove {files}" if dry_run else f"removed {files}")
