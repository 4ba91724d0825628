"""The ports of a stack: fixed distances from one base, so that two stacks never meet."""

import errno
import socket
from dataclasses import dataclass

from tessera.errors import FailedPreconditionError

DEFAULT_BASE = 8000
HOST = "127.0.0.1"
DISTANCES = {
    "inference": 1,
    "inference metrics": 2,
    "registry": 10,
    "registry metrics": 11,
    "trainer": 20,
    "trainer metrics": 21,
    "worker metrics": 22,
    "redis": 79,
}
"""What listens where, counted from the base."""


@dataclass(frozen=True)
class Ports:
    """Port numbers of one stack.

    Args:
        base: 1024 to 65,000; the stack uses some of the 80 ports from there.

    Raises:
        FailedPreconditionError: The base is out of range.
    """

    base: int = DEFAULT_BASE

    def __post_init__(self) -> None:
        if not 1024 <= self.base <= 65_000:
            raise FailedPreconditionError(f"port base {self.base} is out of range: choose one from 1024 to 65000 with --port-base")

    def of(self, what: str) -> int:
        """Return the port of one listener, named as in DISTANCES."""
        return self.base + DISTANCES[what]

    def address(self, what: str) -> str:
        """Return `host:port` of one listener."""
        return f"{HOST}:{self.of(what)}"

    def check_free(self) -> None:
        """Raise FailedPreconditionError naming every port that somebody else listens on."""
        taken = [f"{self.of(what)} ({what})" for what in DISTANCES if not _is_free(self.of(what))]
        if taken:
            raise FailedPreconditionError(
                f"already in use: port {', port '.join(taken)}. Stop what listens there, "
                f"or choose other ports with --port-base (or TESSERA_PORT_BASE), for example --port-base {self.base + 1000}"
            )


def _is_free(port: int) -> bool:
    # Without SO_REUSEPORT: gRPC servers set it, and would share a port with a stranger without a word.
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True
