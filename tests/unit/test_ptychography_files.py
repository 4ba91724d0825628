"""Scans in files: every layout gives the same scan, and what is no scan is refused by name, in bounded memory."""

import bz2
import io
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tessera.errors import FailedPreconditionError, InvalidArgumentError, ResourceExhaustedError, TesseraError
from tessera.tasks.ptychography.files import ScanReader, read_scan, write_scan
from tessera.tasks.ptychography.scan import Scan
from tessera.tasks.ptychography.signatures import to_channels
from tests.fixtures.scans import a_scan

WAVELENGTH, DISTANCE, DETECTOR_PIXEL = 1e-10, 2.0, 50e-6
PLANCK_LIGHT = 6.62607015e-34 * 299792458

Arrays = dict[str, np.ndarray]


def ptychopinn(scan: Scan) -> Arrays:
    assert scan.probe is not None and scan.truth is not None
    x, y = scan.positions.T
    return {"diffraction": scan.amplitudes, "xcoords": x, "ycoords": y, "probeGuess": scan.probe[0], "objectGuess": scan.truth}


def tike(scan: Scan) -> Arrays:
    assert scan.probe is not None
    counts = np.fft.ifftshift(np.round(scan.amplitudes**2), axes=(-2, -1))
    return {"data": counts[None], "scan": scan.positions[None, :, ::-1], "probe": scan.probe[None, None, None]}


def cxi(scan: Scan) -> Arrays:
    pitch = WAVELENGTH * DISTANCE / (scan.size * DETECTOR_PIXEL)
    assert scan.probe is not None
    return {
        "entry_1/data_1/data": np.round(scan.amplitudes**2).astype(np.uint32),
        "entry_1/data_1/translation": np.pad(scan.positions * pitch, ((0, 0), (0, 1))),
        "entry_1/instrument_1/source_1/illumination": scan.probe,
        "entry_1/instrument_1/source_1/energy": np.array(PLANCK_LIGHT / WAVELENGTH),
        "entry_1/instrument_1/detector_1/distance": np.array(DISTANCE),
        "entry_1/instrument_1/detector_1/x_pixel_size": np.array(DETECTOR_PIXEL),
        "entry_1/instrument_1/detector_1/y_pixel_size": np.array(DETECTOR_PIXEL),
    }


def write_npz(path: Path, arrays: Arrays) -> Path:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def write_hdf5(path: Path, arrays: Arrays) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def refused(path: Path, error: type[TesseraError] = InvalidArgumentError) -> str:
    with pytest.raises(error) as caught:
        read_scan(path, trust_positions=True)
    assert caught.value.field.startswith("scan")
    return str(caught.value)


@pytest.mark.parametrize(
    ("write", "layout"), [(write_npz, ptychopinn), (write_npz, tike), (write_hdf5, ptychopinn), (write_hdf5, tike), (write_hdf5, cxi)]
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_layout_gives_the_same_scan(
    tmp_path: Path, write: Callable[[Path, Arrays], Path], layout: Callable[[Scan], Arrays], packed: bool
) -> None:
    scan = a_scan()
    path = write(tmp_path / "scan", layout(scan))  # the name tells nothing, as in a store of blobs
    if packed:
        path.write_bytes(bz2.compress(path.read_bytes()))
    found = read_scan(path, trust_positions=True)
    np.testing.assert_allclose(found.amplitudes, scan.amplitudes, atol=1e-3)
    np.testing.assert_allclose(found.positions, scan.positions, rtol=1e-9)
    np.testing.assert_array_equal(found.probe, scan.probe)
    assert (found.amplitudes.dtype, found.positions.dtype) == (np.float32, np.float64)
    assert found.truth is None or np.array_equal(found.truth, scan.truth)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays | {"diffraction": np.moveaxis(arrays["diffraction"], 0, -1)},
        lambda arrays: {"diff3d" if name == "diffraction" else name: array for name, array in arrays.items()},
        lambda arrays: {name.replace("coords", "coords_start"): array for name, array in arrays.items()},
        lambda arrays: arrays | {"scan_index": np.zeros(36, int), "diffraction": arrays["diffraction"][..., None]},
        lambda arrays: {"offsets": np.stack([arrays.pop("xcoords"), arrays.pop("ycoords")], axis=1)[:, None, :, None]} | arrays,
        lambda arrays: arrays | {"xcoords": arrays["xcoords"][:, None], "ycoords": arrays["ycoords"][:, None]},
    ],
    ids=["frames last", "diff3d", "coords_start", "scan_index", "offsets", "columns"],
)
def test_legacy_layouts_and_names_are_read(tmp_path: Path, change: Callable[[Arrays], Arrays]) -> None:
    scan = a_scan()
    found = read_scan(write_npz(tmp_path / "scan.npz", change(ptychopinn(scan))), trust_positions=True)
    np.testing.assert_array_equal(found.amplitudes, scan.amplitudes)
    np.testing.assert_array_equal(found.positions, scan.positions)


