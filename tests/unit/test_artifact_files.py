import gzip
import io
import itertools
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from model_store.artifact_files import Role, check_beginning, check_file_magic
from tessera.errors import InvalidArgumentError

WEIGHTS = save({"layer.weight": np.ones((4, 3), np.float32), "layer.bias": np.zeros(3, np.float32)}, {"format": "pt"})


def onnx_model() -> bytes:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [])
    return onnx.helper.make_model(graph).SerializeToString()


def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (2, 2)).save(out, kind)
    return out.getvalue()


def torch_saved(**options: bool) -> bytes:
    out = io.BytesIO()
    torch.save({"weight": torch.ones(3)}, out, **options)
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return out.getvalue()


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def check(path: str, role: Role, data: bytes) -> None:
    check_beginning(path, role, data, len(data))


@pytest.mark.parametrize(
    ("path", "role", "data"),
    [
        ("w.safetensors", "weights", WEIGHTS),
        ("empty.safetensors", "golden", save({})),
        ("m.onnx", "graph", onnx_model()),
        ("m.pt2", "graph", zipped()),
        ("README.md", "card", "# Größe\n".encode()),
        ("a.png", "picture", picture("PNG")),
        ("a.jpg", "picture", picture("JPEG")),
        ("labels.json", "other", b"[]"),
    ],
)
def test_what_the_libraries_write_is_accepted(tmp_path: Path, path: str, role: Role, data: bytes) -> None:
    (tmp_path / path).write_bytes(data)
    check_file_magic(tmp_path / path, role)


PICKLES = {f"protocol {protocol}": pickle.dumps({"weight": [1.0] * 9}, protocol) for protocol in range(6)}
NOT_WEIGHTS = PICKLES | {
    "torch.save": torch_saved(),
    "old torch.save": torch_saved(_use_new_zipfile_serialization=False),
    "gzip of a pickle": gzip.compress(PICKLES["protocol 4"]),
    "zip": zipped(),
    "tar": tarred(),
    "numpy": b"\x93NUMPY\x01\x00" + bytes(64),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(64),
    "program": b"\x7fELF" + bytes(64),
    "script": b"#!/bin/sh\n",
    "empty": b"",
    "one byte": b"\x80",
    "PNG": picture("PNG"),
}


@pytest.mark.parametrize("what", NOT_WEIGHTS)
@pytest.mark.parametrize(("path", "role"), [("w.safetensors", "weights"), ("g.safetensors", "golden"), ("m.onnx", "graph")])
def test_anything_else_in_place_of_weights_or_graph_is_refused(path: str, role: Role, what: str) -> None:
    with pytest.raises(InvalidArgumentError, match=path) as refused:
        check(path, role, NOT_WEIGHTS[what])
    assert refused.value.field == path


@pytest.mark.parametrize("what", ["protocol 2", "protocol 5", "torch.save", "old torch.save"])
@pytest.mark.parametrize(
    ("path", "role"), [("w.safetensors", "weights"), ("m.onnx", "graph"), ("m.pt2", "graph"), ("README.md", "card"), ("x.dat", "other")]
)
def test_a_pickle_is_called_a_pickle_in_every_role(path: str, role: Role, what: str) -> None:
    with pytest.raises(InvalidArgumentError, match="runs code when loaded; use safetensors or ONNX"):
        check(path, role, NOT_WEIGHTS[what])


@pytest.mark.parametrize(
    ("what", "says"),
    [("gzip of a pickle", "gzip"), ("zip", "zip"), ("numpy", "numpy"), ("PNG", "PNG"), ("empty", "empty"), ("tar", "begins with 78 00")],
)
def test_the_message_says_what_it_looks_like(what: str, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"not safetensors but .*{says}"):
        check("w.safetensors", "weights", NOT_WEIGHTS[what])
    with pytest.raises(InvalidArgumentError, match="not ONNX but safetensors"):
        check("m.onnx", "graph", WEIGHTS)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (WEIGHTS[:-1], "describes"),
        (WEIGHTS + b"x", "describes"),
        (struct.pack("<Q", 1 << 40) + b"{}", "claims 1099511627776 bytes"),
        (struct.pack("<Q", 200_000_000) + b"{}", "claims 200000000 bytes"),
        (with_header(b"{nonsense"), "not the JSON"),
        (with_header(b'{"a": 1}'), "not the JSON"),
        (with_header(b'{"a": {"data_offsets": []}}'), "not the JSON"),
        (with_header(b'{"a": {"data_offsets": [0, "x"]}}'), "not the JSON"),
        (with_header(b'{"a": {"data_offsets": [0, 1e999]}}'), "not the JSON"),
        (with_header(b"{" + b'"a":{' * 100_000), "not the JSON"),
    ],
    ids=itertools.count(),
)
def test_damaged_safetensors_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says):
        check("w.safetensors", "weights", data)


def test_a_header_beyond_the_first_bytes_is_left_to_the_loader() -> None:
    header = json.dumps({f"tensor{index}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for index in range(20_000)}).encode()
    data = with_header(header)
    check_beginning("w.safetensors", "weights", data[: 1 << 20], len(data))


def test_pictures_and_cards_are_looked_into() -> None:
    with pytest.raises(InvalidArgumentError, match="neither PNG nor JPEG"):
        check("a.png", "picture", b"<svg/>")
    with pytest.raises(InvalidArgumentError, match="not text"):
        check("README.md", "card", b"a\0b")
    with pytest.raises(InvalidArgumentError, match="not an exported program"):
        check("m.pt2", "graph", onnx_model())


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"cannot read w\.safetensors"):
        check_file_magic(tmp_path / "w.safetensors", "weights")


@given(st.binary(max_size=200), st.sampled_from([("w.safetensors", "weights"), ("m.onnx", "graph"), ("m.pt2", "graph"), ("x", "other")]))
def test_any_bytes_are_accepted_or_an_invalid_argument(data: bytes, file: tuple[str, Role]) -> None:
    try:
        check(*file, data)
    except InvalidArgumentError as error:
        assert error.message.isprintable()


@given(st.binary(max_size=100))
def test_any_header_is_accepted_or_an_invalid_argument(header: bytes) -> None:
    try:
        check("w.safetensors", "weights", with_header(b"{" + header))
    except InvalidArgumentError as error:
        assert error.message.isprintable()
