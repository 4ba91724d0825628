"""What the record of a training says about where it comes from."""

import re

import pytest
from google.protobuf.json_format import ParseDict

from tessera.api.trainer.v1.trainer_pb2 import Family, JobSpec
from trainers.lineage import fill_in_defaults, git_commit

FAMILY = ParseDict(
    {
        "name": "bricks",
        "hyperparameters_schema": {"properties": {"epochs": {"default": 60}, "seed": {"default": 0}, "note": {}}},
        "architectures": [
            {"name": "small", "model_config_schema": {"properties": {"width": {"default": 8}}}},
            {"name": "large", "model_config_schema": {"properties": {"width": {"default": 64}}}},
        ],
    },
    Family(),
)


def test_settings_that_were_left_out_get_the_default_of_their_own_architecture() -> None:
    spec = JobSpec(family="bricks", architecture="large")
    spec.hyperparameters.update({"epochs": 3})
    fill_in_defaults(spec, FAMILY)
    assert dict(spec.hyperparameters) == {"epochs": 3, "seed": 0}
    assert dict(spec.model_config) == {"width": 64}


def test_a_family_without_settings_leaves_a_spec_as_it_is() -> None:
    spec = JobSpec(family="plain", architecture="only")
    fill_in_defaults(spec, Family(name="plain"))
    assert not spec.hyperparameters.fields
    assert not spec.model_config.fields


def test_the_commit_of_this_checkout_is_named_in_full() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", git_commit())


def test_without_git_the_commit_is_the_one_that_the_image_was_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert git_commit() == ""
    monkeypatch.setenv("TESSERA_REVISION", "0123abc")
    assert git_commit() == "0123abc"
