"""What a request may ask for: tensors through a model, or the reconstruction of a scan. All else in the queue is the same for both."""

from typing import Any

from google.protobuf import json_format

from services.inference.queued.tables import Inference
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.inference.v1.ptychography_pb2 import SubmitReconstructionRequest
from tessera.api.inference.v1.queued_pb2 import SubmitInferenceRequest, TensorsBlob

Spec = SubmitInferenceRequest | SubmitReconstructionRequest
"""A request, complete: with its defaults filled in and its inputs as a blob."""


def selector_of(spec: Spec) -> ModelSelector:
    """Return which model a request is for; of a reconstruction the one that begins it."""
    return spec.model if isinstance(spec, SubmitInferenceRequest) else spec.plan.model


def inputs_of(spec: Spec) -> TensorsBlob:
    """Return where the inputs of a request are."""
    return spec.blob if isinstance(spec, SubmitInferenceRequest) else spec.scan


def spec_of(row: Inference) -> Spec:
    """Return what a row asks for."""
    kind = SubmitInferenceRequest if row.reconstruction is None else SubmitReconstructionRequest
    return json_format.ParseDict(row.spec, kind())


def as_json(message: Any) -> dict[str, Any]:
    """Return a spec or a status as it is kept in a row."""
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
