"""`tessera experiments`: the record of every training run."""

from typing import TYPE_CHECKING, Annotated

import typer

from tessera.cli import output
from tessera.cli.connection import run
from tessera.cli.options import Filter, Json, OrderBy

if TYPE_CHECKING:
    from tessera.api.registry.v1 import registry_pb2 as pb
    from tessera.client import Client

app = typer.Typer(no_args_is_help=True, help="Experiments: the record of every training run.")


@app.command("list")
def list_(ctx: typer.Context, filter: Filter = "", order_by: OrderBy = "create_time desc", json: Json = False) -> None:  # noqa: A002
    """List the experiments."""
    from tessera.cli.plain import enum_name

    async def main(client: "Client") -> "list[pb.Experiment]":
        return [experiment async for experiment in client.registry.list_experiments(filter, order_by)]

    experiments = run(ctx, main)
    if json:
        output.print_json(experiments)
        return
    rows = [
        (
            e.id,
            e.model,
            e.architecture,
            enum_name(e, "state"),
            e.version or "-",
            output.metrics_text(e.metrics),
            output.time_text(e.create_time),
        )
        for e in experiments
    ]
    output.print_table(
        ("EXPERIMENT", "MODEL", "ARCHITECTURE", "STATE", "VERSION", "METRICS", "STARTED"),
        rows,
        empty="no experiments yet; `tessera train` makes one",
    )


@app.command()
def show(ctx: typer.Context, experiment: Annotated[str, typer.Argument(help="Its id.")], json: Json = False) -> None:
    """Show one experiment with its metrics per epoch."""
    from tessera.cli.plain import enum_name, plain

    found = run(ctx, lambda client: client.registry.get_experiment(experiment))
    if json:
        output.print_json(found)
        return
    output.print_fields(
        {
            "experiment": found.id,
            "model": found.model,
            "family": f"{found.family}, {found.architecture}",
            "state": enum_name(found, "state"),
            "error": found.error or "-",
            "version": found.version or "-",
            "model config": plain(found.model_config),
            "hyperparameters": plain(found.hyperparameters),
            "commit": found.git_commit or "-",
            "metrics": output.metrics_text(found.metrics),
        }
    )
    output.print_table(
        ("EPOCH", "METRICS"), [(epoch.epoch, output.metrics_text(epoch.metrics)) for epoch in found.history], empty="no epoch has ended"
    )
