"""The puzzle_cells family: sizes, the seed's overfit tests, metrics, pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tessera.errors import InvalidArgumentError
from tests.fixtures.family import PICTURE, SilentReport
from trainers.families.puzzle_cells import FAMILY, pictures
from trainers.families.puzzle_cells.architectures import ARCHITECTURES
from trainers.families.puzzle_cells.data import spread
from trainers.families.puzzle_cells.training import PuzzleTraining
from trainers.family import Network, predict

PARAMETERS = {"cells_exp3": 85_334, "cells_exp4": 632_566}


@pytest.fixture(scope="module")
def training() -> PuzzleTraining:
    """The photograph in 38 x 25 pieces."""
    return FAMILY.prepare({"picture": PICTURE}, ARCHITECTURES.get("cells_exp4").parse_config({}), FAMILY.parse_hyperparameters({}))


def steps_until(network: Network, training: PuzzleTraining, pieces: list[int], *, loss: float, limit: int) -> int:
    """Train on a few pieces with Adam at 1e-3; return after how many steps all are right and the loss, in eval mode, is below `loss`."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    images, cells = batch = training.batch(pieces)
    for step in range(1, limit + 1):
        optimizer.zero_grad()
        training.loss(network.train(), batch).backward()
        optimizer.step()
        with torch.no_grad():
            right = bool((network.eval()(images).argmax(dim=1) == cells).all())
            if right and float(training.loss(network, batch)) < loss:
                return step
    raise AssertionError(f"not learnt in {limit} steps")


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS.items())
def test_the_parameters_are_exactly_those_of_the_seed(name: str, parameters: int) -> None:
    network = ARCHITECTURES.build(name, {})
    assert network.get_num_total_params() == network.get_num_trainable_params() == parameters


@pytest.mark.parametrize("name", PARAMETERS)
def test_one_piece_is_learnt_in_2000_steps(name: str, training: PuzzleTraining) -> None:
    torch.manual_seed(0)
    steps_until(ARCHITECTURES.build(name, {}), training, [475], loss=0.01, limit=2000)


@pytest.mark.parametrize("name", PARAMETERS)
def test_ten_pieces_are_learnt_in_500_epochs(name: str, training: PuzzleTraining) -> None:
    torch.manual_seed(0)
    steps_until(ARCHITECTURES.build(name, {}), training, spread(950, 10), loss=0.1, limit=500)


def test_a_grid_changes_nothing_but_the_last_layer() -> None:
    assert ARCHITECTURES.build("cells_exp3", {"columns": 4, "rows": 3}).get_num_total_params() == 85_334 - 65 * (950 - 12)


def test_a_grid_of_too_many_cells_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="2 to 10000 cells"):
        ARCHITECTURES.build("cells_exp4", {"columns": 200, "rows": 200})


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_any_picture_and_any_grid_can_be_learnt(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    Image.effect_noise((101, 67), 90).convert(mode).save(path)
    training = FAMILY.prepare({"picture": path}, ARCHITECTURES.get("cells_exp3").parse_config({"columns": 7, "rows": 5}), None)
    images, cells = training.batch(list(range(35)))
    assert (images.shape, cells.tolist()) == ((35, 3, 64, 64), list(range(35)))


@pytest.mark.parametrize("content", [None, b"not a picture"])
def test_an_unreadable_picture_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "picture").write_bytes(content)
    with pytest.raises(InvalidArgumentError) as caught:
        FAMILY.prepare({"picture": tmp_path / "picture"}, ARCHITECTURES.get("cells_exp3").parse_config({}), None)
    assert caught.value.field == "picture"


class Oracle(Network):
    """Names the right cell of the first pieces and the next cell of the others."""

    def __init__(self, images: torch.Tensor, right: int) -> None:
        super().__init__()
        self.images = torch.nn.Parameter(images.flatten(1), requires_grad=False)
        self.right = right

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        nearest = torch.cdist(image.flatten(1), self.images).argmin(dim=1)
        said = torch.where(nearest < self.right, nearest, (nearest + 1) % len(self.images))
        return 20.0 * torch.nn.functional.one_hot(said, len(self.images)) + 10.0 * torch.nn.functional.one_hot(nearest, len(self.images))


