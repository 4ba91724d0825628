"""onnxruntime under the runtime interface, and the golden example."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY
from safetensors.numpy import save_file

from model_store.manifest import FileEntry, Manifest
from services.inference.golden import Golden
from services.inference.runtimes import Runtimes, carried_runtimes, known_runtimes, onnxruntime
from services.inference.runtimes.runtime import RuntimeOptions, Tensors
from services.inference.settings import InferenceSettings
from tessera.errors import FailedPreconditionError
from tests.fixtures.inference import CELLS, TinyModel, manifest_of

TINY = TinyModel(marker=3)
IMAGES = np.random.default_rng(1).uniform(0, 1, (5, 3, 64, 64)).astype(np.float32)


def files(*graphs: str) -> tuple[FileEntry, ...]:
    entries = [FileEntry(path=path, sha256="0" * 64, size_bytes=1, role="graph") for path in graphs]
    return (*entries, FileEntry(path="golden.safetensors", sha256="0" * 64, size_bytes=1, role="golden"))


def load(directory: Path, graph: bytes, **changes: Any) -> onnxruntime.OnnxModel:
    (directory / "model.onnx").write_bytes(graph)
    manifest = manifest_of("puzzle", files("model.onnx"), **changes)
    return onnxruntime.OnnxRuntime(1).load(manifest, directory / "model.onnx", RuntimeOptions())


def golden(directory: Path, tensors: dict[str, np.ndarray[Any, Any]], **tolerances: float) -> Golden:
    save_file(tensors, directory / "golden.safetensors")
    manifest = manifest_of("puzzle", files("model.onnx"), golden={"file": "golden.safetensors", **tolerances})
    return Golden.load(manifest, directory)


def sessions_on(provider: str) -> float:
    return REGISTRY.get_sample_value("inference_onnxruntime_sessions", {"provider": provider}) or 0.0


def test_a_runtime_is_found_by_the_name_of_its_file() -> None:
    assert known_runtimes() == ["onnxruntime", "torchserve"]
    runtimes = Runtimes(InferenceSettings(instances=3))
    found = runtimes.find("onnxruntime")
    assert isinstance(found, onnxruntime.OnnxRuntime)
    assert found.instances == 3
    assert runtimes.find("onnxruntime") is found
    runtimes.close()


@pytest.mark.parametrize("name", ["abacus", "runtime"])
def test_an_unknown_runtime_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(FailedPreconditionError, match="this server has onnxruntime, torchserve"):
        carried_runtimes(manifest_of("puzzle", files("model.onnx"), runtime=name))


@pytest.mark.parametrize("graphs", [("model.onnx", "other.onnx"), ("model.pt2",)])
def test_a_version_without_exactly_one_graph_for_the_runtime_that_it_prefers_is_refused(graphs: tuple[str, ...]) -> None:
    found = sum(graph.endswith(".onnx") for graph in graphs)
    with pytest.raises(
        FailedPreconditionError, match=rf"onnxruntime needs exactly one .onnx file with the role graph; the manifest has {found}"
    ):
        carried_runtimes(manifest_of("puzzle", files(*graphs)))


def test_a_graph_computes_what_numpy_computes(tmp_path: Path) -> None:
    model = load(tmp_path, TINY.graph())
    np.testing.assert_allclose(model.run({"image": IMAGES})["logits"], TINY.logits(IMAGES), rtol=1e-5, atol=1e-5)
    model.close()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"inputs": ({"name": "picture", "data_type": "FP32", "shape": (-1, 3, 64, 64)},)}, "graph's inputs are {'image': 'FP32'}"),
        ({"outputs": ({"name": "logits", "data_type": "FP64", "shape": (-1, CELLS)},)}, "graph's outputs are {'logits': 'FP32'}"),
    ],
)
def test_a_graph_that_is_not_what_the_manifest_declares_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    (tmp_path / "model.onnx").write_bytes(TINY.graph())
    manifest = Manifest(**(manifest_of("puzzle", files("model.onnx")).model_dump() | changes))
    with pytest.raises(FailedPreconditionError, match=reason):
        onnxruntime.OnnxRuntime(1).load(manifest, tmp_path / "model.onnx", RuntimeOptions())


@pytest.mark.parametrize("graph", [b"", b"not a graph", TINY.graph()[:100]])
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, graph: bytes) -> None:
    with pytest.raises(FailedPreconditionError, match=r"onnxruntime cannot load model\.onnx"):
        load(tmp_path, graph)


def test_a_provider_that_is_available_but_does_not_work_is_not_taken_for_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class CpuOnly:
        def __init__(self, *args: object, **options: Any) -> None:
            assert options["providers"] == ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(onnxruntime.ort, "get_available_providers", lambda: ["CPUExecutionProvider", "CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime.ort, "InferenceSession", CpuOnly)
    before = sessions_on("CPUExecutionProvider")
    model = onnxruntime.OnnxModel(tmp_path / "model.onnx", ["logits"], RuntimeOptions())
    assert "the preferred execution provider does not work" in capsys.readouterr().out
    assert sessions_on("CPUExecutionProvider") == before + 1
    model.close()
    assert sessions_on("CPUExecutionProvider") == before


def test_the_golden_example_passes_in_company_and_alone(tmp_path: Path) -> None:
    sizes: list[int] = []

    def run(inputs: Tensors) -> Tensors:
        sizes.append(len(inputs["image"]))
        return {"logits": TINY.logits(inputs["image"].astype(np.float32))}

    example = golden(tmp_path, {"inputs.image": IMAGES, "outputs.logits": TINY.logits(IMAGES)})
    example.warm_up(run, 6)
    assert sizes == [1, 2, 4, 6]
    sizes.clear()
    example.check(run, 3)
    assert sorted(sizes) == [1, 1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda logits: logits + np.float32(0.1), r"logits differs by up to 0.1\d*; rtol 0.001 and atol 0.0001"),
        (lambda logits: np.where(logits > 7, np.nan, logits).astype(np.float32), "logits differs by up to nan"),
        (lambda logits: logits.astype(np.float64), "logits is float64 of shape"),
        (lambda logits: logits[:, :5], r"shape \[\d, 5\] instead of float32 of shape \[\d, 12\]"),
    ],
)
def test_a_model_that_answers_otherwise_is_refused(tmp_path: Path, change: Any, reason: str) -> None:
    example = golden(tmp_path, {"inputs.image": IMAGES, "outputs.logits": TINY.logits(IMAGES)})
    with pytest.raises(FailedPreconditionError, match=reason):
        example.check(lambda inputs: {"logits": change(TINY.logits(inputs["image"].astype(np.float32)))}, 8)


def test_a_model_that_answers_otherwise_in_company_is_refused(tmp_path: Path) -> None:
    def run(inputs: Tensors) -> Tensors:
        images = inputs["image"].astype(np.float32)
        return {"logits": TINY.logits(images - images.mean(axis=0) * (len(images) > 1))}

    example = golden(tmp_path, {"inputs.image": IMAGES, "outputs.logits": TINY.logits(IMAGES)})
    example.check(run, 1)
    with pytest.raises(FailedPreconditionError):
        example.check(run, 8)


def test_tolerances_are_those_of_the_manifest(tmp_path: Path) -> None:
    tensors = {"inputs.image": IMAGES, "outputs.logits": TINY.logits(IMAGES) + np.float32(0.1)}
    golden(tmp_path, tensors, atol=0.2).check(lambda inputs: {"logits": TINY.logits(inputs["image"].astype(np.float32))}, 8)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"inputs.image": IMAGES}, "lacks the tensor 'outputs.logits'"),
        ({"inputs.image": IMAGES, "outputs.logits": TINY.logits(IMAGES)[:2]}, "the same number of rows"),
        ({"inputs.image": IMAGES[:0], "outputs.logits": TINY.logits(IMAGES)[:0]}, "1 or more"),
    ],
)
def test_an_incomplete_golden_example_is_refused(tmp_path: Path, tensors: dict[str, Any], reason: str) -> None:
    with pytest.raises(FailedPreconditionError, match=reason):
        golden(tmp_path, tensors)


def test_a_damaged_golden_example_is_refused(tmp_path: Path) -> None:
    (tmp_path / "golden.safetensors").write_bytes(b"\x10" + bytes(7) + b"{" * 16)
    with pytest.raises(FailedPreconditionError, match="cannot be read"):
        Golden.load(manifest_of("puzzle", files("model.onnx")), tmp_path)
