"""What is wrong with a scan is named: shapes, values, positions, units, centring, and the order of the axes."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import InvalidArgumentError
from tessera.tasks.ptychography.centring import check_centred, check_corner
from tessera.tasks.ptychography.orientation import check_axes
from tessera.tasks.ptychography.scan import Scan
from tessera.tasks.ptychography.simulation import Layout, beam, simulate
from tessera.tasks.ptychography.validation import check_counts, check_frames, check_positions, check_scan, neighbour_distance
from tests.fixtures.scans import a_scan, an_object


def refused(scan: Scan, field: str = "scan.positions") -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        check_scan(scan, trust_positions=True)
    assert caught.value.field == field
    return str(caught.value)


def with_amplitudes(change: float, *where: int) -> Scan:
    amplitudes = a_scan().amplitudes.copy()
    amplitudes[where] = change
    return replace(a_scan(), amplitudes=amplitudes)


def with_positions(positions: np.ndarray) -> Scan:
    return replace(a_scan(), positions=positions, truth=None)


@pytest.mark.parametrize("layout", ["raster", "fermat", "random"])
def test_simulated_scans_are_valid(layout: Layout) -> None:
    check_scan(a_scan(layout=layout))


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "NaN or infinity in frame 7"), (np.inf, "NaN or infinity in frame 7"), (-1.0, "frame 7 holds -1")],
)
def test_frames_with_wrong_values_are_named(value: float, message: str) -> None:
    assert message in refused(with_amplitudes(value, 7, 3, 3), "scan.amplitudes")


def test_frames_without_a_count_are_named() -> None:
    assert "frame 7 holds no counts at all" in refused(with_amplitudes(0, 7), "scan.amplitudes")


def test_frames_that_come_in_parts_are_named_by_their_number_in_the_scan() -> None:
    with pytest.raises(InvalidArgumentError, match="frame 107;"):
        check_frames(with_amplitudes(np.nan, 7, 0, 0).amplitudes, first=100)


def test_counts_in_the_place_of_amplitudes_are_named() -> None:
    scan = a_scan()
    assert "these are counts" in refused(replace(scan, amplitudes=np.round(scan.amplitudes**2)), "scan.amplitudes")


def test_amplitudes_in_the_place_of_counts_are_named() -> None:
    check_counts(np.round(a_scan().amplitudes ** 2))
    with pytest.raises(InvalidArgumentError, match="these are amplitudes"):
        check_counts(a_scan().amplitudes)


def test_a_scan_of_one_frame_is_refused() -> None:
    scan = a_scan()
    assert "at least 2" in refused(Scan(scan.amplitudes[:1], scan.positions[:1]))


def test_equal_positions_are_refused() -> None:
    assert "all 36 positions are equal" in refused(with_positions(np.full((36, 2), 5.0)))


def test_positions_that_are_no_numbers_are_named() -> None:
    positions = a_scan().positions.copy()
    positions[7, 1] = np.nan
    assert "position 7 is " in refused(with_positions(positions))


@pytest.mark.parametrize(("unit", "message"), [(1e-8, "divide metres or micrometres"), (30.0, "are these pixels?")])
def test_positions_in_other_units_than_pixels_are_named(unit: float, message: str) -> None:
    assert message in refused(with_positions(a_scan().positions * unit))


def test_a_position_off_the_grid_is_named() -> None:
    positions = a_scan().positions.copy()
    positions[7] = 5000, 20
    assert "position 7 (5000, 20) overlaps with no other" in refused(with_positions(positions))
    assert "outside of the object, which has 64 columns and 48 rows" in refused(replace(a_scan(), positions=a_scan().positions + 40))


def test_a_scan_that_would_need_an_object_beyond_memory_is_refused() -> None:
    line = np.stack([np.arange(0, 40_000, 8.0), np.zeros(5000)], axis=1)
    with pytest.raises(InvalidArgumentError, match="at most 8176 are possible"):
        check_positions(line, 16)


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (np.ones((1, 8, 8)), "8 x 8 pixels, but the frames 16 x 16"),
        (np.zeros((1, 16, 16)), "0 everywhere"),
        (np.full((1, 16, 16), np.nan), "NaN"),
        (np.ones((16, 16)), "modes"),
    ],
)
def test_a_probe_that_does_not_fit_is_named(probe: np.ndarray, message: str) -> None:
    assert message in refused(replace(a_scan(), probe=probe.astype(np.complex64)), "scan.probe")


@pytest.mark.parametrize(
    ("frames", "positions", "message"),
    [
        ((2, 16, 18), (2, 2), r"\(M, N, N\)"),
        ((2, 15, 15), (2, 2), "even number"),
        ((2, 2048, 2048), (2, 2), "even number"),
        ((2, 16, 16), (3, 2), "2 frames but 3 positions"),
        ((2, 16, 16), (2, 3), r"\(M, 2\)"),
    ],
)
def test_shapes_that_do_not_fit_are_named(frames: tuple[int, ...], positions: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        check_scan(Scan(np.broadcast_to(np.float32(1), frames), np.zeros(positions)))


@pytest.mark.parametrize(("axes", "message"), [((1, 2), "at the corner"), ((1,), "edge of the rows"), ((2,), "edge of the columns")])
def test_frames_that_were_not_shifted_are_named(axes: tuple[int, ...], message: str) -> None:
    scan = a_scan()
    assert message in refused(replace(scan, amplitudes=np.fft.fftshift(scan.amplitudes, axes=axes)), "scan.amplitudes")


@given(seed=st.integers(0, 2**32 - 1), photons=st.floats(100, 1e6), curvature=st.floats(0, 4), frames=st.integers(2, 20))
def test_centring_is_told_for_any_beam_and_noise(seed: int, photons: float, curvature: float, frames: int) -> None:
    probe = beam(16, curvature=curvature)
    centred = simulate(an_object(40, 40, seed), size=16, frames=frames, photons=photons, seed=seed, probe=probe).amplitudes
    corner = np.fft.ifftshift(centred, axes=(-2, -1))
    check_centred(centred)
    check_corner(corner**2)
    with pytest.raises(InvalidArgumentError, match="at the corner"):
        check_centred(corner)
    with pytest.raises(InvalidArgumentError, match="in the centre"):
        check_corner(centred**2)


def test_frames_that_are_alike_everywhere_are_not_judged() -> None:
    check_centred(np.ones((4, 16, 16), np.float32))
    check_corner(np.ones((4, 16, 16), np.float32))


@pytest.mark.parametrize(
    ("turn", "name"),
    [
        (((0, 1), (1, 0)), r"swapped, \(y, x\)"),
        (((-1, 0), (0, 1)), "with one axis mirrored"),
        (((1, 0), (0, -1)), "with one axis mirrored"),
        (((0, 1), (-1, 0)), "swapped and one mirrored"),
    ],
)
def test_swapped_and_mirrored_axes_are_named(turn: tuple[tuple[int, int], ...], name: str) -> None:
    scan = a_scan(frames=64, size=32)
    assert scan.probe is not None
    with pytest.raises(InvalidArgumentError, match=name) as caught:
        check_axes(scan.amplitudes, scan.positions @ np.array(turn).T, scan.probe, "spec.inputs.scan")
    assert caught.value.field == "spec.inputs.scan.positions"


def test_axes_are_not_judged_where_nobody_can_tell() -> None:
    flat = simulate(np.ones((64, 64), np.complex64), size=16, frames=16, layout="raster")
    assert flat.probe is not None
    check_axes(flat.amplitudes, flat.positions[:, ::-1], flat.probe)
    swapped = replace(a_scan(frames=64, size=32), probe=None, truth=None)
    check_scan(replace(swapped, positions=swapped.positions[:, ::-1]))


def test_a_scan_of_two_far_islands_is_judged_in_little_memory() -> None:
    scan = a_scan()
    assert scan.probe is not None
    islands = scan.positions + np.where(np.arange(36) < 18, 0, 30_000)[:, None]
    tracemalloc.start()
    check_axes(scan.amplitudes, islands, scan.probe)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


def test_the_distance_of_neighbours_is_that_of_the_grid() -> None:
    x, y = np.meshgrid(np.arange(10) * 7.0, np.arange(10) * 9.0)
    assert neighbour_distance(np.stack([x.ravel(), y.ravel()], axis=1)) == 7
