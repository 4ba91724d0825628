"""The family's `Training`: puts data, loss, metrics, pictures and export together for the shared loop."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch.nn import functional

from trainers.architectures import Network
from trainers.families.puzzle_cells import pictures
from trainers.families.puzzle_cells.config import GridConfig
from trainers.families.puzzle_cells.data import Puzzle, spread
from trainers.families.puzzle_cells.evaluate import evaluate, probabilities, robustness
from trainers.families.puzzle_cells.export import export
from trainers.family import Export, Hyperparameters, Tensors, Training
from trainers.progress import Report


class PuzzleTraining(Training):
    """Learning one puzzle by heart.

    Args:
        puzzle: To be learnt.
    """

    def __init__(self, puzzle: Puzzle) -> None:
        self.puzzle = puzzle
        self.dataset_digest = puzzle.digest
        self._cells = torch.arange(len(puzzle.images))

    def begin(self, network: Network) -> None:
        """Do nothing: the network learns all that it knows."""

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self.puzzle.images)

    def batch(self, indices: list[int]) -> Tensors:
        """Return pieces (float32, N x 3 x 64 x 64) and the cells where they belong (int64, N)."""
        return self.puzzle.images[indices], self._cells[indices]

    def loss(self, network: Network, batch: Tensors) -> torch.Tensor:
        """Return the mean cross entropy over the cells, nats."""
        images, cells = batch
        return functional.cross_entropy(network(images), cells)

    def evaluate(self, network: Network) -> dict[str, float]:
        """Return top-1, top-5 and loss over all pieces."""
        return evaluate(network, self.puzzle)

    def measure(self, network: Network, report: Report) -> dict[str, float]:
        """Return top-1, top-5 and loss over all pieces, and top-1 under disturbances."""
        return evaluate(network, self.puzzle) | robustness(network, self.puzzle)

    def draw(self, network: Network, directory: Path, stem: str) -> list[Path]:
        """Draw the accuracy map, the heat map of piece 0, and eight pieces with their heat maps."""
        puzzle = self.puzzle
        found = probabilities(network, puzzle.images)
        shown = spread(len(puzzle.pieces))
        drawings = {
            "accuracy": pictures.draw_accuracy(puzzle.picture, found.argmax(axis=1), puzzle.columns, puzzle.rows),
            "heatmap": pictures.draw_heatmap(puzzle.picture, found[0], 0, puzzle.columns, puzzle.rows),
            "grid": pictures.draw_grid([puzzle.pieces[cell] for cell in shown], found[shown], shown, puzzle.columns, puzzle.rows),
        }
        paths = []
        for name, drawing in drawings.items():
            paths.append(directory / f"{stem}_{name}.png")
            drawing.save(paths[-1])
        return paths

    def export(self, network: Network) -> Export:
        """Return what the exported version carries."""
        return export(self.puzzle)


def prepare(inputs: Mapping[str, Path], config: GridConfig, hyperparameters: Hyperparameters) -> PuzzleTraining:
    """Read the picture of a job; InvalidArgumentError if it cannot be read, decoded, or cut into so many pieces."""
    return PuzzleTraining(Puzzle.load(inputs["picture"], config.columns, config.rows))
