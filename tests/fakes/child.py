"""A training process that trains nothing: it speaks the protocol of `trainers.child`, writes checkpoints, and misbehaves when told to.

Every epoch that it begins and finishes goes to `epochs.log` in the job's directory, whichever attempt it belongs to. It stays in an epoch
that it is told to hold until the file `go` lies there.
"""

import argparse
import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.fixtures.artifacts import Artifact

_PR_SET_PDEATHSIG = 1


class Child:
    def __init__(self, directory: Path, fd: int) -> None:
        self.directory = directory
        self.job: dict[str, Any] = json.loads((directory / "job.json").read_text())
        self.wishes: dict[str, Any] = self.job["hyperparameters"]
        self.epochs = int(self.wishes["epochs"])
        self.pipe = os.fdopen(fd, "w", buffering=1)

    def tell(self, kind: str, **fields: Any) -> None:
        self.pipe.write(json.dumps({"type": kind, **fields}) + "\n")

    def note(self, what: str, epoch: int) -> None:
        with (self.directory.parent / "epochs.log").open("a") as log:
            log.write(f"{what} {self.job['attempt']} {epoch}\n")

    def misbehaves(self, how: str, epoch: int) -> bool:
        return self.wishes.get(how) == epoch and self.job["attempt"] <= self.wishes.get("faulty_attempts", 1)

    def is_held(self, epoch: int) -> bool:
        return self.misbehaves("hold_at", epoch) and not (self.directory.parent / "go").exists()

    def train(self) -> None:
        first = 1
        if self.job["resume_from"]:
            history = json.loads(Path(self.job["resume_from"]).read_text())
            first = len(history) + 1
            self.tell("resumed", epoch=first - 1)
            for epoch, metrics in enumerate(history, 1):
                self.tell("epoch", epoch=epoch, metrics=metrics)
        else:
            history = []
        for epoch in range(first, self.epochs + 1):
            self.note("begin", epoch)
            self.train_epoch(epoch)
            checkpoint = self.directory / "checkpoints" / f"epoch={epoch:04}.ckpt"
            checkpoint.parent.mkdir(exist_ok=True)
            history.append({"top1": epoch / self.epochs})
            checkpoint.with_suffix(".partial").write_text(json.dumps(history))
            checkpoint.with_suffix(".partial").replace(checkpoint)
            self.note("end", epoch)
            if self.misbehaves("kill_worker_at", epoch):
                os.kill(os.getppid(), signal.SIGKILL)
                signal.pause()  # until the kernel ends it, because its parent has died
            self.tell("epoch", epoch=epoch, metrics=history[-1])
        self.export()

    def train_epoch(self, epoch: int) -> None:
        until = time.monotonic() + float(self.wishes.get("epoch_s", 0.05))
        while True:
            done = {"epoch": epoch - 1, "epochs": self.epochs, "step": epoch, "steps": self.epochs, "loss": 1 / epoch}
            self.tell("progress", phase="train", eta_s=self.epochs - epoch, **done)
            if self.misbehaves("hang_at", epoch):
                signal.pause()
            if self.misbehaves("die_at", epoch):
                os.kill(os.getpid(), signal.SIGKILL)
            if self.misbehaves("raise_at", epoch) and Path(self.wishes.get("raise_when_exists", "/")).exists():
                raise RuntimeError(f"epoch {epoch} went wrong")
            if time.monotonic() >= until and not self.misbehaves("raise_at", epoch) and not self.is_held(epoch):
                return
            time.sleep(0.02)

    def export(self) -> None:
        lineage = {"experiment_id": self.job["experiment_id"]}
        changes = {"family": self.job["family"], "architecture": self.job["architecture"], "lineage": lineage}
        artifact = Artifact(model=self.job["model"], changes=changes)
        files = {**artifact.files(), "manifest.json": artifact.manifest()}
        if given := self.wishes.get("artifact"):  # a directory with another one
            files = {path.name: path.read_bytes() for path in Path(given).iterdir()}
            files["manifest.json"] = json.dumps(json.loads(files["manifest.json"]) | changes).encode()
        directory = self.directory / "artifact"
        directory.mkdir()
        for path, data in files.items():
            (directory / path).write_bytes(data)
        self.tell("done", metrics={"top1": 1.0})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--progress-fd", type=int, required=True)
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    child = Child(arguments.directory, arguments.progress_fd)
    try:
        child.train()
    except RuntimeError as error:
        child.tell("error", permanent=bool(child.wishes.get("permanent")), message=str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
