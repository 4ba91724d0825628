"""How a training tells its supervisor how it goes: one JSON object a line through a pipe."""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self


class Report(Protocol):
    """Who wants to know how a training goes."""

    def phase(self, name: str) -> None:
        """Something else begins: "prepare", "train", "evaluate", "export"."""

    def progress(self, *, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        """So many epochs and steps are done."""

    def epoch(self, number: int, metrics: dict[str, float]) -> None:
        """An epoch is finished and its checkpoint is on disk."""

    def resumed(self, epoch: int, history: Mapping[int, dict[str, float]]) -> None:
        """Training goes on behind this epoch; the metrics of the epochs up to it, by number, once more."""


class PipeReport:
    """A `Report` that writes to a pipe.

    While it is open (`with`), the newest progress is repeated, so that long steps (preparing, evaluating, exporting) look alive. If
    nothing new happens for too long the repeating ends: a training that hangs must not look alive for ever.

    Args:
        fd: Write end of the pipe; None writes nothing.
        on_broken: Called when nobody reads the pipe any more.
        repeat_s: Between two repetitions, seconds.
        silence_s: Without news for so long, the repeating ends, seconds.
    """

    def __init__(self, fd: int | None, *, on_broken: Callable[[], None], repeat_s: float = 0.5, silence_s: float = 120.0) -> None:
        self._fd = fd
        self._on_broken = on_broken
        self._repeat_s = repeat_s
        self._silence_s = silence_s
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="progress", daemon=True)
        self._progress: dict[str, Any] = {"epoch": 0, "epochs": 0, "step": 0, "steps": 0, "loss": 0.0, "eta_s": None}
        self._phase = "prepare"
        self._metrics: dict[str, float] = {}
        self._first: tuple[int, float] | None = None
        self._news_s = time.monotonic()

    def __enter__(self) -> Self:
        """Begin to repeat."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop repeating; what is written afterwards is the last line."""
        self._closing.set()
        self._thread.join()

    def phase(self, name: str) -> None:
        """Tell that something else begins."""
        self._phase = name
        self._tell_progress()

    def progress(self, *, epoch: int, epochs: int, step: int, steps: int, loss: float) -> None:
        """Tell how many epochs and steps are done."""
        now_s = time.monotonic()
        first_step, first_s = self._first = self._first or (step, now_s)
        eta_s = (steps - step) * (now_s - first_s) / (step - first_step) if step > first_step else None
        self._progress = {"epoch": epoch, "epochs": epochs, "step": step, "steps": steps, "loss": loss, "eta_s": eta_s}
        self._tell_progress()

    def epoch(self, number: int, metrics: dict[str, float]) -> None:
        """Tell that an epoch is finished, and its metrics."""
        self._metrics = metrics
        self._progress["epoch"] = number
        self._write({"type": "epoch", "epoch": number, "metrics": metrics})

    def resumed(self, epoch: int, history: Mapping[int, dict[str, float]]) -> None:
        """Tell from which epoch training goes on, and once more what the epochs up to it came to: the listener before may be gone."""
        self._metrics = history[epoch]
        self._progress["epoch"] = epoch
        self._write({"type": "resumed", "epoch": epoch})
        for number, metrics in history.items():
            self._write({"type": "epoch", "epoch": number, "metrics": metrics})

    def done(self, metrics: dict[str, float]) -> None:
        """Tell that the artifact is complete."""
        self._write({"type": "done", "metrics": metrics})

    def error(self, message: str, *, permanent: bool) -> None:
        """Tell why it ends, and whether every attempt would."""
        self._write({"type": "error", "permanent": permanent, "message": message})

    def _tell_progress(self) -> None:
        self._news_s = time.monotonic()
        self._write_progress()

    def _write_progress(self) -> None:
        self._write({"type": "progress", "phase": self._phase, "metrics": self._metrics, **self._progress})

    def _repeat(self) -> None:
        while not self._closing.wait(self._repeat_s):
            if time.monotonic() - self._news_s < self._silence_s:
                self._write_progress()

    def _write(self, message: dict[str, Any]) -> None:
        """Write one line, as a whole."""
        if self._fd is None:
            return
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        try:
            with self._lock:
                while data:
                    data = data[os.write(self._fd, data) :]
        except BrokenPipeError:
            self._on_broken()
