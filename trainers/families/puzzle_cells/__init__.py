"""Classifiers of puzzle cells: a small network learns one picture by heart and says where each of its pieces belongs."""

from pathlib import Path

from tessera.tasks import puzzle_cells as task
from trainers.families.puzzle_cells.architectures import ARCHITECTURES
from trainers.families.puzzle_cells.config import PuzzleHyperparameters
from trainers.families.puzzle_cells.data import example
from trainers.families.puzzle_cells.training import prepare
from trainers.family import Family, InputRequirement

FAMILY = Family(
    name="puzzle_cells",
    description="Learns one picture, cut by a grid, by heart and says to which cell a piece belongs.",
    task=task.NAME,
    task_revision=task.REVISION,
    architectures=ARCHITECTURES,
    hyperparameters=PuzzleHyperparameters,
    inputs=(InputRequirement("picture", "The assembled puzzle: a PNG, JPEG or WebP file, at most 10 MB and 16 million pixels."),),
    prepare=prepare,
    example=example,
    card=Path(__file__).with_name("README.md"),
)
