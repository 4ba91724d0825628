"""The family's pictures: plain functions of a picture and arrays of numbers.

Colours mean the same everywhere: green is right or true, red is wrong or predicted; a heat map runs from dark blue (0) over yellow
(half of the largest probability) to red (the largest).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

GREEN = (0, 200, 60)
RED = (235, 30, 30)
_INK = (30, 30, 36)
_PAPER = (250, 250, 248)
_LINE = (255, 255, 255)
_LEAST_CELL = 28
_LONGEST_SIDE = 2400
_STOPS = (0.0, 0.25, 0.5, 0.75, 1.0)
_COLOURS = ((8, 12, 92), (30, 110, 200), (250, 225, 40), (250, 120, 20), (200, 0, 10))
_PIECE = 210
_MAP = 380
_GAP = 18
_TITLE = 34
_HEADER = 46
_LEGEND = "T: true cell, P: predicted cell, as (column,row). Map: probability of every cell, blue 0, red the largest"


def draw_accuracy(picture: Image.Image, predicted: NDArray[np.integer], columns: int, rows: int) -> Image.Image:
    """Draw which pieces were placed right.

    Args:
        picture: The puzzle, RGB.
        predicted: Cell predicted for the piece of every cell, shape (columns * rows,).
        columns: Of the grid.
        rows: Of the grid.

    Returns:
        The picture under the grid, each cell with a green border (right) or a red one (wrong), and a line that counts.
    """
    canvas = _enlarge(picture, columns, rows)
    _draw_grid_lines(canvas, columns, rows)
    wrong = [cell for cell in range(columns * rows) if predicted[cell] != cell]
    for cell in sorted(set(range(columns * rows)) - set(wrong)) + wrong:
        _frame(canvas, _box(canvas.size, cell, columns, rows), RED if predicted[cell] != cell else GREEN, width=2)
    right = columns * rows - len(wrong)
    return _with_header(
        canvas, f"{right} of {columns * rows} pieces in their cell ({right / (columns * rows):.1%}), {len(wrong)} elsewhere"
    )


def draw_heatmap(picture: Image.Image, probabilities: NDArray[np.floating], truth: int, columns: int, rows: int) -> Image.Image:
    """Draw where the network believes that one piece belongs.

    Args:
        picture: The puzzle, RGB.
        probabilities: Of all cells, shape (columns * rows,).
        truth: Cell of the piece.
        columns: Of the grid.
        rows: Of the grid.

    Returns:
        The heat map over the pale picture; the true cell has a green border, the predicted one a red border inside it.
    """
    background = _enlarge(picture, columns, rows)
    heat = _heat(probabilities, columns, rows).resize(background.size, Image.Resampling.NEAREST)
    # Cells that the network believes in hide more of the picture than those it rules out.
    opacity = 0.5 + 0.4 * _share(probabilities).reshape(rows, columns)
    mask = Image.fromarray((255 * opacity).astype(np.uint8)).resize(background.size, Image.Resampling.NEAREST)
    canvas = Image.composite(heat, background, mask)
    predicted = int(probabilities.argmax())
    _frame(canvas, _box(canvas.size, truth, columns, rows), GREEN, width=7, outset=4)
    _frame(canvas, _box(canvas.size, predicted, columns, rows), RED, width=3, outset=-3)
    header = f"piece {truth}: {_title(truth, predicted, columns)}, probability {float(probabilities[predicted]):.3f}"
    return _with_header(canvas, header)


def draw_grid(
    pieces: Sequence[Image.Image], probabilities: NDArray[np.floating], truths: Sequence[int], columns: int, rows: int
) -> Image.Image:
    """Draw pieces beside their heat maps, two pairs a line.

    Args:
        pieces: RGB; eight make four lines.
        probabilities: Of all cells for every piece, shape (pieces, columns * rows).
        truths: Cells of the pieces.
        columns: Of the grid.
        rows: Of the grid.

    Returns:
        Pairs of piece and heat map under a title `T:(column,row) P:(column,row) OK` (or X), green if right, red if wrong, below a legend.
    """
    height = max(_PIECE, round(_MAP * min(rows / columns, 1.5)))
    pair = (_PIECE + _GAP // 2 + _MAP + _GAP, _TITLE + height + _GAP)
    canvas = Image.new("RGB", (2 * pair[0] + _GAP, -(-len(pieces) // 2) * pair[1] + _GAP), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for position, (piece, row_of_probabilities, truth) in enumerate(zip(pieces, probabilities, truths, strict=True)):
        left = _GAP + position % 2 * pair[0]
        top = _GAP + position // 2 * pair[1]
        predicted = int(row_of_probabilities.argmax())
        draw.text((left, top), _title(truth, predicted, columns), fill=GREEN if truth == predicted else RED, font=_font(22))
        _paste(canvas, piece, (left, top + _TITLE), (_PIECE, height), Image.Resampling.BICUBIC)
        heat = _heat(row_of_probabilities, columns, rows)
        _paste(canvas, heat, (left + _PIECE + _GAP // 2, top + _TITLE), (_MAP, height), Image.Resampling.NEAREST)
    return _with_header(canvas, _LEGEND)


def _title(truth: int, predicted: int, columns: int) -> str:
    """Return `T:(column,row) P:(column,row) OK` or the same with X."""
    places = [f"({cell % columns},{cell // columns})" for cell in (truth, predicted)]
    return f"T:{places[0]} P:{places[1]} {'OK' if truth == predicted else 'X'}"


def _share(probabilities: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return probabilities relative to the largest."""
    return probabilities / probabilities.max()


