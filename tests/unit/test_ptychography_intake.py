"""Frames that come over a stream are judged as those of files are."""

import numpy as np
import pytest

from services.inference.ptychography.intake import read_frames
from tessera.api.inference.v1 import ptychography_pb2 as pb
from tessera.errors import InvalidArgumentError
from tessera.tensors import to_proto
from tests.fixtures.scans import a_scan


@pytest.mark.parametrize("kind", ["amplitudes", "counts"])
def test_the_first_frames_of_a_stream_are_refused_unless_zero_frequency_is_in_their_centre(kind: str) -> None:
    scan = a_scan()
    patterns = scan.amplitudes if kind == "amplitudes" else np.round(scan.amplitudes**2).astype(np.uint16)
    positions = to_proto(scan.positions)
    found, _ = read_frames(pb.ReconstructionFrames(**{kind: to_proto(patterns)}, positions=positions), 0, 0)
    np.testing.assert_allclose(found, scan.amplitudes, atol=1e-3)
    corner = np.fft.ifftshift(patterns, axes=(-2, -1))
    with pytest.raises(InvalidArgumentError, match="at the corner") as caught:
        read_frames(pb.ReconstructionFrames(**{kind: to_proto(corner)}, positions=positions), 0, 0)
    assert caught.value.field == f"frames.{kind}"
