"""Pictures of reconstructions show what the numbers say: greys, blanks, hues; and any part of a result can be drawn, odd ones too."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tessera.tasks.ptychography import metrics, pictures

ROWS, COLUMNS = np.indices((48, 64))
OBJECT = (1 + 0.5 * (COLUMNS > 32)) * np.exp(0.8j * (ROWS > 24))


def colours(image: Image.Image) -> set[tuple[int, int, int]]:
    return {colour for _, colour in image.getcolors(1 << 24)}  # type: ignore[union-attr,misc]


def reddish(colour: tuple[int, int, int]) -> bool:
    return colour[0] > 200 and max(colour[1:]) < 150


def share(image: Image.Image, colour: str) -> float:
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
    return float((np.asarray(image) == wanted).all(axis=-1).mean())


def test_what_no_frame_saw_is_blank() -> None:
    weight = np.where(COLUMNS < 32, 1.0, 0.001)
    assert share(pictures.draw_amplitude(OBJECT), pictures.BLANK) == 0
    assert share(pictures.draw_amplitude(OBJECT, weight), pictures.BLANK) > 0.1
    assert share(pictures.draw_phase(OBJECT, weight), pictures.BLANK) > 0.1


def test_objects_are_drawn_with_the_scale_of_the_first() -> None:
    dark = pictures.draw_objects({"truth": OBJECT, "half": 0.5 * OBJECT})
    same = pictures.draw_objects({"truth": OBJECT, "half": OBJECT})
    assert dark.size == same.size
    assert np.asarray(dark).mean() < np.asarray(same).mean()


def test_a_plane_of_phase_is_not_drawn() -> None:
    tilted = OBJECT * np.exp(0.3j * COLUMNS)
    difference = np.asarray(pictures.draw_phase(OBJECT)).astype(int) - np.asarray(pictures.draw_phase(tilted))
    assert np.abs(difference).mean() < 1


def test_the_modes_of_a_probe_stand_side_by_side_and_their_hue_is_their_phase() -> None:
    one = np.ones((1, 16, 16), complex)
    assert pictures.draw_probe(np.concatenate([one, 0.1 * one])).width > pictures.draw_probe(one).width
    assert (255, 25, 25) in colours(pictures.draw_probe(one))
    assert (25, 255, 255) in colours(pictures.draw_probe(-one))


def test_corrected_positions_have_lines_that_others_have_not() -> None:
    positions = np.stack([COLUMNS.ravel()[::50], ROWS.ravel()[::50]], axis=1).astype(float)
    assert not any(reddish(colour) for colour in colours(pictures.draw_positions(positions, positions + 1e-4)))
    assert any(reddish(colour) for colour in colours(pictures.draw_positions(positions, positions + 0.5)))


def test_curves_are_drawn_with_their_thresholds() -> None:
    frc = metrics.correlate(OBJECT, OBJECT + 0.1 * np.random.default_rng(0).standard_normal(OBJECT.shape))
    assert pictures.draw_correlations({"network": frc, "engine": frc}).size == pictures.draw_errors({"rpie": [0.2, 0.1]}).size
    assert pictures.draw_errors({"rpie": [0.2, 0.1], "long": np.full(100, 0.3)}, target=0.0165).size[0] > 600


@pytest.mark.parametrize("empty", [np.zeros((32, 32), complex), np.ones((32, 32), complex)])
def test_a_flat_object_can_be_drawn(empty: np.ndarray) -> None:
    assert pictures.draw_amplitude(empty, np.zeros((32, 32))).size == pictures.draw_phase(empty).size
    assert pictures.draw_probe(0 * empty[None]).width > 0


def test_threads_draw_the_same_at_the_same_time() -> None:
    with ThreadPoolExecutor(4) as threads:
        drawn = list(threads.map(lambda _: pictures.draw_amplitude(OBJECT).tobytes(), range(4)))
    assert len(set(drawn)) == 1