def test_a_scan_as_long_as_its_frames_are_wide_is_read_with_frames_first(tmp_path: Path) -> None:
    scan = a_scan(frames=16)
    found = read_scan(write_npz(tmp_path / "scan.npz", ptychopinn(scan)), trust_positions=True)
    np.testing.assert_array_equal(found.amplitudes, scan.amplitudes)


def test_our_own_form_gives_back_what_was_written_whole_or_a_few_frames_at_a_time(tmp_path: Path) -> None:
    scan, path = a_scan(), tmp_path / "scan"
    write_scan(path, scan)
    found = read_scan(path, trust_positions=True)
    with ScanReader(path) as reader:
        assert (reader.frames, reader.size) == (36, 16)
        parts = np.concatenate([reader.amplitudes(first, first + 10) for first in range(0, 36, 10)])
        np.testing.assert_array_equal(parts, scan.amplitudes)
        for one in (found, reader):
            np.testing.assert_array_equal(one.positions, scan.positions)
            np.testing.assert_array_equal(one.probe, scan.probe)
            np.testing.assert_array_equal(one.truth, scan.truth)


def test_a_file_of_a_gigabyte_is_read_a_few_frames_at_a_time_in_little_memory(tmp_path: Path) -> None:
    path, frames = tmp_path / "scan", 4096
    positions = np.random.default_rng(0).random((frames, 2)) * 64
    header = (
        b'{"amplitudes":{"dtype":"F32","shape":[4096,256,256],"data_offsets":[65536,1073807360]},'
        b'"positions":{"dtype":"F64","shape":[4096,2],"data_offsets":[0,65536]}}  '
    )
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header + positions.tobytes())
        file.truncate(8 + len(header) + 65536 + (1 << 30))
    tracemalloc.start()
    with ScanReader(path) as reader:
        assert reader.amplitudes(frames - 2, frames + 9).shape == (2, 256, 256)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
    with pytest.raises(ResourceExhaustedError, match="at most 1000000 "):
        read_scan(path, max_bytes=1_000_000)


@pytest.mark.parametrize("write", [write_npz, write_hdf5])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"probeGuess": np.ones((8, 8), np.complex64)}, "probe has 8 x 8 pixels, but the frames 16 x 16"),
        ({"xcoords": np.zeros(2)}, "must be equal"),
        ({"xcoords": np.zeros(5), "ycoords": np.zeros(5)}, "36 frames but 5 positions"),
        ({"diffraction": np.ones((36, 16), np.float32)}, r"\(M, N, N\) or \(N, N, M\)"),
        ({"diffraction": np.ones((36, 16, 16), np.complex64)}, "complex"),
        ({"scan_index": np.arange(36)}, "names 36 scans"),
        ({"objectGuess": np.ones((20, 20), np.complex64)}, "outside of the object, which has 20 columns"),
        ({"probeGuess": np.ones((3, 0, 5), np.complex64)}, r"probeGuess has shape \[3, 0, 5\]"),
    ],
)
def test_arrays_that_do_not_fit_together_are_named(
    tmp_path: Path, write: Callable[[Path, Arrays], Path], changes: Arrays, message: str
) -> None:
    path = write(tmp_path / "scan", ptychopinn(a_scan()) | changes)
    with pytest.raises(InvalidArgumentError, match=message):
        read_scan(path)


