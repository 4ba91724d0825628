"""Metrics of reconstructions: what a scan cannot know does not count, and everything else does, in the units that they say."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography import metrics
from tessera.tasks.ptychography.alignment import LARGEST_SHIFT, field_of_view, find_shift, match_scale, remove_plane, scanned, shift, trim

RANDOM = np.random.default_rng()


@pytest.fixture(autouse=True)
def same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test the same random numbers, whatever ran before it."""
    monkeypatch.setattr(f"{__name__}.RANDOM", np.random.default_rng(7))


def smooth(side: int = 96, sigma: float = 2.0) -> np.ndarray:
    """A complex object with detail down to about `sigma` pixels; phases within +-1."""
    amplitude = gaussian_filter(RANDOM.standard_normal((side, side)), sigma)
    phase = gaussian_filter(RANDOM.standard_normal((side, side)), sigma)
    return (1 + 0.2 * amplitude / np.abs(amplitude).max()) * np.exp(1j * phase / np.abs(phase).max())


def ramp(side: int, x: float, y: float) -> np.ndarray:
    rows, columns = np.indices((side, side))
    return np.exp(1j * (0.7 + x * columns + y * rows))


def noisy(truth: np.ndarray, level: float) -> np.ndarray:
    return truth + level * (RANDOM.standard_normal(truth.shape) + 1j * RANDOM.standard_normal(truth.shape))


def test_no_plane_is_seen_in_sharp_edges_whose_amplitude_and_phase_go_together() -> None:
    rows, columns = np.indices((96, 96)) - 48
    bright = np.sin(24 * np.arctan2(rows, columns)) > 0
    spokes = np.where(bright, 1.0, 0.5) * np.exp(1.1j * np.rot90(bright, 2).astype(float))
    assert np.ptp(np.angle(remove_plane(spokes))) < 1.3, "two phases, 1.1 apart, as before"


def test_a_plane_that_wraps_many_times_is_removed() -> None:
    truth = remove_plane(smooth())
    assert np.abs(remove_plane(truth * ramp(96, 0.9, -0.4)) - truth).max() < 1e-4


def test_the_scale_becomes_that_of_the_truth() -> None:
    truth = smooth()
    assert np.allclose(match_scale(truth * 17, truth), truth)


@pytest.mark.parametrize("moved", [(0.0, 0.0), (1.5, -2.25), (-3.0, 0.5)])
def test_the_shift_between_two_objects_is_found_as_x_and_y(moved: tuple[float, float]) -> None:
    truth = smooth()
    assert find_shift(shift(truth, *moved), truth) == pytest.approx((-moved[0], -moved[1]), abs=0.05)


def test_an_object_that_seems_to_be_very_far_off_is_not_moved() -> None:
    truth = smooth()
    assert find_shift(np.roll(truth, 2 * int(LARGEST_SHIFT), 1), truth) == (0.0, 0.0)


def test_what_a_scan_cannot_know_costs_nothing() -> None:
    truth = smooth()
    found = metrics.compare(shift(3.0 * truth * ramp(96, 0.05, -0.08), 1.25, -0.5), truth)
    assert found.amplitude_mae < 2e-3
    assert found.phase_mae < 1e-2
    assert found.amplitude_ssim > 0.99
    assert found.correlation.frc50 > 0.3


def test_a_shift_counts_where_objects_are_said_to_be_registered() -> None:
    truth = smooth()
    moved = np.roll(truth, 2, 1)
    assert metrics.compare(moved, truth, registered=True).phase_mae > 5 * metrics.compare(moved, truth).phase_mae


def test_the_peak_of_the_psnr_is_the_datas_own() -> None:
    truth = smooth()
    wrong = truth + 0.01 * np.exp(1j * np.angle(truth)) * np.where(np.indices(truth.shape).sum(0) % 2, 1, -1)
    expected = 20 * np.log10(np.abs(remove_plane(truth)).max() / 0.01)
    assert metrics.compare(wrong, truth, registered=True).amplitude_psnr == pytest.approx(expected, abs=0.05)
    assert metrics.compare(1e3 * wrong, 1e3 * truth, registered=True).amplitude_psnr == pytest.approx(expected, abs=0.05)


def test_equal_objects_are_alike_at_every_frequency() -> None:
    found = metrics.compare(smooth(), smooth())
    assert found.correlation.frc50 < 0.2
    same = metrics.correlate(truth := smooth(sigma=0.5), truth)
    assert np.allclose(same.values, 1)
    assert (same.frc50, same.frc_half_bit) == (0.5, 0.5)


def test_independent_noise_is_below_the_half_bit_threshold_at_once() -> None:
    found = metrics.correlate(noisy(np.zeros((128, 128)), 1), noisy(np.zeros((128, 128)), 1))
    assert found.frc_half_bit < 0.05
    assert np.abs(found.values[20:]).max() < 0.25


