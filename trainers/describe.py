"""Prints the families that this installation can train, as a JSON list of `trainer.v1.Family`: `python -m trainers.describe`.

A program of its own, so that the worker's supervisor learns about families without loading a tensor library.
"""

import json
import sys

from google.protobuf import json_format

from tessera.api.trainer.v1 import trainer_pb2
from trainers.families import find_families
from trainers.family import Family


def describe(family: Family) -> trainer_pb2.Family:
    """Return what a worker announces about a family."""
    message = trainer_pb2.Family(name=family.name, description=family.description, task=family.task)
    message.hyperparameters_schema.update(family.hyperparameters.model_json_schema())
    for architecture in family.architectures:
        entry = message.architectures.add(
            name=architecture.name, description=architecture.description, parameters=architecture.parameters()
        )
        entry.model_config_schema.update(architecture.config.model_json_schema())
    for requirement in family.inputs:
        message.inputs.add(name=requirement.name, description=requirement.description, required=requirement.required)
    return message


def main() -> None:
    """Print the list on standard output."""
    families = [json_format.MessageToDict(describe(family)) for family in find_families().values()]
    json.dump(families, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
