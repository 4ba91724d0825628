"""Where a training comes from: the commit of its code, and all its settings, those that nobody named too."""

import os
import subprocess
from pathlib import Path

from google.protobuf.struct_pb2 import Struct

from tessera.api.trainer.v1 import trainer_pb2


def git_commit() -> str:
    """Return the commit of the training code, with `-dirty` behind it if files were changed since.

    Outside of a checkout, as in a container, it is what TESSERA_REVISION says; empty if nobody has set that.
    """
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603 - fixed words
    except (OSError, subprocess.SubprocessError):
        return os.environ.get("TESSERA_REVISION", "")


def fill_in_defaults(spec: trainer_pb2.JobSpec, family: trainer_pb2.Family) -> None:
    """Write down the family's default for every setting that a spec leaves out, so that its record tells what it was trained with."""
    _fill_in(spec.hyperparameters, family.hyperparameters_schema)
    for architecture in family.architectures:
        if architecture.name == spec.architecture:
            _fill_in(spec.model_config, architecture.model_config_schema)


def _fill_in(settings: Struct, schema: Struct) -> None:
    if "properties" not in schema:
        return
    for name, rules in schema["properties"].items():
        if name not in settings and "default" in rules:
            settings[name] = rules["default"]
