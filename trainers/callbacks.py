"""What happens beside the steps of the loop: reports, evaluations with pictures, checkpoints."""

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from tessera.errors import InvalidArgumentError
from trainers.family import Training
from trainers.progress import Report

_REPORT_EVERY_S = 0.25
_KEEP = 2
_REMEMBERED = 1000
"""Epochs whose metrics a checkpoint carries: more than a supervisor has not handed on yet when it is killed."""


class ProgressReports(Callback):
    """Tells about steps, a few times a second and at the end of epochs: asking a GPU for its loss at every step would slow it down."""

    def __init__(self, report: Report, epochs: int) -> None:
        self._report = report
        self._epochs = epochs
        self._last_s = -_REPORT_EVERY_S

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that training begins."""
        self._report.phase("train")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Tell how far it is, and the loss of this step; InvalidArgumentError if the loss has become NaN or infinite."""
        now_s = time.monotonic()
        if now_s - self._last_s < _REPORT_EVERY_S and not trainer.is_last_batch:
            return
        self._last_s = now_s
        loss = float(outputs["loss"])
        if not math.isfinite(loss):
            message = f"the loss became {loss} in epoch {trainer.current_epoch + 1}; a lower learning rate may help"
            raise InvalidArgumentError(message, field="spec.hyperparameters.learning_rate")
        self._report.progress(
            epoch=trainer.current_epoch,
            epochs=self._epochs,
            step=trainer.global_step,
            steps=int(trainer.estimated_stepping_batches),
            loss=loss,
        )


class Evaluation(Callback):
    """Evaluates and draws, in eval mode and without gradients, every so many epochs and after the last."""

    def __init__(self, training: Training, epochs: int, every: int, directory: Path, report: Report) -> None:
        self._training = training
        self._epochs = epochs
        self._every = every
        self._directory = directory
        self._report = report
        self.metrics: dict[str, float] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do it in the first process; the others wait for it at their next step."""
        self.metrics = {}
        number = trainer.current_epoch + 1
        if not trainer.is_global_zero or (number % self._every and number != self._epochs):
            return
        self._report.phase("evaluate")
        self._directory.mkdir(parents=True, exist_ok=True)
        network: Any = pl_module.network
        network.eval()
        with torch.no_grad():
            self.metrics = self._training.evaluate(network)
            self._training.draw(network, self._directory, f"epoch={number:04d}")
        network.train()
        if trainer.logger is not None:
            trainer.logger.log_metrics(self.metrics, step=trainer.global_step)
        self._report.phase("train")


class Checkpoints(Checkpoint):
    """Saves after every epoch and then reports it; being a `Checkpoint`, Lightning calls it after all other callbacks.

    Whoever listens may be killed between the two. So a checkpoint carries the metrics of the epochs before it, and they are reported again
    when a training resumes from it, also behind its last epoch.
    """

    def __init__(self, directory: Path, report: Report) -> None:
        self._directory = directory
        self._report = report
        self._history: dict[int, dict[str, float]] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into the checkpoint: metrics by epoch."""
        return {"history": self._history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it from the checkpoint that is resumed."""
        self._history = state_dict["history"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say from which epoch training goes on, and what came before."""
        if self._history:
            self._report.resumed(max(self._history), self._history)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, forget older checkpoints, report."""
        number = trainer.current_epoch + 1
        self._history[number] = self._metrics(trainer)
        self._history.pop(number - _REMEMBERED, None)
        trainer.save_checkpoint(self._directory / f"epoch={number:04d}.ckpt")
        if not trainer.is_global_zero:
            return
        for old in sorted(self._directory.glob("epoch=*.ckpt"))[:-_KEEP]:
            old.unlink()
        self._report.epoch(number, self._history[number])

    def _metrics(self, trainer: Trainer) -> dict[str, float]:
        """Return the mean training loss of the epoch, the learning rate of its last step, and what an evaluation found after this epoch."""
        evaluation = next(callback for callback in trainer.callbacks if isinstance(callback, Evaluation))
        return {
            "train_loss": float(trainer.callback_metrics["train_loss_epoch"]),
            "learning_rate": float(trainer.callback_metrics["learning_rate"]),
            **{name: float(value) for name, value in evaluation.metrics.items()},
        }
