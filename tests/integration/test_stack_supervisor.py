"""The supervisor of the embedded stack, on tiny programs that stand in for the services."""

import asyncio
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import psutil
import pytest

from tessera.errors import AlreadyExistsError, FailedPreconditionError, UnavailableError
from tessera.stack.home import Home
from tessera.stack.keeper import Keeper, State
from tessera.stack.ports import Ports
from tessera.stack.program import Program
from tessera.stack.state import exclusive, read_state, running_stack
from tessera.stack.supervisor import Supervisor
from tests.fixtures.waiting import WAIT_S, blocking_until, until

STAND_IN = textwrap.dedent("""
    import pathlib, signal, sys, time
    name, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    def note(what):
        with (directory / "events").open("a") as events:
            events.write(f"{what} {name}\\n")
    def stop(*_):
        note("stop")
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    note("start")
    (directory / f"{name}.ready").touch()
    while True:
        time.sleep(0.05)
""")


async def _ready(file: Path) -> None:
    if not file.exists():
        raise UnavailableError("not yet")


def _program(name: str, directory: Path, *needs: str) -> Program:
    command = (sys.executable, "-c", STAND_IN, name, str(directory))
    return Program(name, command, "nowhere", partial(_ready, directory / f"{name}.ready"), needs=needs)


def _three(directory: Path) -> list[Program]:
    return [_program("a", directory), _program("b", directory, "a"), _program("c", directory, "a", "b")]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.make()
    return made


async def test_starts_what_is_needed_first_and_stops_it_last(home: Home, tmp_path: Path) -> None:
    supervisor = Supervisor(home, Ports(9000), _three(tmp_path))
    await supervisor.start()
    assert supervisor.state().healthy
    await supervisor.stop()
    events = (tmp_path / "events").read_text().splitlines()
    assert events == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]
    assert [process.state for process in supervisor.state().processes] == [State.STOPPED] * 3


async def test_a_killed_process_is_started_again(home: Home, tmp_path: Path) -> None:
    supervisor = Supervisor(home, Ports(9000), _three(tmp_path))
    await supervisor.start()
    try:
        killed = supervisor.state().processes[1].pid
        assert killed is not None
        psutil.Process(killed).kill()

        def is_back() -> bool:
            state = read_state(home)
            return state is not None and state.healthy and state.processes[1].restarts == 1

        await until(is_back)
        assert supervisor.state().processes[1].pid != killed
        assert [process.restarts for process in supervisor.state().processes] == [0, 1, 0]
    finally:
        await supervisor.stop()


async def test_a_program_that_cannot_start_is_told_with_the_end_of_its_log(home: Home, tmp_path: Path) -> None:
    broken = Program(
        "broken",
        (sys.executable, "-c", "import sys; sys.exit('the disk is gone')"),
        "nowhere",
        partial(_ready, tmp_path / "never"),
        needs=("a",),
    )
    supervisor = Supervisor(home, Ports(9000), [_program("a", tmp_path), broken])
    with pytest.raises(FailedPreconditionError, match=r"broken does not start \(exit code 1\)[^$]*the disk is gone"):
        await supervisor.start()
    await supervisor.stop()
    assert supervisor.state().processes[0].pid is None


async def test_a_process_that_ignores_sigterm_is_killed(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.stack.keeper.STOP_GRACE_S", 0.2)
    ready = tmp_path / "ready"
    ignore = "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    deaf = f"{ignore}; pathlib.Path({str(ready)!r}).touch(); time.sleep(600)"
    keeper = Keeper(Program("deaf", (sys.executable, "-c", deaf), "nowhere", partial(_ready, ready)), home.log_file("deaf"), lambda: None)
    task = asyncio.create_task(keeper.keep())
    await keeper.ready.wait()
    pid = keeper.pid
    assert pid is not None
    task.cancel()
    await asyncio.wait([task])
    assert not psutil.pid_exists(pid)


async def test_a_log_is_bounded_while_its_process_runs(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.stack.keeper.LOG_LIMIT_BYTES", 10_000)
    monkeypatch.setattr("tessera.stack.keeper.HEALTH_INTERVAL_S", 0.01)
    chatty = "import time\nfor n in range(10**9):\n print('line', n, flush=True)\n if n % 100 == 0: time.sleep(0.01)"
    log = home.log_file("chatty")
    keeper = Keeper(Program("chatty", (sys.executable, "-c", chatty), "nowhere", partial(_ready, tmp_path)), log, lambda: None)
    task = asyncio.create_task(keeper.keep())
    copy = log.with_name("chatty.log.1")
    await until(lambda: copy.exists() and any(len(line) > len("line 9999") for line in copy.read_text().splitlines()))
    pid = keeper.pid
    task.cancel()
    await asyncio.wait([task])
    assert pid is not None
    assert keeper.restarts == 0, "it is one process all the time"
    assert copy.stat().st_size <= 10_000
    assert sorted(file.name for file in home.logs.iterdir()) == ["chatty.log", "chatty.log.1"]


def test_a_killed_supervisor_leaves_no_process_behind(home: Home, tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import asyncio, pathlib, sys
        from tessera.stack.home import Home
        from tessera.stack.ports import Ports
        from tessera.stack.supervisor import Supervisor
        from tests.integration.test_stack_supervisor import _three
        async def main():
            await Supervisor(Home(pathlib.Path(sys.argv[1])), Ports(9000), _three(pathlib.Path(sys.argv[2]))).start()
            await asyncio.Event().wait()
        asyncio.run(main())
    """)
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", script, str(home.path), str(tmp_path)], cwd=root) as supervisor:
        blocking_until(lambda: (state := running_stack(home)) and state.healthy)
        state = running_stack(home)
        assert state is not None
        children = [psutil.Process(process.pid) for process in state.processes]
        assert len(children) == 3
        supervisor.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=WAIT_S)
    assert not alive
    assert running_stack(home) is None, "the state file of a dead supervisor counts for nothing"


def test_one_home_has_one_supervisor(home: Home) -> None:
    with exclusive(home), pytest.raises(AlreadyExistsError, match=r"already runs under .*tessera down"), exclusive(home):
        pass
    with exclusive(home):
        pass
