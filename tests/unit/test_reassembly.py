"""What holds of every reassembly, in numpy and in PyTorch: what changes nothing, what changes what, what is refused, and gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.errors import InvalidArgumentError, ResourceExhaustedError
from tessera.tasks.ptychography.reassembly import probe_weights
from tessera.tasks.ptychography.reassembly import reassemble as reassemble_numpy
from tests.fixtures.patches import gaussian_probe, random_offsets, random_patches
from trainers.families.ptycho.reassembly import reassemble as reassemble_torch

SIZE, CROP = 8, 6


def in_torch(patches, offsets, crop, **more):
    tensors = {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in more.items()}
    return tuple(tensor.numpy() for tensor in reassemble_torch(torch.from_numpy(patches), torch.from_numpy(offsets), crop, **tensors))


each = pytest.mark.parametrize("reassemble", [reassemble_numpy, in_torch], ids=["numpy", "torch"])
# Eighths of a pixel, and a power of two of them, so that means are exact and a property is not a matter of rounding.
eighths = st.integers(-200, 200).map(lambda count: count / 8)
offset_lists = st.sampled_from([1, 2, 4, 8]).flatmap(lambda count: st.lists(st.tuples(eighths, eighths), min_size=count, max_size=count))


@each
@settings(max_examples=25)
@given(offsets=offset_lists, shift=st.tuples(eighths, eighths))
def test_translating_all_offsets_changes_nothing(reassemble, offsets, shift):
    offsets, patches = np.array(offsets), random_patches(len(offsets), SIZE)
    expected, weight = reassemble(patches, offsets, CROP)
    found, found_weight = reassemble(patches, offsets + shift, CROP)
    assert np.array_equal(found, expected)
    assert np.array_equal(found_weight, weight)


@each
@settings(max_examples=25)
@given(offsets=offset_lists, seed=st.integers(0, 1000))
def test_permuting_patches_changes_nothing(reassemble, offsets, seed):
    offsets, patches = np.array(offsets), random_patches(len(offsets), SIZE)
    order = np.random.default_rng(seed).permutation(len(offsets))
    expected, weight = reassemble(patches, offsets, CROP)
    found, found_weight = reassemble(patches[order], offsets[order], CROP)
    assert np.allclose(found, expected, atol=1e-5)
    assert np.allclose(found_weight, weight, atol=1e-5)


@each
@settings(max_examples=25)
@given(x=st.integers(-20, 20), y=st.integers(-20, 20))
def test_moving_one_patch_right_and_down_moves_it_right_and_down(reassemble, x, y):
    """A dark patch stays; the bright pixel of the other one, at row 3 and column 5, goes with its offset, component 0 along columns."""
    patches = np.zeros((2, SIZE, SIZE), np.complex64)
    patches[1, 3, 5] = 1 - 2j
    found, _ = reassemble(patches, np.array([[0.0, 0.0], [2 * x, 2 * y]]), CROP, canvas=64)
    (row,), (column,) = np.nonzero(found)
    # The patch's centre, pixel 4, lies (x, y) from the mean of the two positions, which is pixel 32.
    assert (row - 32, column - 32) == (3 - 4 + y, 5 - 4 + x)


@each
def test_an_object_cut_to_patches_comes_back(reassemble):
    world = random_patches(1, 60)[0]
    offsets = np.array([(x, y) for x in range(0, 39, 3) for y in range(0, 44, 4)], float)
    patches = np.stack([world[int(y) : int(y) + 16, int(x) : int(x) + 16] for x, y in offsets])
    found, weight = reassemble(patches, offsets, 12, weights=probe_weights(gaussian_probe(16)))
    # The mean of the offsets is (18, 20), and the centre of a patch there is the world's pixel at row 28, column 26.
    middle = found.shape[0] // 2
    assert np.abs(found[middle - 20 : middle + 20, middle - 18 : middle + 18] - world[8:48, 8:44]).max() < 1e-5
    assert weight[middle, middle] > 0


@each
@pytest.mark.parametrize("canvas", [5, 20, 27, 64])
def test_any_canvas_shows_the_same_object_around_the_same_centre(reassemble, canvas):
    patches, offsets = random_patches(9, SIZE), random_offsets(9, 8)
    whole, whole_weight = reassemble(patches, offsets, CROP, canvas=100)
    found, weight = reassemble(patches, offsets, CROP, canvas=canvas)
    window = slice(50 - canvas // 2, 50 - canvas // 2 + canvas)
    assert np.array_equal(found, whole[window, window])
    assert np.array_equal(weight, whole_weight[window, window])


@each
def test_weights_prefer_the_patch_that_was_lit(reassemble):
    patches = np.ones((2, SIZE, SIZE), np.complex64) * np.array([1, 3], np.complex64)[:, None, None]
    weights = np.zeros((SIZE, SIZE), np.float32)
    weights[:, :4], weights[:, 4:] = 1, 0.25
    found, weight = reassemble(patches, np.array([[0.0, 0.0], [4.0, 0.0]]), SIZE, weights=weights)
    middle = found.shape[0] // 2
    # Left of the middle the first patch is dim and the second one bright.
    assert weight[middle, middle] == pytest.approx(1.25)
    assert found[middle, middle] == pytest.approx((0.25 * 1 + 1 * 3) / 1.25)


@each
@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"patches": np.zeros((0, 8, 8), np.complex64), "offsets": np.zeros((0, 2))}, "patches"),
        ({"patches": np.zeros((2, 8, 9), np.complex64)}, "patches"),
        ({"offsets": np.zeros((3, 2))}, "offsets"),
        ({"offsets": np.zeros((2, 1))}, "offsets"),
        ({"crop": 9}, "crop"),
        ({"crop": 0}, "crop"),
        ({"weights": np.ones((6, 6), np.float32)}, "weights"),
    ],
)
def test_what_does_not_fit_together_is_refused_by_name(reassemble, changed, field):
    arguments = {"patches": np.ones((2, 8, 8), np.complex64), "offsets": np.array([[0.0, 0.0], [3.0, 1.0]]), "crop": 6, **changed}
    with pytest.raises(InvalidArgumentError) as error:
        reassemble(**arguments)
    assert error.value.field == field


@each
@pytest.mark.parametrize("far", [np.nan, np.inf, 5e4])
def test_offsets_that_are_not_finite_or_far_apart_are_refused_without_the_memory(reassemble, far):
    with pytest.raises((InvalidArgumentError, ResourceExhaustedError)) as error:
        reassemble(np.ones((2, 8, 8), np.complex64), np.array([[0.0, 0.0], [far, 1.0]]), 6)
    assert error.value.field == "offsets"


def test_weights_of_a_probe_are_its_intensity_over_all_modes():
    probe = gaussian_probe(16)
    weights = probe_weights(probe)
    assert weights.max() == 1
    assert np.allclose(weights / weights[8, 8], (np.abs(probe) ** 2).sum(0) / (np.abs(probe[:, 8, 8]) ** 2).sum(), rtol=1e-5)
    for wrong in (np.zeros((1, 8, 8)), np.full((1, 8, 8), np.nan)):
        with pytest.raises(InvalidArgumentError, match="probe"):
            probe_weights(wrong.astype(np.complex64))


@pytest.mark.parametrize("canvas", [None, 7])
def test_gradients_reach_patches_weights_and_offsets(canvas):
    random = torch.Generator().manual_seed(0)
    patches = torch.randn((2, 2, 4, 4), dtype=torch.complex128, generator=random, requires_grad=True)
    weights = (torch.rand((4, 4), dtype=torch.float64, generator=random) + 0.5).requires_grad_()
    # Places between pixels, where a bilinear translation has a derivative.
    offsets = torch.tensor([[[0.25, 0.5], [3.375, 1.25]], [[-1.5, 2.75], [0.125, 0.25]]], dtype=torch.float64, requires_grad=True)

    def object_of(patches, offsets, weights):
        return reassemble_torch(patches, offsets, 3, weights=weights, canvas=canvas)

    assert torch.autograd.gradcheck(object_of, (patches, offsets.detach(), weights), fast_mode=True)
    # Steps that are a multiple of the grid on which patches are placed.
    assert torch.autograd.gradcheck(object_of, (patches.detach(), offsets, weights.detach()), eps=2**-12, atol=1e-4)


def test_with_a_canvas_given_everything_stays_on_the_device_of_the_patches():
    """A "meta" tensor has no values: it can be neither read back nor mixed with tensors of another device."""
    patches, offsets, weights = (torch.empty(shape, device="meta") for shape in ((3, 5, 8, 8), (3, 5, 2), (8, 8)))
    found, weight = reassemble_torch(patches.to(torch.complex64), offsets, 6, weights=weights, canvas=20)
    assert (found.device.type, found.shape, found.dtype) == ("meta", (3, 20, 20), torch.complex64)
    assert (weight.device.type, weight.shape, weight.dtype) == ("meta", (3, 20, 20), torch.float32)
