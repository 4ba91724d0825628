"""Ptychography: networks that turn a diffraction pattern into a patch of the object at once, and engines that iterate over a scan."""

from pathlib import Path

from tessera.tasks import ptychography as task
from trainers.families.ptycho.architectures import ARCHITECTURES
from trainers.families.ptycho.config import PtychoHyperparameters
from trainers.families.ptycho.data import example
from trainers.families.ptycho.training import prepare
from trainers.family import Family, InputRequirement

FAMILY = Family(
    name="ptycho",
    description="Reconstructs an object's amplitude and phase from diffraction patterns of overlapping patches.",
    task=task.NAME,
    task_revision=task.REVISION,
    architectures=ARCHITECTURES,
    hyperparameters=PtychoHyperparameters,
    inputs=(
        InputRequirement("scan", "The scan to learn from, with its probe: .npz, HDF5 (CXI) or safetensors, each also compressed by bzip2."),
        InputRequirement("validation", "A scan to measure on; without one, the right end of the scan is held out for it.", required=False),
    ),
    prepare=prepare,
    example=example,
    card=Path(__file__).with_name("README.md"),
)
