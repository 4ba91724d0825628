"""Offsets are followed from boundary to boundary; where they are lost is named, and nothing is reassembled into one patch's place."""

import numpy as np
import pytest
import torch
from structlog.testing import capture_logs

from tessera.errors import InvalidArgumentError, TesseraError
from tessera.tasks.ptychography.canvas import Canvas
from tessera.tasks.ptychography.offsets import DEBUG_VARIABLE, MAX_UNIQUE, Trail, check_not_collapsed
from tessera.tasks.ptychography.reassembly import reassemble as reassemble_numpy
from tests.fixtures.patches import random_offsets, random_patches
from trainers.families.ptycho.reassembly import reassemble as reassemble_torch


def in_torch(patches, offsets, crop, **more):
    return reassemble_torch(torch.from_numpy(patches), torch.from_numpy(offsets), crop, **more)


each = pytest.mark.parametrize("reassemble", [reassemble_numpy, in_torch], ids=["numpy", "torch"])


def test_a_summary_says_shape_range_spread_and_how_many_differ():
    trail = Trail()
    trail.record("scan", np.array([[1.0, 2.0], [3.0, 2.0], [1.0, 2.0], [3.0, 8.0]]))
    assert str(trail.summaries[0]) == "scan: shape=(4, 2) min=(1, 2) max=(3, 8) std=(1, 2.59808) unique=3"


def test_a_stream_has_the_summary_of_all_its_pieces():
    offsets = random_offsets(500, 40) + 1e6
    whole, stream = Trail(), Trail()
    whole.record("scan", offsets)
    for piece in np.array_split(offsets, 13):
        stream.record("scan", piece)
    (expected,), (found,) = whole.summaries, stream.summaries
    assert (found.shape, found.minimum, found.maximum, found.unique) == (expected.shape, expected.minimum, expected.maximum, 500)
    assert found.std == pytest.approx(expected.std)
    assert expected.std == pytest.approx(tuple(offsets.std(axis=0)))


def test_distinct_offsets_are_counted_up_to_a_bound():
    trail = Trail()
    for _ in range(3):
        trail.record("scan", np.random.default_rng(0).uniform(size=(2 * MAX_UNIQUE, 2)))
    assert trail.summaries[0].unique == MAX_UNIQUE
    assert str(trail.summaries[0]).endswith("or more")


@each
def test_offsets_are_logged_at_each_boundary_when_asked_for(reassemble, monkeypatch):
    patches, offsets = random_patches(4, 8), random_offsets(4, 9)
    with capture_logs() as silent:
        reassemble(patches, offsets, 6)
    assert silent == []
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    with capture_logs() as logs:
        reassemble(patches, offsets, 6)
    assert [log["summary"].split(":")[0] for log in logs] == ["offsets", "centred"]
    assert all("unique=4" in log["summary"] and "std=" in log["summary"] for log in logs)


def test_a_canvas_logs_what_it_is_given(monkeypatch):
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    canvas = Canvas(8, 6)
    with capture_logs() as logs:
        canvas.add(random_patches(2, 8), np.array([[0.0, 0.0], [4.0, 5.0]]))
        canvas.add(random_patches(1, 8), np.array([[9.0, 9.0]]))
    assert [log["summary"].split(" min")[0] for log in logs] == ["canvas: shape=(2, 2)", "canvas: shape=(1, 2)"]


@each
def test_a_scan_that_keeps_its_offsets_passes(reassemble):
    trail, positions = Trail(), random_offsets(20, 30)
    trail.record("scan", positions)
    reassemble(random_patches(20, 8), positions, 6, trail=trail)
    assert [summary.boundary for summary in trail.summaries] == ["scan", "offsets", "centred"]


@each
@pytest.mark.parametrize(
    "lose",
    [
        lambda positions: np.broadcast_to(positions[:1], positions.shape).copy(),
        lambda positions: np.broadcast_to(positions.mean(axis=0), positions.shape).copy(),
        lambda positions: positions * 1e-6,
        lambda positions: positions * (1, 0),
    ],
    ids=["broadcast", "mean", "units", "one component"],
)
def test_offsets_lost_on_the_way_are_an_error_that_names_the_boundary(reassemble, lose):
    trail, positions = Trail(), random_offsets(20, 30)
    trail.record("scan", positions)
    trail.record("grouped", positions - positions.mean(axis=0))
    with pytest.raises(TesseraError, match=r"lost between 'grouped' and 'offsets'.*20 distinct positions cover.*scan: shape") as error:
        reassemble(random_patches(20, 8), lose(positions), 6, trail=trail)
    assert error.value.code == "INTERNAL"


def test_patches_put_onto_one_place_are_an_error_even_if_all_offsets_arrive():
    trail, one = Trail(), np.ones((6, 6))
    trail.record("scan", np.array([[0.0, 0.0], [20.0, 5.0]]))
    with pytest.raises(TesseraError, match="after 'scan', by what puts patches on the canvas"):
        check_not_collapsed(trail, np.pad(one, 10), one)


def test_a_canvas_that_was_given_one_place_for_all_names_the_boundary():
    trail, positions = Trail(), random_offsets(5, 30)
    canvas = Canvas(8, 6, trail=trail)
    for patch, position in zip(random_patches(5, 8), positions, strict=True):
        trail.record("scan", position[None])
        canvas.add(patch[None], positions[:1])
    with pytest.raises(TesseraError, match="between 'scan' and 'canvas'"):
        canvas.check_not_collapsed()


def test_a_canvas_that_was_given_all_places_passes():
    trail, positions = Trail(), random_offsets(5, 30)
    trail.record("scan", positions)
    canvas = Canvas(8, 6, trail=trail)
    canvas.add(random_patches(5, 8), positions)
    canvas.check_not_collapsed()


@each
def test_positions_in_metres_are_an_error_of_the_scan(reassemble):
    trail, positions = Trail(), random_offsets(20, 30) * 1e-8
    trail.record("scan", positions)
    with pytest.raises(InvalidArgumentError, match=r"20 distinct positions lie within one pixel.*metres") as error:
        reassemble(random_patches(20, 8), positions, 6, trail=trail)
    assert error.value.field == "positions"


@each
def test_one_patch_is_not_a_collapse(reassemble):
    trail = Trail()
    trail.record("scan", np.array([[3.3, 4.4]]))
    assert reassemble(random_patches(1, 8), np.array([[3.3, 4.4]]), 6, trail=trail)[0].shape == (6, 6)


@each
def test_weights_that_vanish_at_the_rim_are_not_a_collapse(reassemble):
    weights, positions = np.zeros((8, 8), np.float32), np.array([[0.0, 0.0], [4.0, 0.0], [0.5, 4.0]])
    weights[3:5, 3:5] = 1
    trail = Trail()
    trail.record("scan", positions)
    given = weights if reassemble is reassemble_numpy else torch.from_numpy(weights)
    _, weight = reassemble(random_patches(3, 8), positions, 6, weights=given, trail=trail)
    assert (np.asarray(weight) > 0).sum() > 8


def test_a_trail_follows_one_group():
    with pytest.raises(InvalidArgumentError, match="one group"):
        in_torch(random_patches(4, 8).reshape(2, 2, 8, 8), random_offsets(4, 9).reshape(2, 2, 2), 6, trail=Trail())
