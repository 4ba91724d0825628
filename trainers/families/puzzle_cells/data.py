"""The data of the family: one picture, cut into the pieces of a grid."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image, ImageEnhance

from tessera.tasks import puzzle_cells as task
from tessera.tasks.images import load_image
from trainers.family import Example


@dataclass(frozen=True)
class Puzzle:
    """A picture and its pieces; the piece at position i belongs to cell i.

    Attributes:
        picture: RGB.
        digest: sha256 of the picture's file.
        columns: Of the grid.
        rows: Of the grid.
        pieces: RGB, in order of their cells.
        images: The pieces as model input, float32, cells x 3 x 64 x 64.
    """

    picture: Image.Image
    digest: str
    columns: int
    rows: int
    pieces: list[Image.Image]
    images: torch.Tensor

    @classmethod
    def load(cls, path: Path, columns: int, rows: int) -> Self:
        """Read and cut a picture; InvalidArgumentError if it cannot be read, decoded or cut so finely."""
        picture = load_image(path)
        pieces = task.cut(picture, columns, rows)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return cls(picture, digest, columns, rows, pieces, as_input(pieces))

    def disturbed(self) -> dict[str, torch.Tensor]:
        """Return the pieces as model input under small disturbances that training never shows, by name of the disturbance."""
        return {
            "jpeg": as_input([_jpeg(piece) for piece in self.pieces]),
            "brighter": as_input([ImageEnhance.Brightness(piece).enhance(1.1) for piece in self.pieces]),
            "shifted": as_input(task.cut(_shift(self.picture), self.columns, self.rows)),
        }


def example(directory: Path) -> Example:
    """Write a picture of coloured noise, to be cut into 4 x 3 cells."""
    pixels = np.random.default_rng(0).integers(0, 256, size=(6, 8, 3), dtype=np.uint8)
    path = directory / "picture.png"
    Image.fromarray(pixels).resize((128, 96), Image.Resampling.BICUBIC).save(path)
    return Example(inputs={"picture": path}, model_config={"columns": 4, "rows": 3})


def as_input(pieces: list[Image.Image]) -> torch.Tensor:
    """Return pieces as model input, float32, pieces x 3 x 64 x 64."""
    return torch.from_numpy(np.stack([task.preprocess(piece) for piece in pieces]))


def spread(cells: int, count: int = 8) -> list[int]:
    """Return `count` cells spread evenly over a puzzle, repeating none unless it has fewer."""
    return [index * cells // count for index in range(count)]


def _jpeg(piece: Image.Image) -> Image.Image:
    """Return a piece as it comes back from a JPEG file of quality 75."""
    buffer = io.BytesIO()
    piece.save(buffer, format="JPEG", quality=75)
    return Image.open(buffer).convert("RGB")


def _shift(picture: Image.Image) -> Image.Image:
    """Return a picture moved right and down by one pixel, its first row and column doubled."""
    pixels = np.pad(np.asarray(picture), ((1, 0), (1, 0), (0, 0)), mode="edge")
    return Image.fromarray(pixels[:-1, :-1])
