"""What SubmitJob refuses, and how it says so."""

from typing import Any

import pytest
from google.protobuf import json_format

from services.trainer.validation import check_spec, complete_spec
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.errors import InvalidArgumentError
from tests.fakes.describe import FAMILY

FAMILIES = [json_format.ParseDict(FAMILY, pb.Family())]
PICTURE = {"name": "picture", "sha256": "a" * 64, "size_bytes": 5}
GOOD: dict[str, Any] = {
    "family": "fake",
    "architecture": "tiny",
    "model": "cells",
    "hyperparameters": {"epochs": 3},
    "inputs": [PICTURE],
}


def spec(**changes: Any) -> pb.JobSpec:
    return complete_spec(json_format.ParseDict(GOOD | changes, pb.JobSpec()))


def test_a_good_spec_passes_with_whole_numbers_that_protobuf_keeps_as_floats() -> None:
    check_spec(spec(model_config={"width": 8}, alias="champion", max_attempts=10, attempt_timeout="60s"), FAMILIES)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"model": ""}, "spec.model", "not a valid name"),
        ({"model": "x" * 300}, "spec.model", "300|characters"),
        ({"model": "../../etc"}, "spec.model", "not a valid name"),
        ({"model": "a\u0000b"}, "spec.model", "not a valid name"),
        ({"alias": "12"}, "spec.alias", "looks like a version"),
        ({"name": "x" * 257}, "spec.name", "takes 0 to 256"),
        ({"name": "nul\u0000"}, "spec.name", "control characters"),
        ({"family": "lego"}, "spec.family", "unknown family 'lego'; known: fake"),
        ({"architecture": "huge"}, "spec.architecture", "unknown architecture 'huge'; known: tiny"),
        (
            {"hyperparameters": {"epochs": 3, "lr": 1}},
            "spec.hyperparameters.lr",
            "unknown hyperparameter 'lr'; known: artifact, die_at, epoch_s, epochs",
        ),
        ({"hyperparameters": {"epochs": 2.5}}, "spec.hyperparameters.epochs", "2.5 is not of type 'integer'"),
        ({"hyperparameters": {"epochs": 0}}, "spec.hyperparameters.epochs", "less than the minimum"),
        ({"hyperparameters": {}}, "spec.hyperparameters", "'epochs' is a required property"),
        ({"model_config": {"width": "wide"}}, "spec.model_config.width", "is not of type 'integer'"),
        ({"model_config": {"depth": 1}}, "spec.model_config.depth", "known: width"),
        ({"inputs": []}, "spec.inputs", "'picture' is missing"),
        ({"inputs": [PICTURE, PICTURE]}, "spec.inputs[1].name", "given twice"),
        ({"inputs": [PICTURE | {"name": "mask"}]}, "spec.inputs[0].name", "unknown input 'mask'; known: picture"),
        ({"inputs": [PICTURE | {"sha256": "abc"}]}, "spec.inputs[0].sha256", "64 lower-case"),
        ({"inputs": [PICTURE | {"size_bytes": -1}]}, "spec.inputs[0].size_bytes", "0 to 2 GiB"),
        ({"max_attempts": 11}, "spec.max_attempts", "1 to 10"),
        ({"max_attempts": -1}, "spec.max_attempts", "1 to 10"),
        ({"attempt_timeout": "-1s"}, "spec.attempt_timeout", "more than 0 s"),
        ({"attempt_timeout": "99999999s"}, "spec.attempt_timeout", "at most 30 days"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_field_and_what_would_be_right(changes: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as raised:
        check_spec(spec(**changes), FAMILIES)
    assert raised.value.field == field


def test_without_any_worker_nothing_is_known() -> None:
    with pytest.raises(InvalidArgumentError, match="unknown family 'fake'; known: none"):
        check_spec(spec(), [])
