import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from model_store.manifest import MAX_MANIFEST_BYTES, Manifest
from tessera.blob_files import MAX_BLOB_BYTES
from tessera.errors import InvalidArgumentError
from tests.fixtures.artifacts import Artifact

MINIMAL: dict[str, Any] = json.loads(Artifact().manifest())
GRAPH, WEIGHTS, GOLDEN = MINIMAL["files"]
PICKLE_SUFFIXES = [".pkl", ".pickle", ".pt", ".PTH", ".ckpt", ".bin", ".npy", ".npz", ".joblib"]
UNSAFE_PATHS = [
    *("", "/etc/passwd.onnx", "../up.onnx", "a/../../up.onnx", "./m.onnx", "a//m.onnx", "a/", ".hidden.onnx", "-x.onnx", "a\\m.onnx"),
    *("C:\\m.onnx", "m\n.onnx", "m\0.onnx", "m.onnx\n", "é.onnx", "a" * 251 + ".onnx", "~/m.onnx", "$HOME/m.onnx", "a b.onnx"),
]


def refused(document: object) -> InvalidArgumentError:
    with pytest.raises(InvalidArgumentError) as error:
        Manifest.parse(json.dumps(document).encode())
    return error.value


def with_file(**changes: object) -> dict[str, Any]:
    return MINIMAL | {"files": [GRAPH | changes, WEIGHTS, GOLDEN]}


def test_a_minimal_manifest_is_read_and_its_unknowns_are_empty() -> None:
    manifest = Manifest.parse(json.dumps(MINIMAL).encode())
    assert (manifest.schema_version, manifest.version, manifest.create_time) == (1, None, None)
    assert manifest.architecture_config == {}
    assert [file.path for file in manifest.files_in_role("graph")] == ["model.onnx"]
    assert manifest.size_bytes == sum(file["size_bytes"] for file in MINIMAL["files"])


def test_the_canonical_form_has_sorted_keys_no_blanks_and_plain_unicode() -> None:
    manifest = Manifest.parse(json.dumps(MINIMAL | {"labels": ["Größe", "猫"], "model_config": {"z": 1, "a": [1.0, None, True]}}).encode())
    text = manifest.canonical_json().decode()
    assert '"labels":["Größe","猫"]' in text
    assert '"model_config":{"a":[1.0,null,true],"z":1}' in text
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert len(manifest.digest()) == 64


def test_the_digest_depends_neither_on_the_order_of_keys_nor_on_blanks() -> None:
    backwards = dict(reversed(MINIMAL.items()))
    assert Manifest.parse(json.dumps(MINIMAL, indent=4).encode()).digest() == Manifest.parse(json.dumps(backwards).encode()).digest()


def test_the_digest_depends_on_every_field() -> None:
    changes: list[dict[str, Any]] = [
        {"parameters": 1},
        {"labels": ["a"]},
        {"mappings": {"a": 1}},
        {"model_config": {"a": 1}},
        {"metrics": {}},
    ]
    digests = {Manifest.parse(json.dumps(MINIMAL | change).encode()).digest() for change in [{}, *changes]}
    assert len(digests) == 1 + len(changes)


def test_the_registry_fills_in_number_and_time_in_utc() -> None:
    manifest = Manifest.parse(json.dumps(MINIMAL).encode())
    given_by_registry = manifest.registered(7, datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))))
    assert manifest.version is None
    document = json.loads(given_by_registry.canonical_json())
    assert (document["version"], document["create_time"]) == (7, "2026-01-02T01:00:00Z")
    assert Manifest.parse(given_by_registry.canonical_json()) == given_by_registry


def test_a_manifest_cannot_be_changed() -> None:
    manifest = Manifest.parse(json.dumps(MINIMAL).encode())
    with pytest.raises(ValidationError, match="frozen"):
        manifest.version = 2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        manifest.files[0].size_bytes = 0  # type: ignore[misc]


