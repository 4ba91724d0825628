"""Iterative engines: they find the object, on its feet and at its place, and stay with it; their graphs are the textbook's formulas."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch

from tessera.tasks.ptychography.iterating import Estimate, Options, iterate_here
from tessera.tasks.ptychography.physics import far_field, model_amplitudes, read_patches
from tessera.tasks.ptychography.scan import Scan
from tests.fixtures.scans import SIZE, small_scan
from trainers.families.ptycho import FAMILY
from trainers.families.ptycho.engines.engine import Engine
from trainers.families.ptycho.engines.rpie import Rpie
from trainers.families.ptycho.engines.subject import compute_step, example_step
from trainers.families.ptycho.engines.waves import Misfit, Windows


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Frames this small are computed faster by one thread than by several that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


by_engine = pytest.mark.parametrize("name", ["rpie", "lsqml"])


def engine(name: str) -> Engine:
    built = FAMILY.architectures.build(name, {"size": SIZE})
    assert isinstance(built, Engine)
    return built


def run(name: str, scan: Scan, *, probe: np.ndarray | None = None, **options: float) -> Estimate:
    estimate = Estimate.begin(scan.positions, scan.probe if probe is None else probe, scan.amplitudes)
    iterate_here(estimate, scan.amplitudes, partial(compute_step, engine(name)), Options(**{"batch": 10, **options}))  # type: ignore[arg-type]
    return estimate


def likeness(scan: Scan, estimate: Estimate, *, turned: bool = False) -> float:
    """How much the estimate looks like the truth at the same place, 0 to 1: |correlation| of what the frames saw, without the means."""
    left, top = np.rint(-estimate.origin).astype(int)
    rows, columns = scan.truth.shape
    found = estimate.object[top : top + rows, left : left + columns][10:-10, 10:-10]
    truth = scan.truth[10:-10, 10:-10]
    if turned:
        truth = truth[::-1, ::-1]
    found, truth = found - found.mean(), truth - truth.mean()
    return float(abs(np.vdot(found, truth)) / np.linalg.norm(found) / np.linalg.norm(truth))


@by_engine
def test_the_object_is_found_where_it_is_and_not_turned_around(name: str) -> None:
    scan = small_scan(photons=1e6)
    estimate = run(name, scan, iterations=25, fixed_probe=True)
    assert estimate.errors[0] > 10 * estimate.errors[-1]
    assert likeness(scan, estimate) > 0.9
    assert likeness(scan, estimate, turned=True) < 0.5


@by_engine
def test_a_probe_that_is_only_guessed_is_improved_too(name: str) -> None:
    scan = small_scan(photons=1e6)
    shift = np.exp(0.6j * np.sin(np.linspace(0, 3, SIZE)))
    guess = (scan.probe * shift).astype(np.complex64)
    fixed, free = (run(name, scan, probe=guess, iterations=15, fixed_probe=fixed) for fixed in (True, False))
    assert free.errors[-1] < fixed.errors[-1] / 2
    np.testing.assert_allclose(fixed.probe / np.linalg.norm(fixed.probe), guess / np.linalg.norm(guess), atol=1e-5)


@by_engine
def test_a_long_run_does_not_diverge_and_keeps_the_scale_of_the_probe(name: str) -> None:
    scan = small_scan(frames=40)
    begun = Estimate.begin(scan.positions, scan.probe, scan.amplitudes)
    estimate = run(name, scan, iterations=40)
    assert estimate.errors[-1] <= 1.1 * min(estimate.errors)
    assert np.linalg.norm(estimate.probe) == pytest.approx(np.linalg.norm(begun.probe), rel=1e-3)


@by_engine
def test_positions_that_are_wrong_are_put_right(name: str) -> None:
    scan = small_scan(photons=1e6)
    wrong = scan.positions + np.random.default_rng(1).normal(0, 0.7, scan.positions.shape)
    estimate = Estimate.begin(wrong, scan.probe, scan.amplitudes)
    options = Options(iterations=30, batch=10, correct_positions=True, fixed_probe=True)
    iterate_here(estimate, scan.amplitudes, partial(compute_step, engine(name)), options)
    before, after = (spread - spread.mean(axis=0) for spread in (wrong - scan.positions, estimate.positions - scan.positions))
    assert after.std() < 0.65 * before.std()


@by_engine
def test_swapped_axes_do_not_fit(name: str) -> None:
    scan = small_scan(photons=1e6)
    right = run(name, scan, iterations=10)
    swapped = run(name, Scan(scan.amplitudes, scan.positions[:, ::-1].copy(), scan.probe), iterations=10)
    assert swapped.errors[-1] > 3 * right.errors[-1]


@by_engine
def test_frames_without_a_count_change_nothing_and_break_nothing(name: str) -> None:
    inputs = example_step(SIZE, modes=1, frames=4, rows=30, columns=33)
    inputs["amplitudes"][:, 2] = 0
    outputs = compute_step(engine(name), inputs)
    assert all(np.isfinite(array).all() for array in outputs.values())
    assert outputs["powers"][0, 2] == 0


@by_engine
def test_steps_of_no_length_leave_everything_as_it_is(name: str) -> None:
    inputs = example_step(SIZE, modes=2, frames=4, rows=30, columns=33) | {"steps": np.zeros((1, 3), np.float32)}
    outputs = compute_step(engine(name), inputs)
    for before, after in (("object", "new_object"), ("probe", "new_probe"), ("corners", "new_corners")):
        np.testing.assert_allclose(outputs[after], inputs[before], rtol=1e-6)


@by_engine
def test_a_step_measures_the_frames_before_it_improves_them(name: str) -> None:
    inputs = example_step(SIZE, modes=2, frames=5, rows=30, columns=33)
    outputs = compute_step(engine(name), inputs)
    obj, probe = (inputs[key][0][..., 0, :, :] + 1j * inputs[key][0][..., 1, :, :] for key in ("object", "probe"))
    modelled = model_amplitudes(obj, probe, inputs["corners"][0])
    expected = ((modelled - inputs["amplitudes"][0]) ** 2).sum((1, 2))
    np.testing.assert_allclose(outputs["residuals"][0], expected, rtol=1e-4)
    np.testing.assert_allclose(outputs["powers"][0], (inputs["amplitudes"][0] ** 2).sum((1, 2)), rtol=1e-5)


def test_with_alpha_1_and_one_frame_rpie_is_the_textbooks_epie() -> None:
    inputs = example_step(SIZE, modes=1, frames=1, rows=30, columns=33)
    inputs["corners"] = np.array([[[5.0, 9.0]]], np.float32)
    outputs = compute_step(Rpie(1.0, 1.0), inputs)

    obj, probe = (inputs[key][0][..., 0, :, :] + 1j * inputs[key][0][..., 1, :, :] for key in ("object", "probe"))
    probe = probe[0]
    window = np.s_[9 : 9 + SIZE, 5 : 5 + SIZE]
    wave = probe * obj[window]
    far = np.fft.fft2(wave)
    wanted = np.fft.ifftshift(inputs["amplitudes"][0, 0]) * SIZE * np.exp(1j * np.angle(far))
    lack = np.fft.ifft2(wanted) - wave
    new_obj, new_probe = obj.copy(), probe + obj[window].conj() * lack / (np.abs(obj[window]) ** 2).max()
    new_obj[window] += probe.conj() * lack / (np.abs(probe) ** 2).max()
    gain = np.linalg.norm(probe) / np.linalg.norm(new_probe)

    for name, expected in (("new_object", new_obj / gain), ("new_probe", new_probe * gain)):
        found = outputs[name][0].reshape(2, *expected.shape)
        np.testing.assert_allclose(found[0] + 1j * found[1], expected, atol=2e-5)


def test_windows_read_as_the_task_does_and_add_up_is_the_transpose() -> None:
    random = np.random.default_rng(3)
    obj = (random.normal(size=(40, 37)) + 1j * random.normal(size=(40, 37))).astype(np.complex64)
    corners = (1 + 18 * random.random((6, 2))).astype(np.float32)
    windows = Windows.at(torch.from_numpy(corners), SIZE, (40, 37))
    patches = windows.read(torch.from_numpy(obj))
    np.testing.assert_allclose(patches.numpy(), read_patches(obj, corners, SIZE), atol=1e-5)
    others = torch.randn(6, SIZE, SIZE, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    there = torch.vdot(patches.flatten(), others.flatten())
    back = torch.vdot(torch.from_numpy(obj).flatten(), windows.add_up(others).flatten())
    torch.testing.assert_close(there, back, rtol=1e-4, atol=1e-4)


def test_waves_that_get_what_they_lack_have_the_recorded_amplitudes() -> None:
    generator = torch.Generator().manual_seed(0)
    waves = torch.randn(3, 2, SIZE, SIZE, dtype=torch.complex64, generator=generator)
    amplitudes = torch.rand(3, SIZE, SIZE, generator=generator)
    lack = Misfit.of(waves, amplitudes).lack_bmnn
    reached = np.sqrt((np.abs(far_field((waves + lack).numpy())) ** 2).sum(1))
    np.testing.assert_allclose(reached, amplitudes.numpy(), atol=1e-4)
