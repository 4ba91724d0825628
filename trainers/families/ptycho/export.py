"""What an exported network of this family carries: tensors, probe, how frames are scaled, golden example."""

from collections.abc import Iterator

import numpy as np

from tessera.tasks.ptychography import normalisation
from tessera.tasks.ptychography.signatures import network_signature
from trainers.families.ptycho.config import NetworkConfig
from trainers.families.ptycho.data import Frames
from trainers.families.ptycho.networks import PatchNetwork
from trainers.family import Arrays, Export

_BATCH = 64
_CHECKED = 256
_GOLDEN = 4


def export(network: PatchNetwork, frames: Frames, config: NetworkConfig) -> Export:
    """Return it for a trained network: four frames as golden example, up to 256 to compare graph and network on."""

    def checked() -> Iterator[Arrays]:
        for first in range(0, min(_CHECKED, len(frames.groups)), _BATCH):
            yield {"amplitudes": frames.inputs(slice(first, first + _BATCH)).numpy()}

    return Export(
        signature=network_signature(config.size, config.group),
        golden={"amplitudes": frames.inputs(slice(_GOLDEN)).numpy()},
        check=checked,
        runtimes=("torchserve", "onnxruntime"),
        atol=network.tolerance,
        constants={"probe": network.probe.detach().numpy().astype(np.float32)},
        mappings={"kind": "network", "normalisation": {"frames": normalisation.FRAMES}, "crop": config.size // 2},
    )
