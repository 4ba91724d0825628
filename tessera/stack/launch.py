"""Start a stack in the background, and stop one from outside."""

import os
import signal
import subprocess
import sys
import time

from tessera.errors import FailedPreconditionError
from tessera.stack.home import Home
from tessera.stack.ports import Ports
from tessera.stack.state import StackState, is_same_process, running_stack

POLL_S = 0.1
STOP_TIMEOUT_S = 60.0
TAIL_LINES = 15


def start_detached(home: Home, ports: Ports) -> StackState:
    """Start a supervisor that outlives this process, and return when everything is healthy.

    Raises:
        FailedPreconditionError: The supervisor gave up, after three minutes at the latest; the message says why.
    """
    home.make()
    log_file = home.log_file("supervisor")
    with log_file.open("wb") as log:
        supervisor = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "tessera.stack", "--home", str(home.path), "--port-base", str(ports.base)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while True:
        if supervisor.poll() is not None:
            raise FailedPreconditionError("\n".join(log_file.read_text(errors="replace").strip().splitlines()[-TAIL_LINES:]))
        state = running_stack(home)
        if state is not None and state.pid == supervisor.pid and state.healthy:
            supervisor.returncode = 0  # it stays; without this Popen would warn that nobody waited for it
            return state
        time.sleep(POLL_S)


def stop_stack(home: Home) -> StackState | None:
    """Stop the stack under this home and return when it is gone, or None if there was none.

    Raises:
        FailedPreconditionError: It is still there after a minute.
    """
    state = running_stack(home)
    if state is None:
        home.state_file.unlink(missing_ok=True)
        return None
    os.kill(state.pid, signal.SIGTERM)
    _await_end(home, state)
    return state


def settled_stack(home: Home) -> StackState | None:
    """Return the stack that runs under this home, or None; one that is stopping is waited for and then counts as gone.

    Raises:
        FailedPreconditionError: It is still there after a minute.
    """
    state = running_stack(home)
    if state is None or not state.stopping:
        return state
    _await_end(home, state)
    return None


def _await_end(home: Home, state: StackState) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while time.monotonic() < deadline:
        if not is_same_process(state.pid, state.create_time):
            return
        time.sleep(POLL_S)
    raise FailedPreconditionError(f"the supervisor (pid {state.pid}) has not ended after {STOP_TIMEOUT_S:g} s; see {home.logs}")