def _heat(probabilities: NDArray[np.floating], columns: int, rows: int) -> Image.Image:
    """Return one pixel a cell, coloured by its share of the largest probability."""
    share = _share(probabilities).reshape(rows, columns)
    channels = [np.interp(share, _STOPS, [colour[channel] for colour in _COLOURS]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, axis=2).astype(np.uint8))


def _enlarge(picture: Image.Image, columns: int, rows: int) -> Image.Image:
    """Return a copy in which a border around a cell leaves room for what is inside, and which still fits a screen."""
    width, height = picture.size
    factor = max(1.0, _LEAST_CELL * columns / width, _LEAST_CELL * rows / height)
    factor = min(factor, _LONGEST_SIDE / max(width, height))
    return picture.resize((round(width * factor), round(height * factor)), Image.Resampling.LANCZOS)


def _box(size: tuple[int, int], cell: int, columns: int, rows: int) -> tuple[int, int, int, int]:
    """Return the pixels of a cell: left, top, right, bottom, the last two inclusive."""
    width, height = size
    column, row = cell % columns, cell // columns
    left, top = round(column * width / columns), round(row * height / rows)
    return left, top, round((column + 1) * width / columns) - 1, round((row + 1) * height / rows) - 1


def _frame(canvas: Image.Image, box: tuple[int, int, int, int], colour: tuple[int, int, int], *, width: int, outset: int = 0) -> None:
    """Draw a border just inside a box, or `outset` pixels further out (further in, if negative)."""
    left, top, right, bottom = box
    outline = (left - outset, top - outset, right + outset, bottom + outset)
    ImageDraw.Draw(canvas).rectangle(outline, outline=colour, width=width)


def _draw_grid_lines(canvas: Image.Image, columns: int, rows: int) -> None:
    """Draw thin lines between the cells."""
    draw = ImageDraw.Draw(canvas)
    width, height = canvas.size
    for column in range(1, columns):
        x = round(column * width / columns)
        draw.line((x, 0, x, height), fill=_LINE)
    for row in range(1, rows):
        y = round(row * height / rows)
        draw.line((0, y, width, y), fill=_LINE)


def _paste(canvas: Image.Image, image: Image.Image, corner: tuple[int, int], room: tuple[int, int], resample: Image.Resampling) -> None:
    """Paste an image as large as fits the room, keeping its proportions, in its middle."""
    factor = min(room[0] / image.width, room[1] / image.height)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    place = (corner[0] + (room[0] - size[0]) // 2, corner[1] + (room[1] - size[1]) // 2)
    canvas.paste(image.resize(size, resample), place)


def _with_header(image: Image.Image, text: str) -> Image.Image:
    """Return the image below a line of text."""
    canvas = Image.new("RGB", (image.width, image.height + _HEADER), _PAPER)
    canvas.paste(image, (0, _HEADER))
    ImageDraw.Draw(canvas).text((12, _HEADER // 2), text, fill=_INK, font=_font(22), anchor="lm")
    return canvas


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font that comes with Pillow, so that pictures look the same on every machine."""
    return ImageFont.load_default(size)