@pytest.fixture
def small(tmp_path: Path) -> PuzzleTraining:
    example = FAMILY.example(tmp_path)
    return FAMILY.prepare(example.inputs, ARCHITECTURES.get("cells_exp3").parse_config(example.model_config), None)


def test_metrics_count_all_pieces(small: PuzzleTraining) -> None:
    metrics = small.evaluate(Oracle(small.puzzle.images, right=9))
    assert (metrics["top1"], metrics["top5"]) == (9 / 12, 1.0)
    assert metrics["loss"] == pytest.approx(3 / 12 * 10, rel=1e-2)


def test_a_network_that_always_says_the_same_is_never_right(small: PuzzleTraining) -> None:
    class Constant(Oracle):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(image), 12)

    metrics = small.evaluate(Constant(small.puzzle.images, right=0))
    assert (metrics["top1"], metrics["top5"]) == (0, 0)


def test_robustness_is_measured_under_names_of_its_own(small: PuzzleTraining) -> None:
    metrics = small.measure(Oracle(small.puzzle.images, right=12), SilentReport())
    assert set(metrics) == {"top1", "top5", "loss", "top1_jpeg", "top1_brighter", "top1_shifted"}
    assert all(0 <= value <= 1 for name, value in metrics.items() if name.startswith("top"))
    for images in small.puzzle.disturbed().values():
        assert images.shape == small.puzzle.images.shape
        assert 0 < float((images - small.puzzle.images).abs().mean()) < 0.15


def test_many_inputs_are_predicted_in_batches(small: PuzzleTraining) -> None:
    network = ARCHITECTURES.build("cells_exp3", {"columns": 4, "rows": 3}).eval()
    assert np.allclose(predict(network, small.puzzle.images, batch_size=5), predict(network, small.puzzle.images), atol=1e-5)


def frame_colour(image: Image.Image, cell: int, columns: int, rows: int) -> tuple[int, ...]:
    """The colour in the middle of a cell's upper border."""
    width, height = image.width, image.height - 46
    return image.getpixel((round((cell % columns + 0.5) * width / columns), 46 + round(cell // columns * height / rows)))


def test_the_accuracy_map_frames_right_pieces_green_and_wrong_ones_red() -> None:
    predicted = np.arange(12)
    predicted[5] = 6
    image = pictures.draw_accuracy(Image.new("RGB", (128, 96), "blue"), predicted, 4, 3)
    assert [frame_colour(image, cell, 4, 3) for cell in (4, 5, 6)] == [pictures.GREEN, pictures.RED, pictures.GREEN]


def test_the_heat_map_shows_truth_and_prediction_over_the_picture() -> None:
    probabilities = np.full(12, 0.02)
    probabilities[6] = 1 - 11 * 0.02
    image = pictures.draw_heatmap(Image.new("RGB", (400, 300), "white"), probabilities, 5, 4, 3)
    assert frame_colour(image, 5, 4, 3) == pictures.GREEN
    red, _, blue = image.getpixel((250, 46 + 150))
    assert red > 150 > blue
    red, _, blue = image.getpixel((50, 46 + 50))
    assert blue > red > 100  # dark blue, half transparent over white


@pytest.mark.parametrize(("columns", "rows"), [(38, 25), (4, 3), (2, 1), (1, 30), (100, 2)])
def test_all_pictures_are_drawn_for_any_grid(columns: int, rows: int) -> None:
    cells = columns * rows
    picture = Image.new("RGB", (columns * 8, rows * 8), "grey")
    probabilities = np.random.default_rng(0).dirichlet(np.ones(cells), size=8)
    pieces = [Image.new("RGB", (8, 8), "grey")] * 8
    for image in (
        pictures.draw_accuracy(picture, np.zeros(cells, dtype=np.int64), columns, rows),
        pictures.draw_heatmap(picture, probabilities[0], 0, columns, rows),
        pictures.draw_grid(pieces, probabilities, spread(cells), columns, rows),
    ):
        assert max(image.size) <= 3000


def test_pictures_are_written_under_the_names_of_the_seed(small: PuzzleTraining, tmp_path: Path) -> None:
    network = ARCHITECTURES.build("cells_exp3", {"columns": 4, "rows": 3}).eval()
    paths = small.draw(network, tmp_path, "final")
    assert sorted(path.name for path in paths) == ["final_accuracy.png", "final_grid.png", "final_heatmap.png"]
    for path in paths:
        with Image.open(path) as image:
            image.load()
