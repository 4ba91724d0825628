"""How a request comes in: completed, known already or checked, its inputs stored and held, queued."""

import asyncio
import uuid
from collections.abc import Mapping

from model_store.manifest import Manifest
from services.inference.ptychography.task import size_of
from services.inference.queued.completing import check_blob, complete, complete_reconstruction
from services.inference.queued.computing import InlineTensors, check_inputs
from services.inference.queued.inferences import Inferences, Wishes
from services.inference.queued.specs import Spec, inputs_of
from services.inference.queued.store import Store
from tessera import telemetry
from tessera.api.common.v1.common_pb2 import ModelSelector, Tensor
from tessera.api.inference.v1 import queued_pb2 as pb
from tessera.api.inference.v1.ptychography_pb2 import SubmitReconstructionRequest
from tessera.blob_files import BlobRef
from tessera.client.registry import RegistryClient
from tessera.errors import FailedPreconditionError, InvalidArgumentError
from tessera.names import check_name
from tessera.tasks import ptychography
from tessera.tasks.ptychography.files import read_shape
from tessera.tensor_files import common_rows, dump_tensors
from tessera.tensors import Array, from_proto


class Intake:
    """Takes requests in.

    Args:
        inferences: Where they are kept.
        store: Where their inputs are.
        registry: Knows the models.
    """

    def __init__(self, inferences: Inferences, store: Store, registry: RegistryClient) -> None:
        self._inferences = inferences
        self._store = store
        self._registry = registry

    async def submit(self, request: pb.SubmitInferenceRequest, wishes: Wishes) -> tuple[pb.Inference, bool]:
        """Queue a request, or find the one that the key stands for.

        Returns:
            The request, and whether it was made now.

        Raises:
            InvalidArgumentError: A field is out of its range, or tensors in the message are not the inputs of the model.
            AlreadyExistsError: The key was used for another request.
            NotFoundError: No such model, version or alias, or the inputs are not stored in the registry.
            UnavailableError: The registry, which keeps the inputs, cannot be reached.
        """
        tensors = _inline(request.tensors.tensors) if request.WhichOneof("inputs") == "tensors" else None
        data = await asyncio.to_thread(dump_tensors, tensors) if tensors is not None else b""
        spec = complete(request, BlobRef.of_bytes(data) if tensors is not None else _blob(request))
        if (known := await asyncio.to_thread(self._inferences.find_submitted, spec)) is not None:
            return known, False
        manifest = await self._manifest(spec.model, "model")
        if tensors is not None:
            check_inputs(manifest, InlineTensors({n: a.shape for n, a in tensors.items()}, {n: a.dtype for n, a in tensors.items()}))
            await self._store.upload_bytes(data)
        return await self._queue(spec, wishes, "blob")

    async def submit_reconstruction(self, request: SubmitReconstructionRequest, wishes: Wishes) -> tuple[pb.Inference, bool]:
        """Queue the reconstruction of a scan, or find the one that the key stands for.

        Returns:
            The request, and whether it was made now.

        Raises:
            InvalidArgumentError: A field is out of its range, the file's header is not that of a scan, or a model is for frames of
                another size.
            FailedPreconditionError: A model of the plan is none of ptychography.
            AlreadyExistsError: The key was used for another request.
            NotFoundError: No such model, version or alias, or the scan is not stored in the registry.
            UnavailableError: The registry, which keeps the scan, cannot be reached.
        """
        spec = complete_reconstruction(request)
        if (known := await asyncio.to_thread(self._inferences.find_submitted, spec)) is not None:
            return known, False
        async with self._store.header(spec.scan.sha256, "scan") as header:
            _, size = await asyncio.to_thread(read_shape, header)
        await self._check_model(spec.plan.model, size, "plan.model")
        if spec.plan.HasField("refine_with"):
            await self._check_model(spec.plan.refine_with, size, "plan.refine_with")
        return await self._queue(spec, wishes, "scan")

    async def _queue(self, spec: Spec, wishes: Wishes, field: str) -> tuple[pb.Inference, bool]:
        inference_id = uuid.uuid4().hex
        await self._store.hold_inputs(inference_id, inputs_of(spec).sha256, field)
        return await asyncio.to_thread(self._inferences.submit, inference_id, spec, wishes, trace=telemetry.inject())

    async def _check_model(self, selector: ModelSelector, size: int, field: str) -> None:
        """Make sure that a model is one of ptychography, for frames of this size."""
        manifest = await self._manifest(selector, field)
        if manifest.task.name != ptychography.NAME:
            raise FailedPreconditionError(
                f"{manifest.model} is a model of the task {manifest.task.name}; {ptychography.NAME} is needed", field=field
            )
        if size_of(manifest) != size:
            needed = size_of(manifest)
            message = f"the scan's frames have {size} x {size} pixels; {manifest.model} is for {needed} x {needed}"
            raise InvalidArgumentError(message, field=field)

    async def _manifest(self, selector: ModelSelector, field: str) -> Manifest:
        """Return the manifest of the version that a request would be computed by now."""
        check_name(selector.model, f"{field}.model")
        by_number = selector.WhichOneof("selector") == "version"
        if by_number and selector.version < 1:
            raise InvalidArgumentError(f"version {selector.version}; versions are numbered from 1", field=f"{field}.version")
        version = selector.version if by_number else None
        alias = selector.alias if selector.WhichOneof("selector") == "alias" else None
        return Manifest.parse((await self._registry.get_version(selector.model, version=version, alias=alias)).manifest_json)


def _inline(messages: Mapping[str, Tensor]) -> dict[str, Array]:
    """Return the tensors of a message, sorted by name: equal tensors make equal files."""
    tensors = {name: from_proto(messages[name], f"tensors.{name}") for name in sorted(messages)}
    common_rows({name: array.shape for name, array in tensors.items()}, "tensors")
    return tensors


def _blob(request: pb.SubmitInferenceRequest) -> BlobRef:
    if request.WhichOneof("inputs") != "blob":
        raise InvalidArgumentError("no inputs: set tensors or blob", field="inputs")
    return check_blob(request.blob, "blob")