@pytest.mark.parametrize(
    "field", ["model", "family", "architecture", "parameters", "runtime", "inputs", "outputs", "files", "task", "golden"]
)
def test_a_missing_field_is_named(field: str) -> None:
    error = refused({key: value for key, value in MINIMAL.items() if key != field})
    assert (error.field, error.message) == (f"manifest.{field}", f"manifest.{field}: Field required")


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"surprise": 1}, "surprise", "Extra inputs are not permitted"),
        ({"architecture_config": {}}, "architecture_config", "Extra inputs are not permitted"),
        ({"schema_version": 2}, "schema_version", "less than or equal to 1"),
        ({"schema_version": True}, "schema_version", "valid integer"),
        ({"model": "../up"}, "model", "1 to 128 of a-z"),
        ({"model": "m" * 300}, "model", "300 characters"),
        ({"family": ""}, "family", "1 to 128 of a-z"),
        ({"runtime": "Tensor Flow"}, "runtime", "1 to 128 of a-z"),
        ({"version": 0}, "version", "greater than or equal to 1"),
        ({"version": "1"}, "version", "valid integer"),
        ({"create_time": "2026-01-01T00:00:00"}, "create_time", "timezone"),
        ({"create_time": "0001-01-01T00:00:00+05:00"}, "create_time", "out of range"),
        ({"parameters": -1}, "parameters", "greater than or equal to 0"),
        ({"parameters": 1.5}, "parameters", "valid integer"),
        ({"parameters": 1 << 63}, "parameters", "less than or equal to"),
        ({"model_config": [1]}, "model_config", "an object"),
        ({"model_config": {"lr": [math.nan]}}, "model_config", "finite"),
        ({"mappings": {"a": {"b": math.inf}}}, "mappings", "finite"),
        ({"metrics": {"top1": math.nan}}, "metrics.top1", "finite"),
        ({"metrics": {"top1": "high"}}, "metrics.top1", "valid number"),
        ({"labels": [1]}, "labels[0]", "valid string"),
        ({"inputs": []}, "inputs", "at least 1"),
        ({"inputs": MINIMAL["inputs"] * 2}, "inputs", "'image' occurs more than once"),
        ({"outputs": [{"name": "", "data_type": "FP32", "shape": [1]}]}, "outputs[0].name", "at least 1 character"),
        ({"outputs": [{"name": "o", "data_type": "float32", "shape": [1]}]}, "outputs[0].data_type", "'FP32'"),
        ({"outputs": [{"name": "o", "data_type": "FP32", "shape": [0]}]}, "outputs[0].shape[0]", "1 or more, or -1"),
        ({"outputs": [{"name": "o", "data_type": "FP32", "shape": [-2]}]}, "outputs[0].shape[0]", "1 or more, or -1"),
        ({"outputs": [{"name": "o", "data_type": "FP32", "shape": [1] * 9}]}, "outputs[0].shape", "at most 8"),
        ({"task": {"name": "puzzle_cells", "revision": 0}}, "task.revision", "greater than or equal to 1"),
        ({"golden": {"file": "nowhere.safetensors"}}, "golden", "'nowhere.safetensors' is not among the files"),
        ({"golden": {"file": "weights.safetensors"}}, "golden", "in the role 'golden'"),
        ({"golden": {"file": "golden.safetensors", "rtol": -1}}, "golden.rtol", "greater than or equal to 0"),
        ({"lineage": {"dataset_digest": "md5:abc"}}, "lineage.dataset_digest", "64 lower-case hexadecimal digits"),
        ({"lineage": {"parent_version": 0}}, "lineage.parent_version", "greater than or equal to 1"),
        ({"lineage": {"git_commit": "x" * 257}}, "lineage.git_commit", "at most 256"),
        ({"files": []}, "files", "at least 1"),
        ({"files": [WEIGHTS, GOLDEN]}, "files", "none has the role 'graph'"),
        ({"files": [GRAPH, GRAPH, GOLDEN]}, "files", "'model.onnx' occurs more than once"),
        ({"files": [GRAPH, GRAPH | {"path": "MODEL.onnx"}, GOLDEN]}, "files", "occurs more than once"),
        ({"files": [GRAPH, GRAPH | {"path": "model.onnx/a.onnx"}, GOLDEN]}, "files", "is a file and a folder at once"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_right(changes: dict[str, Any], field: str, says: str) -> None:
    error = refused(MINIMAL | changes)
    assert error.field == f"manifest.{field}"
    assert error.message.startswith(f"manifest.{field}: ")
    assert says in error.message


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"sha256": "A" * 64}, "sha256", "64 lower-case hexadecimal digits"),
        ({"sha256": "abc"}, "sha256", "'abc' is not a sha256"),
        ({"size_bytes": -1}, "size_bytes", "greater than or equal to 0"),
        ({"size_bytes": MAX_BLOB_BYTES + 1}, "size_bytes", "less than or equal to 2147483648"),
        ({"size_bytes": True}, "size_bytes", "valid integer"),
        ({"role": "virus"}, "role", "'graph'"),
        ({"path": "model.safetensors"}, "role", "which takes .onnx or .pt2"),
        ({"path": "card.txt", "role": "card"}, "role", "which takes .md"),
        ({"path": "weights.onnx", "role": "weights"}, "role", "which takes .safetensors"),
        *(({"path": f"w{suffix}", "role": "other"}, "path", "may be a pickle") for suffix in PICKLE_SUFFIXES),
        *(({"path": path}, "path", "is not a safe path") for path in UNSAFE_PATHS),
        ({"path": "manifest.json", "role": "other"}, "path", "taken by the manifest itself"),
    ],
)
def test_a_wrong_file_entry_is_named_with_what_is_right(changes: dict[str, Any], field: str, says: str) -> None:
    error = refused(with_file(**changes))
    assert error.field == f"manifest.files[0].{field}"
    assert says in error.message


