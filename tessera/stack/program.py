"""What the stack runs."""

import secrets
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from tessera.stack.checks import check_grpc, check_metrics, check_redis
from tessera.stack.home import Home
from tessera.stack.ports import HOST, Ports
from tessera.stack.redis import redis_command, redis_url

SHUTDOWN_GRACE_S = "5"


@dataclass(frozen=True)
class Program:
    """One process of a stack.

    Args:
        name: Unique in the stack.
        command: What to execute.
        address: Where it listens, for people.
        check: Raises UnavailableError until it is ready.
        env: Added to the environment of the supervisor.
        needs: Names of programs that must be ready before this one is started.
    """

    name: str
    command: tuple[str, ...]
    address: str
    check: Callable[[], Awaitable[None]]
    env: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()


def embedded_programs(home: Home, ports: Ports) -> list[Program]:
    """Return the programs of the embedded stack, each after those it needs; every call gives its Redis another password."""
    password = secrets.token_urlsafe(32)
    redis = redis_url(ports, password)
    registry, trainer, worker = ports.address("registry"), ports.address("trainer"), ports.address("worker metrics")
    return [
        Program(
            name="redis",
            command=redis_command(home, ports, password),
            address=ports.address("redis"),
            check=partial(check_redis, ports.address("redis"), password),
        ),
        _server(
            "registry",
            ports,
            env={"DATABASE_URL": home.database_url("registry"), "BLOB_STORE": f"file://{home.blobs}"},
        ),
        _server(
            "trainer",
            ports,
            env={"DATABASE_URL": home.database_url("trainer"), "REDIS_URL": redis, "REGISTRY_ADDRESS": registry},
            needs=("redis", "registry"),
        ),
        Program(
            name="worker",
            command=_python("trainers.worker"),
            address=worker,
            check=partial(check_metrics, f"http://{worker}/metrics"),
            env=_environment(
                "worker",
                TRAINER_ADDRESS=trainer,
                REGISTRY_ADDRESS=registry,
                REDIS_URL=redis,
                WORK_DIR=str(home.worker),
                METRICS_PORT=str(ports.of("worker metrics")),
            ),
            needs=("redis", "registry", "trainer"),
        ),
        _server(
            "inference",
            ports,
            env={
                "REGISTRY_ADDRESS": registry,
                "CACHE_DIR": str(home.cache),
                "DATABASE_URL": home.database_url("inference"),
                "REDIS_URL": redis,
                "TORCHSERVE__LOG_FILE": str(home.log_file("torchserve")),
            },
            needs=("redis", "registry"),
        ),
    ]


def _server(name: str, ports: Ports, *, env: Mapping[str, str], needs: tuple[str, ...] = ()) -> Program:
    listeners = {"PORT": str(ports.of(name)), "METRICS_PORT": str(ports.of(f"{name} metrics"))}
    return Program(
        name=name,
        command=_python(f"services.{name}"),
        address=ports.address(name),
        check=partial(check_grpc, ports.address(name)),
        env=_environment(name, **listeners, **env),
        needs=needs,
    )


def _python(module: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module)


def _environment(service: str, **settings: str) -> dict[str, str]:
    common = {"HOST": HOST, "SHUTDOWN_GRACE_S": SHUTDOWN_GRACE_S}
    return {f"TESSERA_{service.upper()}_{name}": value for name, value in {**common, **settings}.items()}
