"""What a running stack tells about itself, in a file: other commands find the services and the supervisor by it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from tessera.errors import AlreadyExistsError
from tessera.stack.home import Home
from tessera.stack.ports import Ports

ADDRESSES = ("registry", "trainer", "inference")


class ProcessState(BaseModel):
    """One process of a stack."""

    model_config = ConfigDict(frozen=True)

    name: str
    state: str
    pid: int | None
    address: str
    restarts: int
    log: Path


class StackState(BaseModel):
    """A stack as its supervisor sees it."""

    model_config = ConfigDict(frozen=True)

    pid: int
    create_time: float
    """Start of the supervisor, seconds since 1970: a pid may be given to another process later."""
    port_base: int
    addresses: dict[str, str]
    healthy: bool
    stopping: bool
    """It takes no new work; its processes are ending."""
    processes: list[ProcessState]

    def is_alive(self) -> bool:
        """Tell whether the supervisor that wrote this still runs."""
        return is_same_process(self.pid, self.create_time)


def is_same_process(pid: int, create_time: float) -> bool:
    """Tell whether the process with this pid is the one that started at `create_time`, and not a later one."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - create_time) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def addresses(ports: Ports) -> dict[str, str]:
    """Return the addresses of the services, by name."""
    return {name: ports.address(name) for name in ADDRESSES}


def read_state(home: Home) -> StackState | None:
    """Return what the stack under this home told last, or None; of a supervisor that is gone too: see `StackState.is_alive`."""
    try:
        return StackState.model_validate_json(home.state_file.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def running_stack(home: Home) -> StackState | None:
    """Return the state of the stack that runs under this home, or None."""
    state = read_state(home)
    return state if state is not None and state.is_alive() else None


def write_state(home: Home, state: StackState) -> None:
    """Replace the state file at once, so that a reader never sees half of it."""
    temporary = home.state_file.with_suffix(".tmp")
    temporary.write_text(state.model_dump_json(indent=2))
    temporary.replace(home.state_file)


@contextmanager
def exclusive(home: Home) -> Iterator[None]:
    """Be the only supervisor of this home; the kernel ends that with the process, however it dies.

    Raises:
        AlreadyExistsError: Another supervisor runs.
    """
    with home.lock_file.open("w") as lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            state = read_state(home)
            who = f" (pid {state.pid}, registry at {state.addresses['registry']})" if state else ""
            raise AlreadyExistsError(
                f"a stack already runs under {home.path}{who}; see `tessera status`, or stop it with `tessera down`"
            ) from None
        try:
            yield
        finally:
            home.state_file.unlink(missing_ok=True)


def own_create_time() -> float:
    """Return when this process started, seconds since 1970."""
    return float(psutil.Process(os.getpid()).create_time())