def test_a_file_of_exactly_two_gibibytes_is_allowed() -> None:
    assert Manifest.parse(json.dumps(with_file(size_bytes=2 << 30)).encode()).files[0].size_bytes == 2147483648


def test_several_wrong_fields_are_named_at_once_but_not_hundreds() -> None:
    error = refused(MINIMAL | {"model": "", "parameters": -1})
    assert "manifest.model: " in error.message
    assert "manifest.parameters: " in error.message
    error = refused(MINIMAL | {"labels": [0] * 300})
    assert "(and 295 more)" in error.message
    assert len(error.message) < 1000


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"1", b"NaN", b"\xff\xfe", b'{"a": "\xff"}', b"[" * 100_000, b'{"model": "\\ud800"}']
)
def test_what_is_no_manifest_at_all_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        Manifest.parse(data)
    assert error.value.field.startswith("manifest")
    assert len(error.value.message) < 1000


def test_a_manifest_that_is_too_large_is_not_even_read() -> None:
    with pytest.raises(InvalidArgumentError, match=f"at most {MAX_MANIFEST_BYTES}"):
        Manifest.parse(b" " * (MAX_MANIFEST_BYTES + 1))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(st.text(max_size=10), json_values, max_size=4)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
counts = st.integers(0, (1 << 63) - 1)
digests = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
specs = st.fixed_dictionaries(
    {
        "name": st.text(min_size=1, max_size=20),
        "data_type": st.sampled_from(["BOOL", "UINT8", "INT32", "INT64", "FP16", "FP32", "FP64"]),
        "shape": st.lists(st.just(-1) | st.integers(1, 1 << 40), max_size=8),
    }
)
metrics = st.dictionaries(st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False), max_size=4)
files = st.fixed_dictionaries({"sha256": digests, "size_bytes": st.integers(0, MAX_BLOB_BYTES)})
times = st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))]))


def golden_file() -> dict[str, Any]:
    return {"path": "g.safetensors", "sha256": "0" * 64, "size_bytes": 1, "role": "golden"}


def number(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [file | {"path": f"graphs/{index}.onnx", "role": "graph"} for index, file in enumerate(found)]


manifests = st.fixed_dictionaries(
    {
        "model": names,
        "family": names,
        "architecture": names,
        "parameters": counts,
        "model_config": json_objects,
        "runtime": names,
        "inputs": st.lists(specs, min_size=1, max_size=3, unique_by=lambda spec: spec["name"]),
        "outputs": st.lists(specs, min_size=1, max_size=3, unique_by=lambda spec: spec["name"]),
        "files": st.lists(files, min_size=1, max_size=4).map(lambda found: [golden_file(), *number(found)]),
        "task": st.fixed_dictionaries({"name": names, "revision": st.integers(1, 99)}),
        "golden": st.just({"file": "g.safetensors", "rtol": 1e-3, "atol": 1e-4}),
    },
    optional={
        "version": st.integers(1, (1 << 63) - 1),
        "create_time": times.map(datetime.isoformat),
        "labels": st.lists(st.text(max_size=20), max_size=5),
        "mappings": json_objects,
        "metrics": metrics,
        "lineage": st.fixed_dictionaries({"seed": st.integers(-99, 99), "dataset_digest": st.just("") | digests}),
        "frameworks": st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=4),
    },
)


@given(manifests)
@settings(max_examples=150)
def test_any_manifest_survives_its_canonical_form_which_is_stable(document: dict[str, Any]) -> None:
    manifest = Manifest.parse(json.dumps(document).encode())
    again = Manifest.parse(manifest.canonical_json())
    assert again == manifest
    assert again.canonical_json() == manifest.canonical_json()
    assert again.digest() == manifest.digest()


@given(st.text(max_size=300))
def test_any_path_is_safe_or_refused(path: str) -> None:
    try:
        manifest = Manifest.parse(
            json.dumps(with_file(path=path, role="other") | {"files": [GRAPH, GOLDEN, WEIGHTS | {"path": path, "role": "other"}]}).encode()
        )
    except InvalidArgumentError as error:
        assert error.field.startswith("manifest")
        return
    parts = manifest.files[2].path.split("/")
    assert all(part[0].isalnum() or part[0] == "_" for part in parts)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_an_invalid_argument(data: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        Manifest.parse(data)


@given(st.sampled_from(sorted(MINIMAL)), json_values)
@settings(max_examples=300)
def test_any_value_in_any_field_is_accepted_or_an_invalid_argument(field: str, value: object) -> None:
    try:
        manifest = Manifest.parse(json.dumps(MINIMAL | {field: value}).encode())
    except InvalidArgumentError as error:
        assert error.field.startswith("manifest")
        assert len(error.message) < 3000
        return
    assert Manifest.parse(manifest.canonical_json()) == manifest


@given(json_values)
def test_any_json_is_a_manifest_or_an_invalid_argument(value: object) -> None:
    with pytest.raises(InvalidArgumentError):
        Manifest.parse(json.dumps(value).encode())