@pytest.mark.parametrize("shape", [(73,), (2, 36), (36, 3), (36, 2, 2)])
def test_positions_that_are_no_pairs_are_refused_instead_of_being_mixed_up(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_npz(tmp_path / "scan", {"diffraction": a_scan().amplitudes, "offsets": np.arange(np.prod(shape)).reshape(shape)})
    assert "(M, 2) is needed, an (x, y) for each frame" in refused(path)


def test_files_of_no_known_layout_are_refused_with_what_they_hold(tmp_path: Path) -> None:
    assert "there is anything" in refused(write_npz(tmp_path / "a", {"anything": np.ones(3)}))
    assert "no known layout" in refused(write_hdf5(tmp_path / "b", {"anything": np.ones(3)}))
    assert "no positions" in refused(write_npz(tmp_path / "c", {"diff3d": np.ones((3, 16, 16))}))
    assert "lacks entry_1/instrument_1/source_1/energy" in refused(
        write_hdf5(tmp_path / "d", {name: array for name, array in cxi(a_scan()).items() if "energy" not in name})
    )
    (tmp_path / "e").write_bytes(b"a scan, honestly")
    assert "this is no scan" in refused(tmp_path / "e")
    save_file({"amplitudes": np.ones((3, 16, 16), np.float32)}, tmp_path / "f")
    assert "needs amplitudes and positions" in refused(tmp_path / "f")
    assert "cannot be read" in refused(tmp_path / "missing")


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("form", ["npz", "bz2", "hdf5", "own"])
def test_truncated_files_are_refused(tmp_path: Path, form: str, keep: float) -> None:
    path, scan = tmp_path / "scan", a_scan()
    {"npz": write_npz, "bz2": write_npz, "hdf5": write_hdf5, "own": lambda path, _: write_scan(path, scan)}[form](path, ptychopinn(scan))
    whole = bz2.compress(path.read_bytes()) if form == "bz2" else path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    assert refused(path)


def npz_that_claims(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "<f8") -> Path:
    """Write an archive whose arrays have headers alone."""
    with zipfile.ZipFile(path, "w") as file:
        for name, shape in shapes.items():
            member = io.BytesIO()
            np.lib.format.write_array_header_1_0(member, {"descr": dtype, "fortran_order": False, "shape": shape})
            file.writestr(f"{name}.npy", member.getvalue())
    return path


@pytest.mark.parametrize(
    "claims",
    [
        {"diffraction": (2, 16, 16), "xcoords": (10**9,), "ycoords": (10**9,)},
        {"xcoords": (10**9,), "ycoords": (10**9,), "diffraction": (10**9, 16, 16)},
        {"offsets": (10**9, 2), "diffraction": (2, 16, 16)},
        {"data": (1, 10**9, 16, 16), "scan": (1, 10**9, 2)},
    ],
)
def test_a_small_archive_that_claims_a_billion_positions_is_refused_in_little_memory(
    tmp_path: Path, claims: dict[str, tuple[int, ...]]
) -> None:
    path = npz_that_claims(tmp_path / "scan.npz", claims)
    tracemalloc.start()
    with pytest.raises(InvalidArgumentError, match=r"claims .* but the file holds .* bytes for it"):
        read_scan(path)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_an_array_of_a_negative_extent_does_not_make_up_for_what_others_claim(tmp_path: Path) -> None:
    path = npz_that_claims(tmp_path / "scan.npz", {"anything": (-(10**9),)})
    with zipfile.ZipFile(path, "a") as file:
        for name, array in ptychopinn(a_scan()).items():
            member = io.BytesIO()
            np.save(member, array)
            file.writestr(f"{name}.npy", member.getvalue())
    with pytest.raises(InvalidArgumentError, match=r"claims the shape \[-1000000000\]"):
        read_scan(path, max_bytes=1000)


def test_a_small_hdf5_file_that_claims_a_billion_positions_is_refused_in_little_memory(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "scan", "w") as file:
        file.create_dataset("diffraction", (2, 16, 16), "f4", np.ones((2, 16, 16)))
        file.create_dataset("offsets", (10**9, 2), "f8", chunks=(1024, 2), compression="gzip")
    tracemalloc.start()
    assert "but the file holds 0 bytes for it" in refused(tmp_path / "scan")
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_bombs_end_at_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bz2.compress(bytes(8 << 20)))
    with pytest.raises(ResourceExhaustedError):
        read_scan(tmp_path / "a", max_bytes=1 << 20)
    with zipfile.ZipFile(tmp_path / "c", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("data.npy", bytes(8 << 20))
    refused(tmp_path / "c")
    path = write_npz(tmp_path / "b", {"diffraction": np.zeros((1024, 32, 32), np.float32), "offsets": np.zeros((1024, 2))})
    assert path.stat().st_size < 1 << 18
    with pytest.raises(ResourceExhaustedError):
        read_scan(path, max_bytes=1 << 20)


def test_bzip2_within_bzip2_is_no_scan(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bz2.compress(bz2.compress(write_npz(tmp_path / "b", ptychopinn(a_scan())).read_bytes())))
    assert "this is no scan" in refused(tmp_path / "a")


def test_an_array_that_lies_in_a_huge_chunk_is_refused_before_that_is_unpacked(tmp_path: Path) -> None:
    scan = a_scan()
    with h5py.File(tmp_path / "scan", "w") as file:
        rest = {"maxshape": (None, 16, 16), "chunks": (10_000, 16, 16), "compression": "gzip"}
        file.create_dataset("diffraction", scan.amplitudes.shape, "f4", scan.amplitudes, **rest)
        file["offsets"] = scan.positions
    with pytest.raises(ResourceExhaustedError, match="at most 1000000 are allowed"):
        read_scan(tmp_path / "scan", max_bytes=1_000_000)


@pytest.mark.parametrize("how", ["external link", "external bytes", "virtual"])
def test_arrays_in_other_files_are_not_fetched(tmp_path: Path, how: str) -> None:
    arrays = ptychopinn(a_scan())
    frames = arrays.pop("diffraction")
    secret = write_hdf5(tmp_path / "secret", {"diffraction": frames})
    path = write_hdf5(tmp_path / "scan", arrays)
    with h5py.File(path, "a") as file:
        if how == "external link":
            file["diffraction"] = h5py.ExternalLink(secret, "diffraction")
        elif how == "external bytes":
            file.create_dataset("diffraction", frames.shape, "f4", external=[(secret, 0, frames.nbytes)])
        else:
            layout = h5py.VirtualLayout(frames.shape, "f4")
            layout[:] = h5py.VirtualSource(secret, "diffraction", frames.shape)
            file.create_virtual_dataset("diffraction", layout)
    assert "lies in another file" in refused(path)


def test_without_h5py_it_is_said_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_hdf5(tmp_path / "scan", ptychopinn(a_scan()))
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install 'tessera[ptychography]'" in refused(path, FailedPreconditionError)


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    arrays = ptychopinn(a_scan()) | {"probeGuess": np.array([object()] * 4).reshape(2, 2)}
    assert "numbers are needed" in refused(write_npz(tmp_path / "scan", arrays))


WHOLE = {
    "npz": lambda path: write_npz(path, ptychopinn(a_scan())),
    "hdf5": lambda path: write_hdf5(path, ptychopinn(a_scan())),
    "own": lambda path: write_scan(path, a_scan()),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(data=st.data(), form=st.sampled_from(sorted(WHOLE)))
def test_damaged_bytes_give_a_scan_or_a_named_error(tmp_path: Path, data: st.DataObject, form: str) -> None:
    path = tmp_path / "scan"
    WHOLE[form](path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        # Where headers and directories are: at both ends.
        place = data.draw(st.integers(0, 2000) | st.integers(len(content) - 2000, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        found = read_scan(path, trust_positions=True, max_bytes=64 << 20)
    except TesseraError as error:
        assert error.code in {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
    else:
        assert found.amplitudes.shape == (len(found), found.size, found.size)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(magic=st.sampled_from([b"", b"PK\x03\x04", b"BZh9", b"\x89HDF\r\n\x1a\n", b"\x40\0\0\0\0\0\0\0{"]), rest=st.binary(max_size=200))
def test_any_bytes_give_a_named_error(tmp_path: Path, magic: bytes, rest: bytes) -> None:
    path = tmp_path / "scan"
    path.write_bytes(magic + rest)
    with pytest.raises(InvalidArgumentError):
        read_scan(path)


def test_a_multimode_probe_of_cxi_is_kept(tmp_path: Path) -> None:
    arrays = cxi(a_scan()) | {"entry_1/instrument_1/source_1/illumination": to_channels(np.ones((16, 16), np.complex64))}
    found = read_scan(write_hdf5(tmp_path / "scan", arrays), trust_positions=True)
    assert found.probe is not None and found.probe.shape == (2, 16, 16)
