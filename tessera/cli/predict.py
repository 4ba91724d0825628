"""`tessera predict`: where puzzle pieces belong."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tessera.cli import output
from tessera.cli.connection import run
from tessera.cli.options import Json, Model, Runtime
from tessera.errors import InvalidArgumentError
from tessera.names import DEFAULT_ALIAS

if TYPE_CHECKING:
    from tessera.api.inference.v1 import puzzle_pb2 as pb
    from tessera.client import Client


def predict(
    ctx: typer.Context,
    model: Model,
    pieces: Annotated[list[Path], typer.Argument(help="Pictures of pieces, upright: PNG, JPEG or WebP.")],
    *,
    version: Annotated[int | None, typer.Option("--version", min=1, help="An exact version.", show_default="the alias")] = None,
    alias: Annotated[str, typer.Option("--alias", help="Which version, by alias.")] = DEFAULT_ALIAS,
    runtime: Runtime = "",
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="How many cells to answer.")] = 3,
    json: Json = False,
) -> None:
    """Ask where puzzle pieces belong; best cells first."""
    from tessera.cli.plain import plain
    from tessera.cli.train import check_readable

    for piece in pieces:
        check_readable(piece, str(piece))
    images = [piece.read_bytes() for piece in pieces]

    async def ask(client: "Client", piece: Path, image: bytes) -> "pb.ClassifyCellResponse":
        chosen = None if version is not None else alias
        try:
            return await client.inference.classify_cell(image, model, version=version, alias=chosen, top_k=top_k, runtime=runtime)
        except InvalidArgumentError as error:
            if error.field != "image":
                raise
            raise InvalidArgumentError(f"{piece}: {error.message}") from error  # of several files, which one

    async def main(client: "Client") -> "list[pb.ClassifyCellResponse]":
        return [await ask(client, piece, image) for piece, image in zip(pieces, images, strict=True)]

    answers = run(ctx, main)
    if json:
        output.print_json([{"piece": str(piece), **plain(answer)} for piece, answer in zip(pieces, answers, strict=True)])
        return
    rows = [
        (piece, rank, candidate.column, candidate.row, f"{candidate.probability:.1%}", f"{candidate.x:.3f}, {candidate.y:.3f}")
        for piece, answer in zip(pieces, answers, strict=True)
        for rank, candidate in enumerate(answer.candidates, start=1)
    ]
    output.print_table(("PIECE", "RANK", "COLUMN", "ROW", "PROBABILITY", "CENTRE X, Y"), rows)
    answered_by = answers[0].answered_by
    output.note(f"answered by {answered_by.model} version {answered_by.version} on {answered_by.runtime}")
