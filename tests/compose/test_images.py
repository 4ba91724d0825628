"""What the images hold, and that their processes end when they are told to."""

import json

import pytest

from tests.compose.stack import OURS, Stack

TENSOR_LIBRARIES = {
    "registry": [],
    "trainer": [],
    "worker": ["lightning", "onnxruntime", "torch"],
    "inference": ["onnxruntime"],
    "torchserve": ["torch", "ts"],
}
INSTALLED = """
import importlib.util, json
print(json.dumps([name for name in ("lightning", "onnxruntime", "tensorflow", "torch", "ts") if importlib.util.find_spec(name)]))
"""
# Of other processes, but in a package that this one has a part of.
FOREIGN = {
    "registry": set(),
    "trainer": set(),
    "worker": {
        *("model_store.s3", "model_store.s3_errors", "tessera.database", "tessera.sql", "tessera.tables"),
        "trainers.families.ptycho.reassembly_tensorflow",
    },
    "inference": {"model_store.s3", "model_store.s3_errors", "services.inference.torchserve.handler"},
    "torchserve": {"services.inference.torchserve.keeper", "tessera.database", "tessera.sql", "tessera.tables"},
}
IMPORT_ALL = """
import importlib, json, pathlib
failed = []
for path in sorted(pathlib.Path("/app").rglob("*.py")):
    name = ".".join(path.relative_to("/app").with_suffix("").parts).removesuffix(".__init__")
    if not name.endswith("__main__") and ".migrations." not in name:
        try:
            importlib.import_module(name)
        except ImportError:
            failed.append(name)
print(json.dumps(failed))
"""


@pytest.mark.parametrize("service", OURS)
def test_an_image_holds_the_tensor_libraries_of_its_process_and_no_other(stack: Stack, service: str) -> None:
    assert json.loads(stack.python(service, INSTALLED)) == TENSOR_LIBRARIES[service]


@pytest.mark.parametrize("service", OURS)
def test_an_image_holds_what_its_sources_import(stack: Stack, service: str) -> None:
    assert set(json.loads(stack.python(service, IMPORT_ALL).splitlines()[-1])) == FOREIGN[service]


def test_all_processes_end_by_themselves_on_sigterm(stack: Stack) -> None:
    stack.compose("stop", *OURS)
    codes = {service: stack.container(service)["State"]["ExitCode"] for service in OURS}
    stack.up()
    assert codes == dict.fromkeys(OURS, 0)  # 137 would be SIGKILL after the time that they have
