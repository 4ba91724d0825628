"""What a training writes into the pipe to its supervisor."""

import json
import os
import select
import threading
from collections.abc import Iterator
from io import RawIOBase
from typing import Any

import pytest

from tests.fixtures.waiting import blocking_until
from trainers.progress import PipeReport

Pipe = tuple[RawIOBase, RawIOBase]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as lines, os.fdopen(writer, "wb", buffering=0) as end:
        yield lines, end


def never_broken() -> None:
    raise AssertionError("the pipe is not broken")


def read(lines: RawIOBase) -> dict[str, Any]:
    return json.loads(lines.readline())


def test_everything_is_told_in_order(pipe: Pipe) -> None:
    lines, writer = pipe
    report = PipeReport(writer.fileno(), on_broken=never_broken)
    report.phase("train")
    report.resumed(2, {1: {"top1": 0.0}, 2: {"top1": 0.125}})
    report.progress(epoch=2, epochs=4, step=10, steps=20, loss=0.5)
    report.epoch(3, {"top1": 0.25})
    report.done({"top1": 1.0})
    assert read(lines)["type"] == "progress"
    assert read(lines) == {"type": "resumed", "epoch": 2}
    assert [(message["epoch"], message["metrics"]["top1"]) for message in (read(lines), read(lines))] == [(1, 0.0), (2, 0.125)]
    progress = read(lines)
    assert progress["metrics"] == {"top1": 0.125}
    assert (progress["phase"], progress["epoch"], progress["step"], progress["steps"], progress["eta_s"]) == ("train", 2, 10, 20, None)
    assert read(lines) == {"type": "epoch", "epoch": 3, "metrics": {"top1": 0.25}}
    assert read(lines) == {"type": "done", "metrics": {"top1": 1.0}}


def test_the_time_left_follows_from_the_steps_of_this_attempt(pipe: Pipe) -> None:
    lines, writer = pipe
    report = PipeReport(writer.fileno(), on_broken=never_broken)
    for step in (10, 12):
        report.progress(epoch=2, epochs=4, step=step, steps=20, loss=0.5)
    assert read(lines)["eta_s"] is None
    assert read(lines)["eta_s"] > 0


class Clock:
    """Stands in for the module `time`; it stands still until a test moves it, and counts who looks at it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.looks = 0

    def monotonic(self) -> float:
        self.looks += 1
        return self.now

    def await_looks(self) -> None:
        """Wait until what was under way at the first of some more looks is over."""
        enough = self.looks + 3
        blocking_until(lambda: self.looks >= enough)


def test_progress_is_repeated_while_nothing_happens_until_it_has_been_silent_too_long(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, writer = pipe
    clock = Clock()
    monkeypatch.setattr("trainers.progress.time", clock)
    report = PipeReport(writer.fileno(), on_broken=never_broken, repeat_s=0.01, silence_s=120.0)
    report.phase("export")
    first = read(lines)
    with report:
        assert read(lines) == read(lines) == first
        clock.now += 120.0
        clock.await_looks()
        while select.select([lines], [], [], 0)[0]:
            os.read(lines.fileno(), 65536)
        clock.await_looks()
        assert not select.select([lines], [], [], 0)[0]
        report.phase("train")
        assert read(lines)["phase"] == "train"
        assert read(lines)["phase"] == "train"


def test_nothing_comes_behind_the_last_word(pipe: Pipe) -> None:
    lines, writer = pipe
    with PipeReport(writer.fileno(), on_broken=never_broken, repeat_s=0.001) as report:
        read(lines)
    report.done({})
    writer.close()
    kinds = [json.loads(line)["type"] for line in lines]
    assert kinds.index("done") == len(kinds) - 1


def test_a_broken_pipe_is_noticed() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    broken = threading.Event()
    PipeReport(writer, on_broken=broken.set).phase("train")
    os.close(writer)
    assert broken.is_set()


def test_a_helper_process_without_a_pipe_says_nothing() -> None:
    with PipeReport(None, on_broken=never_broken) as report:
        report.phase("train")