def test_noise_white_against_a_smooth_object_crosses_where_their_powers_are_equal() -> None:
    truth = smooth(256, 2.0)
    level = 0.02
    found = metrics.correlate(noisy(truth, level), noisy(truth, level))
    window = np.outer(np.hanning(256), np.hanning(256))
    power = np.abs(np.fft.fft2((truth - truth.mean()) * window)) ** 2
    radius = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
    ring = np.rint(radius * 256).astype(int)
    by_ring = np.bincount(ring.ravel(), power.ravel())[1:129] / np.bincount(ring.ravel())[1:129]
    crossing = found.frequencies[np.flatnonzero(by_ring < 2 * level**2 * (window**2).sum())[0]]
    assert found.frc50 == pytest.approx(crossing, abs=0.02)


def test_the_crossing_lies_between_the_rings() -> None:
    found = metrics.Correlation(np.array([0.1, 0.2, 0.3]), np.array([0.9, 0.6, 0.2]), np.full(3, 0.4))
    assert found.frc50 == pytest.approx(0.225)
    assert found.frc_half_bit == pytest.approx(0.25)
    assert metrics.Correlation(np.array([0.25, 0.5]), np.array([0.1, 0.9]), np.full(2, 0.4)).frc50 == 0


def test_half_a_scan_against_the_other_half_needs_no_truth() -> None:
    first, second = metrics.halves(101)
    assert sorted([*first, *second]) == list(range(101))
    assert (len(first), len(second)) == (50, 51)
    truth = smooth(128)
    rough = metrics.correlate_halves(noisy(truth, 0.2), 5 * noisy(truth, 0.2) * ramp(128, 0.1, 0))
    fine = metrics.correlate_halves(noisy(truth, 0.01), noisy(truth, 0.01))
    assert 0 < rough.frc_half_bit < fine.frc_half_bit


def test_object_and_truth_are_cut_to_the_centres_of_the_frames() -> None:
    truth = smooth(96)
    positions = np.stack(np.meshgrid(np.linspace(20, 70, 11), np.linspace(30, 61.5, 8)), axis=-1).reshape(-1, 2)
    array = shift(truth, -0.5, -0.25)[8:90, 4:92]  # its pixel 0 is at (4.5, 8.25) of the truth
    cut, right = scanned(array, (4.5, 8.25), positions, truth)
    assert cut.shape == right.shape == (32, 51)
    assert np.shares_memory(right, truth)
    assert np.abs(cut - right).max() < 0.01
    assert np.array_equal(scanned(truth[8:, 4:], (4.0, 8.0), positions, truth)[0], right)


@pytest.mark.parametrize(("layout", "share"), [("raster", 1.0), ("random", 1.0), ("spiral", 0.83)])
def test_only_where_frames_overlap_is_seen(layout: str, share: float) -> None:
    index = np.arange(400)
    radius, angle = np.sqrt(index / 400), index * 2.39996
    layouts = {
        "raster": np.stack(np.divmod(index, 20), axis=1) / 9.5 - 1,
        "random": np.random.default_rng(3).uniform(-1, 1, (400, 2)),
        "spiral": np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1),
    }
    least, greatest = field_of_view(layouts[layout] * [100, 60] + [200, 300])
    assert (greatest + least) / 2 == pytest.approx([200, 300], abs=4)
    assert (greatest - least) / 2 == pytest.approx([share * 100, share * 60], rel=0.06)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda t: metrics.compare(t[:20], t), "must be equal"),
        (lambda t: metrics.compare(t[:8, :8], t[:8, :8]), "at least 16 x 16"),
        (lambda t: metrics.compare(np.where(t.real > 1, np.nan, t), t), "object has values that are not finite"),
        (lambda t: metrics.compare(t, 0 * t), "truth is zero"),
        (lambda t: metrics.compare(t, t, border=41), "border is 41"),
        (lambda t: trim(t, -1), "border is -1"),
        (lambda t: metrics.correlate(t, t[:20]), "must be equal"),
        (lambda t: metrics.halves(3), "at least 4"),
        (lambda t: scanned(t, (0.0, 0.0), np.array([[500.0, 500.0], [600.0, 600.0]]), t), "pixels of the truth"),
    ],
)
def test_what_cannot_be_compared_is_said(call: object, named: str) -> None:
    with pytest.raises(InvalidArgumentError, match=named):
        call(smooth())  # type: ignore[operator]


def test_what_equals_the_truth_has_a_finite_psnr_whatever_the_peak() -> None:
    truth = 3 * smooth(32)
    assert np.isfinite(list(metrics.compare(truth, truth).figures().values())).all()


def test_an_object_of_zeros_has_figures_too() -> None:
    figures = metrics.compare(np.zeros((32, 32), complex), smooth(32)).figures()
    assert np.isfinite(list(figures.values())).all()
    assert figures["frc50"] == 0
