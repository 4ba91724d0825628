"""Simulated scans are what their frames, positions, probe and truth say together."""

import numpy as np
import pytest
from PIL import Image

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.simulation import Layout, beam, object_from_picture, patches_at, simulate
from tests.fixtures.scans import an_object

LAYOUTS: list[Layout] = ["raster", "fermat", "random"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_noise_frames_are_the_forward_model_at_their_positions(layout: Layout) -> None:
    truth = an_object(50, 60)
    scan = simulate(truth, size=16, frames=9, layout=layout, noise=False, photons=1000)
    assert scan.probe is not None
    for amplitude, (x, y) in zip(scan.amplitudes, scan.positions, strict=True):
        column, row = int(x) - 8, int(y) - 8
        fx, fy = x % 1, y % 1
        parts = [
            weight * truth[row + dy : row + dy + 16, column + dx : column + dx + 16]
            for dy, wy in ((0, 1 - fy), (1, fy))
            for dx, wx in ((0, 1 - fx), (1, fx))
            for weight in (wx * wy,)
        ]
        expected = np.abs(np.fft.fftshift(np.fft.fft2(scan.probe[0] * np.sum(parts, axis=0)))) / 16
        np.testing.assert_allclose(amplitude, expected, atol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frames_lie_all_over_the_object_and_never_beyond_it(layout: Layout) -> None:
    scan = simulate(an_object(64, 100), size=16, frames=200, layout=layout, jitter=3)
    assert scan.positions.min(axis=0) == pytest.approx([10, 10], abs=3)
    assert scan.positions.max(axis=0) == pytest.approx([89, 53], abs=3)
    patches_at(an_object(64, 100), scan.positions, 16)
    assert len(np.unique(scan.positions, axis=0)) > 190


def test_counts_are_whole_and_as_many_as_the_photons() -> None:
    scan = simulate(np.ones((40, 40), np.complex64), size=16, frames=50, photons=1e4)
    counts = scan.amplitudes.astype(np.float64) ** 2
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-3)
    totals = counts.sum(axis=(1, 2))
    assert totals.mean() == pytest.approx(1e4, rel=0.01)
    assert totals.std() == pytest.approx(100, rel=0.5)


def test_the_same_seed_gives_the_same_scan_and_another_gives_another() -> None:
    first, again, other = (simulate(an_object(40, 40), size=16, frames=9, layout="random", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.amplitudes, again.amplitudes)
    assert not np.array_equal(first.positions, other.positions)


def test_wrong_positions_are_those_of_the_scan_and_not_of_the_frames() -> None:
    right, wrong = (simulate(an_object(60, 60), size=16, frames=100, noise=False, position_error=error) for error in (0, 2))
    np.testing.assert_array_equal(right.amplitudes, wrong.amplitudes)
    assert (wrong.positions - right.positions).std() == pytest.approx(2, rel=0.2)


def test_modes_of_a_probe_add_their_counts() -> None:
    truth, modes = an_object(40, 40), np.concatenate([beam(16), beam(16, diameter=0.2) * 0.5])
    both = simulate(truth, size=16, frames=4, noise=False, probe=modes, photons=125)
    apart = [
        simulate(truth, size=16, frames=4, noise=False, probe=mode, photons=power) for mode, power in zip(modes, (100, 25), strict=True)
    ]
    np.testing.assert_allclose(both.amplitudes**2, sum(scan.amplitudes**2 for scan in apart), atol=1e-3)


def test_an_object_shows_the_picture_in_its_amplitude_and_turned_in_its_phase() -> None:
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5)
    made = object_from_picture(picture, 6, 8, contrast=0.5, phase=2.0)
    grey = np.asarray(picture) / 255
    np.testing.assert_allclose(np.abs(made), 0.5 + 0.5 * grey, atol=1e-6)
    np.testing.assert_allclose(np.angle(made), 2 * (grey[::-1, ::-1] - 0.5), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 60}, "66 or more"),
        ({"frames": 1}, "at least 2"),
        ({"photons": 0}, "more than 0"),
        ({"photons": float("nan")}, "more than 0"),
        ({"probe": np.ones((8, 8), np.complex64)}, "a probe of 8 x 8"),
    ],
)
def test_what_cannot_be_simulated_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        simulate(an_object(40, 40), **({"size": 16, "frames": 4} | changes))  # type: ignore[arg-type]
