"""Settings of the family: the grid shapes the network, the hyperparameters its training."""

from pydantic import Field

from tessera.tasks import puzzle_cells as task
from trainers.architectures import ArchitectureConfig
from trainers.family import Hyperparameters


class GridConfig(ArchitectureConfig):
    """The puzzle's grid, which is the size of the network's output."""

    columns: int = Field(38, ge=1, le=task.MAX_CELLS, description="Cells from left to right.")
    rows: int = Field(25, ge=1, le=task.MAX_CELLS, description="Cells from top to bottom.")

    @property
    def cells(self) -> int:
        """Number of cells; InvalidArgumentError if the grid is too large or has a single cell."""
        task.check_grid(self.columns, self.rows)
        return self.columns * self.rows


class PuzzleHyperparameters(Hyperparameters):
    """Defaults found by measurement: see the model card."""

    epochs: int = Field(60, ge=1, le=1_000_000, description="Passes over the pieces.")
    learning_rate: float = Field(4e-3, gt=0, le=10, description="Of Adam; the peak, if the schedule is one_cycle.")
