"""How the supervisor treats a child process: messages, silence, signals, leftovers."""

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.waiting import WAIT_S, until
from trainers.supervision import Ending, supervise

ROOT = Path(__file__).parents[2]
PRELUDE = """
import argparse, json, os, signal, subprocess, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("directory")
parser.add_argument("--progress-fd", type=int)
fd = parser.parse_args().progress_fd
def tell(**message): os.write(fd, json.dumps(message).encode() + b"\\n")
"""


class Run:
    """Runs a script as the child and keeps what it sent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.messages: list[dict[str, Any]] = []

    async def __call__(self, script: str, *, stall_timeout_s: float = WAIT_S, stop_grace_s: float = 0.5) -> Ending:
        program = self.directory / "program.py"
        program.write_text(PRELUDE + textwrap.dedent(script))
        command = [sys.executable, str(program)]
        return await supervise(command, self.directory, self.messages.append, stall_timeout_s=stall_timeout_s, stop_grace_s=stop_grace_s)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


async def test_a_child_that_is_done_brings_its_metrics_and_every_message_arrives_in_order(run: Run) -> None:
    ending = await run("""
        for step in range(1000): tell(type="progress", step=step)
        tell(type="done", metrics={"top1": 1, "name": "x"})
    """)
    assert ending == Ending(metrics={"top1": 1.0})
    assert [message["step"] for message in run.messages[:-1]] == list(range(1000))


async def test_what_a_child_prints_is_bounded_while_it_trains(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.supervision.OUTPUT_LIMIT_BYTES", 1000)
    ending = await run("""
        output = os.path.join(os.path.dirname(__file__), "output.log")
        for step in range(50):
            print("x" * 99, flush=True)
            tell(type="progress", step=step)
            while os.path.getsize(output) > 1000: time.sleep(0.001)
        sys.exit("the last words")
    """)
    assert ending.error.endswith("it last printed: the last words")
    assert [message["step"] for message in run.messages] == list(range(50))
    assert (run.directory / "output.log").stat().st_size <= 1100
    assert (run.directory / "output.log.1").stat().st_size == 1000


@pytest.mark.parametrize("permanent", [True, False])
async def test_an_error_is_told_in_the_words_of_the_child(run: Run, permanent: bool) -> None:
    ending = await run(f"tell(type='error', permanent={permanent}, message='no picture'); sys.exit(1)")
    assert ending == Ending(error="no picture", permanent=permanent)


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL (out of memory?)"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
        ("raise SystemExit('a last word')", "exited with code 1 and did not say why; it last printed: a last word"),
        ("os._exit(3)", "exited with code 3 and did not say why"),
        ("sys.exit(0)", "exited with code 0 and did not say why"),
    ],
)
async def test_a_child_that_says_nothing_is_spoken_for_by_its_exit(run: Run, script: str, error: str) -> None:
    assert await run(script) == Ending(error=f"the training process {error}")


async def test_a_silent_child_is_killed(run: Run) -> None:
    ending = await run("tell(type='progress'); open('/proc/self/comm').read(); signal.pause()", stall_timeout_s=1.0)
    assert ending.error == "gave no sign of life for 1 s and was killed"


async def test_lines_that_are_no_messages_are_passed_over(run: Run) -> None:
    ending = await run("""
        os.write(fd, b"not json\\n[1]\\n{}\\n" + b"x" * 3_000_000 + b"\\n")
        tell(type="done", metrics=None)
    """)
    assert ending == Ending()
    assert [message["type"] for message in run.messages] == ["done"]


async def test_processes_that_a_child_leaves_behind_are_killed(run: Run) -> None:
    ending = await run("""
        helper = subprocess.Popen(["sleep", "1000"], pass_fds=[fd])
        tell(type="helper", pid=helper.pid)
        tell(type="done", metrics={})
    """)
    assert ending == Ending()
    helper = run.messages[0]["pid"]
    await until(lambda: _has_ended(helper))


async def test_a_cancelled_child_stops_also_when_it_ignores_sigterm(run: Run) -> None:
    task = asyncio.create_task(
        run("""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tell(type="up", pid=os.getpid())
        while True: signal.pause()
    """)
    )
    await until(lambda: run.messages)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _has_ended(run.messages[0]["pid"])


SUPERVISING = """
import asyncio, os, sys
from pathlib import Path
from trainers.supervision import supervise

def opened():
    return sorted(os.listdir("/proc/self/fd"))

async def run(*command):
    return await supervise(command, Path(sys.argv[1]), print, stall_timeout_s=60, stop_grace_s=1)

async def main():
    await run("true")
    before = opened()
    for _ in range(3):
        await run("true")
    try:
        await run("/nowhere")
    except OSError as error:
        assert "nowhere" in str(error)
    else:
        raise AssertionError("it does not exist")
    assert opened() == before, (before, opened())

asyncio.run(main())
"""


def test_no_file_descriptor_is_left_open(tmp_path: Path) -> None:
    """In a process of its own, in which no other test opens and closes anything."""
    command = [sys.executable, "-c", SUPERVISING, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
