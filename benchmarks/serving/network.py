"""What every row computes: a classifier of 632,566 parameters with random weights, as ONNX and as a torch program, and its inputs."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

Array = NDArray[np.float32]

COLUMNS, ROWS = 38, 25
PARAMETERS = 632_566
WIDTHS = (3, 32, 64, 128, 256)
INPUTS = 8
"""Different inputs take turns, so that answers that were mixed up are noticed."""


def weights() -> dict[str, Array]:
    """Return the weights: w0, b0 ... w3, b3 of the convolutions, w and b of the last layer."""
    random = np.random.default_rng(0)

    def weight(*shape: int) -> Array:
        return (random.standard_normal(shape) / 10).astype(np.float32)

    layers: dict[str, Array] = {}
    for layer, (narrow, wide) in enumerate(pairwise(WIDTHS)):
        layers |= {f"w{layer}": weight(wide, narrow, 3, 3), f"b{layer}": weight(wide)}
    return layers | {"w": weight(WIDTHS[-1], COLUMNS * ROWS), "b": weight(COLUMNS * ROWS)}


def onnx_graph() -> bytes:
    """Return the network as ONNX: four 3x3 convolutions of stride 2 with ReLU, global average pool, linear."""
    nodes, tensor = [], "image"
    for layer in range(len(WIDTHS) - 1):
        nodes.append(helper.make_node("Conv", [tensor, f"w{layer}", f"b{layer}"], [f"c{layer}"], strides=[2, 2], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        tensor = f"r{layer}"
    nodes.append(helper.make_node("GlobalAveragePool", [tensor], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("Gemm", ["flat", "w", "b"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 64, 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", COLUMNS * ROWS])],
        [numpy_helper.from_array(array, name) for name, array in weights().items()],
    )
    model: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    return model


def torch_program(path: Path) -> None:
    """Write the same network as a torch.export program (.pt2)."""
    import torch
    from torch import nn

    arrays = {name: torch.from_numpy(array) for name, array in weights().items()}
    layers: list[nn.Module] = []
    for layer, (narrow, wide) in enumerate(pairwise(WIDTHS)):
        convolution = nn.Conv2d(narrow, wide, 3, stride=2, padding=1)
        convolution.load_state_dict({"weight": arrays[f"w{layer}"], "bias": arrays[f"b{layer}"]})
        layers += [convolution, nn.ReLU()]
    linear = nn.Linear(WIDTHS[-1], COLUMNS * ROWS)
    linear.load_state_dict({"weight": arrays["w"].T.contiguous(), "bias": arrays["b"]})
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear).eval()
    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.export.save(torch.export.export(network, (torch.zeros(2, 3, 64, 64),), dynamic_shapes=({0: batch},)), path)


def pictures() -> list[Image.Image]:
    """Return pieces with detail, as a photograph has, 64x64 RGB."""
    random = np.random.default_rng(1)
    pieces = []
    for _ in range(INPUTS):
        coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        fine = np.asarray(coarse, dtype=np.int16) + random.integers(-8, 9, (64, 64, 3))
        pieces.append(Image.fromarray(np.clip(fine, 0, 255).astype(np.uint8)))
    return pieces


def tensors(items: int = 1) -> list[Array]:
    """Return the pieces as model input, each of shape (items, 3, 64, 64); those with several items begin at different pieces."""
    pieces = np.stack([np.asarray(picture).transpose(2, 0, 1) for picture in pictures()]).astype(np.float32) / np.float32(255)
    return [np.ascontiguousarray(pieces[np.arange(first, first + items) % INPUTS]) for first in range(INPUTS)]


def session(threads: int = 1) -> ort.InferenceSession:
    """Return the graph in onnxruntime, as every row that uses it has it: without spinning threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return ort.InferenceSession(onnx_graph(), options, providers=["CPUExecutionProvider"])


def logits() -> Array:
    """Return the right answers for the pieces, shape (INPUTS, 950)."""
    answers: Array = session().run(None, {"image": np.concatenate(tensors())})[0]
    return answers
