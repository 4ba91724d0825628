"""The benchmark of ptychography: its own ePIE reconstructs, and its rows say what they must."""

from pathlib import Path

import numpy as np

from benchmarks.ptychography.here import engine, plain_epie, reconstruct_here
from benchmarks.ptychography.rows import Row
from tessera.tasks.ptychography.scan import Scan
from tessera.tasks.ptychography.simulation import simulate


def scan() -> Scan:
    y, x = np.indices((40, 40)) / 40
    truth = (0.6 + 0.4 * np.cos(9 * x)) * np.exp(1j * np.sin(7 * y + 3 * x))
    return simulate(truth.astype(np.complex64), size=16, frames=64, layout="raster", photons=1e6)


def test_the_plain_epie_and_an_engine_of_the_family_come_to_the_target() -> None:
    for improve in (plain_epie(most=30, target=0.02), engine("rpie", 16, most=30, target=0.02)):
        done = reconstruct_here(scan(), "engine", improve)
        assert done.errors[-1] <= 0.02 < done.errors[0]
        assert done.iterations == len(done.errors) - 1 < 30
        assert done.comparison().amplitude_psnr > 15


def test_a_row_says_what_was_reached_how_fast_and_where_it_is_drawn() -> None:
    done = reconstruct_here(scan(), "engine", plain_epie(most=2, target=0.0))
    row = Row("real", "plain ePIE", done, [Path("phase.png")], {"frc50": 0.25}).as_dict()
    assert {"engine", "fourier_error", "iterations", "seconds", "frames_per_s", "pictures"} <= row.keys()
    assert (row["iterations"], row["fourier_error"], row["pictures"], row["frc50"]) == (2, done.errors[-1], ["phase.png"], 0.25)
