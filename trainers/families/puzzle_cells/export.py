"""What an exported version of this family carries: tensors, grid, golden example."""

from collections.abc import Iterator

from tessera.tasks import puzzle_cells as task
from trainers.families.puzzle_cells.data import Puzzle, spread
from trainers.family import Arrays, Export

_BATCH = 128


def export(puzzle: Puzzle) -> Export:
    """Return it for the puzzle that was learnt: eight pieces as golden example, all pieces to compare graph and network on."""

    def all_pieces() -> Iterator[Arrays]:
        for images in puzzle.images.split(_BATCH):
            yield {"image": images.numpy()}

    return Export(
        signature=task.signature(puzzle.columns, puzzle.rows),
        golden={"image": puzzle.images[spread(len(puzzle.images))].numpy()},
        check=all_pieces,
        mappings={"grid": {"columns": puzzle.columns, "rows": puzzle.rows}},
    )
