"""`tessera families`: what can be trained."""

import typer

from tessera.cli import output
from tessera.cli.connection import run
from tessera.cli.options import Json


def families(ctx: typer.Context, json: Json = False) -> None:
    """Show what can be trained: families with their architectures, settings and inputs."""
    found = run(ctx, lambda client: client.trainer.list_families())
    if json:
        output.print_json(found)
        return
    rows = [
        (family.name, architecture.name, f"{architecture.parameters:,}" if architecture.parameters else "-", architecture.description)
        for family in found
        for architecture in family.architectures
    ]
    output.print_table(
        ("FAMILY", "ARCHITECTURE", "PARAMETERS", "DESCRIPTION"), rows, empty="no worker has announced itself yet; `tessera status` shows it"
    )
    for family in found:
        inputs = ", ".join(f"{i.name}{'' if i.required else ' (optional)'}" for i in family.inputs)
        settings = ", ".join(sorted(family.hyperparameters_schema.fields["properties"].struct_value.fields))
        output.note(f"{family.name}: --input {inputs}; --set {settings}")
