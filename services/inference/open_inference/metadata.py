"""What a version looks like from outside, and whether it is there."""

from collections.abc import Iterable

from model_store.manifest import TensorSpec
from services.inference.pool import Pool
from services.inference.served import ServedModel, State
from tessera.api.common.v1.common_pb2 import ModelSelector
from tessera.api.openinference.v2.open_inference_pb2 import ModelMetadataResponse
from tessera.names import DEFAULT_ALIAS

Tensor = ModelMetadataResponse.TensorMetadata


def is_ready(pool: Pool, chosen: ModelSelector) -> bool:
    """Tell whether a version is loaded; one that is named by an alias as soon as that answers with any."""
    if chosen.WhichOneof("selector") == "version":
        return any(slot.state is State.READY and slot.version == chosen.version for slot, _ in pool.slots(chosen.model))
    alias = chosen.alias or DEFAULT_ALIAS
    return any(alias in aliases for _, aliases in pool.slots(chosen.model) if chosen.model)


def describe(pool: Pool, served: ServedModel) -> ModelMetadataResponse:
    """Return the tensors of a version, and which versions of its model are loaded."""
    manifest = served.manifest
    return ModelMetadataResponse(
        name=served.model,
        versions=[str(slot.version) for slot, _ in pool.slots(served.model) if slot.state is State.READY],
        platform=manifest.runtime,
        inputs=_tensors(manifest.inputs),
        outputs=_tensors(manifest.outputs),
    )


def _tensors(specs: Iterable[TensorSpec]) -> list[Tensor]:
    return [Tensor(name=spec.name, datatype=spec.data_type, shape=spec.shape) for spec in specs]
