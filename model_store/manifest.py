"""The manifest: everything that a version is, as one immutable document with one canonical form and so one digest."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from model_store.artifact_files import Role, check_extension, check_path
from tessera.blob_files import MAX_BLOB_BYTES, BlobRef
from tessera.errors import InvalidArgumentError
from tessera.names import check_name, check_sha256, shown

MAX_MANIFEST_BYTES = 1 << 20
"""Largest manifest, bytes."""

_MOST_ERRORS_SHOWN = 5
_LARGEST_INT = (1 << 63) - 1


def _as_value_error(check: Callable[[str, str], str]) -> Callable[[str], str]:
    """Let pydantic, which knows the field, report what one of our checks refuses."""

    def validate(value: str) -> str:
        try:
            return check(value, "value")
        except InvalidArgumentError as error:
            raise ValueError(error.message.removeprefix("value: ")) from None

    return validate


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is out of range") from None


def _extent(value: int) -> int:
    if value != -1 and value < 1:
        raise ValueError("an extent is 1 or more, or -1 for any")
    return value


def _finite(value: JsonValue) -> JsonValue:
    """Refuse what JSON cannot say: NaN and infinities, however deep."""
    match value:
        case float() if not math.isfinite(value):
            raise ValueError("a number must be finite")
        case dict():
            for item in value.values():
                _finite(item)
        case list():
            for item in value:
                _finite(item)
    return value


_sha256 = _as_value_error(check_sha256)

Name = Annotated[str, AfterValidator(_as_value_error(check_name))]
Sha256 = Annotated[str, AfterValidator(_sha256)]
OptionalSha256 = Annotated[str, AfterValidator(lambda value: _sha256(value) if value else value)]
Text = Annotated[str, Field(max_length=256)]
Count = Annotated[int, Field(ge=0, le=_LARGEST_INT)]
Ordinal = Annotated[int, Field(ge=1, le=_LARGEST_INT)]
Extent = Annotated[int, Field(le=_LARGEST_INT), AfterValidator(_extent)]
JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_finite)]
DataType = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BF16", "BYTES"
]


class _Part(BaseModel):
    """Common rules: immutable, no unknown fields, finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True, validate_by_alias=True)


class TensorSpec(_Part):
    """The declared shape and type of one model input or output.

    Args:
        name: Name in the model graph, 1 to 256 characters.
        data_type: Element type, named as in the Open Inference Protocol.
        shape: 0 to 8 extents; -1 stands for any size (usually the batch).
    """

    name: Annotated[str, Field(min_length=1, max_length=256)]
    data_type: DataType
    shape: Annotated[tuple[Extent, ...], Field(max_length=8)]


class FileEntry(_Part):
    """One file of a version.

    Args:
        path: Relative, with '/' between its parts, each of letters, digits, '.', '_', '-' and not beginning with '.' or '-'.
        sha256: Its digest.
        size_bytes: 0 to 2 GiB.
        role: What it is for; the role fixes which extensions are allowed, and pickles are refused in every role.
    """

    path: Annotated[str, AfterValidator(check_path)]
    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0, le=MAX_BLOB_BYTES)]
    role: Role

    @field_validator("role")
    @classmethod
    def _role_fits_path(cls, role: Role, info: ValidationInfo) -> Role:
        return check_extension(info.data["path"], role) if "path" in info.data else role

    @property
    def blob(self) -> BlobRef:
        """Its bytes in the blob store."""
        return BlobRef(self.sha256, self.size_bytes)


class TaskRef(_Part):
    """The task whose pre- and post-processing the model was trained with.

    Args:
        name: Module of `tessera.tasks`.
        revision: Of its preprocessing, 1 or more; a server with another revision must not serve the version.
    """

    name: Name
    revision: Ordinal


class Golden(_Part):
    """Inputs and the outputs that belong to them, checked before a version is served.

    Args:
        file: Path of a safetensors file of the version in the role `golden`; its keys are `inputs.<name>` and `outputs.<name>`.
        rtol: Relative tolerance, 0 to 1.
        atol: Absolute tolerance, 0 or more.
    """

    file: str
    rtol: Annotated[float, Field(ge=0, le=1)] = 1e-3
    atol: Annotated[float, Field(ge=0)] = 1e-4


class Lineage(_Part):
    """Where a version comes from. Everything is optional; what is unknown is empty or None.

    Args:
        dataset_digest: sha256 of what it was trained on.
        git_commit: Of the training code.
        hyperparameters: As used.
        seed: Of the random number generators.
        experiment_id: In the registry.
        job_id: In the trainer.
        parent_version: Version of the same model from which training started.
    """

    dataset_digest: OptionalSha256 = ""
    git_commit: Text = ""
    hyperparameters: JsonObject = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=-_LARGEST_INT, le=_LARGEST_INT)] | None = None
    experiment_id: Text = ""
    job_id: Text = ""
    parent_version: Ordinal | None = None


