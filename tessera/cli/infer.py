"""`tessera infer`: any model in plain tensors."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tessera.cli import output
from tessera.cli.connection import run
from tessera.cli.options import Json, Model, Runtime
from tessera.names import DEFAULT_ALIAS

if TYPE_CHECKING:
    from tessera.client import Client
    from tessera.client.tensor_calls import Inferred


def infer(
    ctx: typer.Context,
    model: Model,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT...", help="NAME=FILE.npy or FILE.npz; the first axis is the batch.")],
    *,
    outputs: Annotated[list[str] | None, typer.Option("--output", help="An output to answer; all of them by default.")] = None,
    version: Annotated[int | None, typer.Option("--version", min=1, help="An exact version.", show_default="the alias")] = None,
    alias: Annotated[str, typer.Option("--alias", help="Which version, by alias.")] = DEFAULT_ALIAS,
    runtime: Runtime = "",
    save: Annotated[Path | None, typer.Option("--save", help="Write the outputs there: .npz, or .npy for one.", dir_okay=False)] = None,
    json: Json = False,
) -> None:
    """Ask any model in plain tensors, as numpy keeps them in files."""
    from tessera.cli.arrays import load_arrays, save_arrays, shown

    arrays = load_arrays(inputs)

    async def main(client: "Client") -> "Inferred":
        chosen = None if version is not None else alias
        return await client.inference.infer(model, arrays, version=version, alias=chosen, outputs=outputs or (), runtime=runtime)

    answer = run(ctx, main)
    if save:
        save_arrays(save, answer.outputs)
    if json:
        values = {name: array.tolist() for name, array in answer.outputs.items()}
        output.print_json({"model": answer.model, "version": answer.version, "runtime": answer.runtime, "outputs": values})
        return
    rows = [(name, str(array.dtype), list(array.shape), shown(array)) for name, array in answer.outputs.items()]
    output.print_table(("OUTPUT", "TYPE", "SHAPE", "VALUES"), rows)
    output.note(f"answered by {answer.model} version {answer.version} on {answer.runtime}")
