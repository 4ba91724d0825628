"""What the manifest of a network, and of an engine, has to say."""

from model_store.manifest import Manifest
from services.inference.served import ServedTask
from tessera.errors import FailedPreconditionError
from tessera.tasks import ptychography
from tessera.tasks.ptychography.signatures import Kind, engine_signature, network_signature


def kind_of(manifest: Manifest) -> Kind:
    """Return whether a version is a network or an engine; FailedPreconditionError if its manifest does not say."""
    match manifest.mappings.get("kind"):
        case "network":
            return "network"
        case "engine":
            return "engine"
        case other:
            raise FailedPreconditionError(f"the manifest of {manifest.model} has mappings.kind {other!r}; network or engine is needed")


def size_of(manifest: Manifest) -> int:
    """Return N, the pixels of the side of the frames that a version is for."""
    return _shape(manifest, "amplitudes")[-1]


def group_of(manifest: Manifest) -> int:
    """Return how many frames a network sees at once."""
    return _shape(manifest, "amplitudes")[1]


def batch_of(manifest: Manifest) -> int:
    """Return how many frames an engine takes at a time unless its caller says; FailedPreconditionError if its manifest does not say."""
    match manifest.mappings.get("batch"):
        case int(batch) if batch > 0:
            return batch
    raise FailedPreconditionError(f"the manifest of {manifest.model} lacks mappings.batch, the frames of a step")


def check(manifest: Manifest) -> None:
    """Raise FailedPreconditionError if a manifest does not describe a model of this task."""
    size = size_of(manifest)
    network = kind_of(manifest) == "network"
    if not network:
        batch_of(manifest)
    signature = network_signature(size, group_of(manifest)) if network else engine_signature(size)
    expected = [(spec.name, spec.data_type, tuple(spec.shape)) for spec in (*signature.inputs, *signature.outputs)]
    declared = [(spec.name, spec.data_type, tuple(spec.shape)) for spec in (*manifest.inputs, *manifest.outputs)]
    if declared != expected:
        kind = "a network" if network else "an engine"
        raise FailedPreconditionError(f"the manifest's tensors are {declared}; {kind} of the task {ptychography.NAME} has {expected}")


def _shape(manifest: Manifest, name: str) -> tuple[int, ...]:
    for spec in manifest.inputs:
        if spec.name == name and len(spec.shape) > 1:
            return tuple(spec.shape)
    raise FailedPreconditionError(f"the manifest of {manifest.model} has no input {name} with frames")


TASK = ServedTask(ptychography.NAME, ptychography.REVISION, check)
