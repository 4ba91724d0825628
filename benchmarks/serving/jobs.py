"""What the load generator is told to do, and what it tells in return: lines of JSON through a pipe."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Target:
    """A server as the load generator sees it.

    Args:
        protocol: Name in `benchmarks.serving.protocols`.
        address: host:port.
        pid: Its process; CPU time is that of all below it too.
        model: Name of the model there.
        metadata: gRPC metadata of every request.
    """

    protocol: str
    address: str
    pid: int
    model: str = ""
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Load:
    """One way to put load on a server.

    Args:
        mode: How the tables name it: closed, open, batch, overload.
        clients: Requests under way at the same time in a closed loop; connections otherwise.
        rate: Requests a second of an open loop; 0: a closed loop.
        items: Pieces in a request.
        timeout_s: Deadline of each request.
    """

    mode: str
    clients: int
    rate: float = 0.0
    items: int = 1
    timeout_s: float = 10.0


@dataclass(frozen=True)
class Job:
    """One measurement: a load on a target for so many seconds, after a warm-up that does not count."""

    target: Target
    load: Load
    seconds: float
    warm_up_s: float


@dataclass(frozen=True)
class Outcome:
    """What one measurement showed.

    Args:
        wall_s: How long it took.
        seconds: Latency of every answer.
        errors: Requests without an answer, by status code.
        checked: Answers that were compared with the right ones.
        wrong: Those that differed.
        server_cpu_s: CPU time of the server's processes.
        client_cpu_s: CPU time of the load generator.
        other_cpu_s: CPU time of everything else on the machine.
        phases_ms: Mean of what the server says about where the time went, by phase; empty if it says nothing.
    """

    wall_s: float
    seconds: list[float]
    errors: dict[str, int] = field(default_factory=dict)
    checked: int = 0
    wrong: int = 0
    server_cpu_s: float = 0.0
    client_cpu_s: float = 0.0
    other_cpu_s: float = 0.0
    phases_ms: dict[str, float] = field(default_factory=dict)