class Manifest(_Part):
    """What a version is.

    Args:
        schema_version: Of this document; always 1.
        model: The model's name.
        version: Its number; None until the registry has given one.
        create_time: When the registry made it, UTC; None until then.
        family: That trained it.
        architecture: Within the family.
        parameters: Number of trainable values.
        architecture_config: What shapes the network; called `model_config` in JSON (pydantic keeps that attribute for itself).
        runtime: What computes it, for example `onnxruntime`.
        inputs: Its inputs, at least one.
        outputs: Its outputs, at least one.
        files: All files, at least a graph.
        labels: Names of the classes, in order; may be empty.
        mappings: Whatever else turns outputs into answers, by name.
        task: Task and revision of its preprocessing.
        metrics: At the end of training; finite.
        golden: The golden example.
        lineage: Where it comes from.
        frameworks: Name to version of the libraries that made it.
    """

    schema_version: Annotated[int, Field(ge=1, le=1)] = 1
    model: Name
    version: Ordinal | None = None
    create_time: Annotated[AwareDatetime, AfterValidator(_utc)] | None = None
    family: Name
    architecture: Name
    parameters: Count
    architecture_config: JsonObject = Field(default_factory=dict, alias="model_config")
    runtime: Name
    inputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=64)]
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1, max_length=64)]
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1, max_length=1000)]
    labels: tuple[Text, ...] = ()
    mappings: JsonObject = Field(default_factory=dict)
    task: TaskRef
    metrics: dict[Text, float] = Field(default_factory=dict)
    golden: Golden
    lineage: Lineage = Field(default_factory=Lineage)
    frameworks: dict[Text, Text] = Field(default_factory=dict)

    @field_validator("inputs", "outputs")
    @classmethod
    def _tensor_names_differ(cls, specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        _refuse_repeated(spec.name for spec in specs)
        return specs

    @field_validator("files")
    @classmethod
    def _files_fit_together(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        # Case is ignored, so that a version can be unpacked on any filesystem.
        paths = [file.path.lower() for file in files]
        _refuse_repeated(paths)
        folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents}
        if both := sorted(folders.intersection(paths)):
            raise ValueError(f"{both[0]!r} is a file and a folder at once")
        if not any(file.role == "graph" for file in files):
            raise ValueError("none has the role 'graph'; a version needs its network as .onnx or .pt2")
        return files

    @field_validator("golden")
    @classmethod
    def _golden_file_is_there(cls, golden: Golden, info: ValidationInfo) -> Golden:
        files: tuple[FileEntry, ...] | None = info.data.get("files")
        if files is not None and not any(file.path == golden.file and file.role == "golden" for file in files):
            raise ValueError(f"file {shown(golden.file)} is not among the files in the role 'golden'")
        return golden

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a manifest from JSON.

        Raises:
            InvalidArgumentError: It is too large, no JSON, or breaks a rule; `field` is the path of the first wrong field below
                `manifest`, for example `manifest.files[0].sha256`, and the message names up to five.
        """
        if len(data) > MAX_MANIFEST_BYTES:
            raise InvalidArgumentError(f"the manifest has {len(data)} bytes; at most {MAX_MANIFEST_BYTES} are allowed", field="manifest")
        try:
            return cls.model_validate_json(data, strict=True, by_name=False)
        except ValidationError as error:
            raise _refusal(error) from None

    def canonical_json(self) -> bytes:
        """Return the one JSON form of this manifest: UTF-8, keys sorted, no blanks, every field present."""
        fields = self.model_dump(mode="json", by_alias=True)
        return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()

    def digest(self) -> str:
        """Return the sha256 of the canonical form, 64 hexadecimal digits: the identity of the version."""
        return hashlib.sha256(self.canonical_json()).hexdigest()

    def registered(self, version: int, create_time: datetime) -> Self:
        """Return this manifest with the number (1 or more) and the time (with time zone) that the registry gives it."""
        return self.model_copy(update={"version": version, "create_time": create_time.astimezone(UTC)})

    def files_in_role(self, role: Role) -> list[FileEntry]:
        """Return the files that have a role, in their order."""
        return [file for file in self.files if file.role == role]

    @property
    def size_bytes(self) -> int:
        """Sum of the sizes of all files, bytes."""
        return sum(file.size_bytes for file in self.files)


def _refuse_repeated(values: Iterable[str]) -> None:
    value, count = Counter(values).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{shown(value)} occurs more than once")


def _refusal(error: ValidationError) -> InvalidArgumentError:
    """Say what pydantic found, naming every field as people write it."""
    found = [(_field(details["loc"]), details) for details in error.errors(include_url=False)]
    lines = [f"{field}: {_message(details)}" for field, details in found[:_MOST_ERRORS_SHOWN]]
    more = f" (and {len(found) - _MOST_ERRORS_SHOWN} more)" if len(found) > _MOST_ERRORS_SHOWN else ""
    return InvalidArgumentError("; ".join(lines) + more, field=found[0][0])


def _field(location: tuple[int | str, ...]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "manifest" + "".join(parts)


def _message(details: ErrorDetails) -> str:
    if details["type"] == "value_error":  # ours; it shows the value where that helps
        return details["msg"].removeprefix("Value error, ")
    if details["type"] in ("missing", "extra_forbidden", "json_invalid"):
        return details["msg"]
    return f"{details['msg']}, not {shown(details['input'])}"
