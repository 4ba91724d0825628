"""PuzzleService: where a jigsaw piece belongs."""

from collections.abc import Iterable
from typing import NamedTuple

import grpc
import numpy as np
from numpy.typing import NDArray

from model_store.manifest import Manifest
from services.inference.decoding import decode
from services.inference.options import call_options
from services.inference.routing import Router
from services.inference.served import ServedTask
from tessera.api.inference.v1.puzzle_pb2 import CellCandidate, ClassifyCellRequest, ClassifyCellResponse
from tessera.api.inference.v1.puzzle_pb2_grpc import PuzzleServiceServicer
from tessera.errors import FailedPreconditionError, InvalidArgumentError
from tessera.tasks import puzzle_cells
from tessera.tensors import from_proto

Call = grpc.aio.ServicerContext[ClassifyCellRequest, ClassifyCellResponse]


class Grid(NamedTuple):
    """The grid of a puzzle, in cells."""

    columns: int
    rows: int


def grid_of(manifest: Manifest) -> Grid:
    """Return the grid that a version of this task was trained for.

    Raises:
        FailedPreconditionError: The manifest does not say, or its tensors are not those of the task for this grid.
    """
    match manifest.mappings.get("grid"):
        case {"columns": int(columns), "rows": int(rows)}:
            return Grid(columns, rows)
    raise FailedPreconditionError(f"the manifest of {manifest.model} lacks mappings.grid with columns and rows")


def check(manifest: Manifest) -> None:
    """Raise FailedPreconditionError if a manifest does not describe a model of this task."""
    try:
        signature = puzzle_cells.signature(*grid_of(manifest))
    except InvalidArgumentError as error:
        raise FailedPreconditionError(f"the manifest's mappings.grid is {error.message}") from error
    expected = [(spec.name, spec.data_type, spec.shape[1:]) for spec in (*signature.inputs, *signature.outputs)]
    declared = [(spec.name, spec.data_type, spec.shape[1:]) for spec in (*manifest.inputs, *manifest.outputs)]
    if declared != expected:
        raise FailedPreconditionError(f"the manifest's tensors are {declared}; the task {puzzle_cells.NAME} has {expected}")


TASK = ServedTask(puzzle_cells.NAME, puzzle_cells.REVISION, check)


class PuzzleServicer(PuzzleServiceServicer):
    """Places pieces.

    Args:
        router: Where models are.
    """

    def __init__(self, router: Router) -> None:
        self._router = router

    async def ClassifyCell(self, request: ClassifyCellRequest, context: Call) -> ClassifyCellResponse:  # noqa: N802 - its name in the API
        """Answer where a piece belongs."""
        with await self._router.begin(request.model, call_options(context)) as prediction:
            prediction.require_task(puzzle_cells.NAME)
            grid = grid_of(prediction.manifest)
            top_k = puzzle_cells.check_top_k(request.top_k, grid.columns, grid.rows)
            piece = await _piece(request)
            outputs = await prediction.compute({"image": piece[np.newaxis]})
            candidates, probabilities = puzzle_cells.postprocess(outputs["logits"][0], grid.columns, grid.rows, top_k)
            response = ClassifyCellResponse(
                candidates=_candidates(candidates),
                columns=grid.columns,
                rows=grid.rows,
                probabilities=probabilities if request.include_probabilities else None,
            )
            prediction.sign(response.answered_by)
            return response


async def _piece(request: ClassifyCellRequest) -> NDArray[np.float32]:
    """Return the piece as model input of shape (3, 64, 64)."""
    match request.WhichOneof("piece"):
        case "image":
            return await decode(request.image, puzzle_cells.preprocess, field="image")
        case "tensor":
            return puzzle_cells.preprocess_tensor(from_proto(request.tensor, "tensor"), field="tensor")
    raise InvalidArgumentError("no piece: set image or tensor", field="piece")


def _candidates(candidates: Iterable[puzzle_cells.Candidate]) -> list[CellCandidate]:
    return [
        CellCandidate(column=cell.column, row=cell.row, index=cell.index, probability=cell.probability, x=cell.x, y=cell.y)
        for cell in candidates
    ]
