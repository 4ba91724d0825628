"""What happens beside the steps of the loop: reports, evaluations with pictures, checkpoints."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from tessera.errors import InvalidArgumentError
from trainers.family import Training

if TYPE_CHECKING:
    from trainers.loop import Report

_REPORT_EVERY_S = 0.25
_KEEP = 2


class ProgressReports(Callback):
    """Tells about steps, a few times a second and at the end of epochs: asking a GPU for its loss at every step would slow it down."""

    def __init__(self, report: Report, epochs: int, *, resumed: bool) -> None:
        self._report = report
        self._epochs = epochs
        self._resumed = resumed
        self._last_s = -_REPORT_EVERY_S

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say that training begins, and from which epoch it goes on."""
        if self._resumed:
            self._report.resumed(trainer.current_epoch)
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
    """Saves after every epoch and then reports it; being a `Checkpoint`, Lightning calls it after all other callbacks."""

    def __init__(self, directory: Path, report: Report) -> None:
        self._directory = directory
        self._report = report

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, forget older checkpoints, report."""
        number = trainer.current_epoch + 1
        trainer.save_checkpoint(self._directory / f"epoch={number:04d}.ckpt")
        if not trainer.is_global_zero:
            return
        for old in sorted(self._directory.glob("epoch=*.ckpt"))[:-_KEEP]:
            old.unlink()
        self._report.epoch(number, self._metrics(trainer))

    def _metrics(self, trainer: Trainer) -> dict[str, float]:
        """Return the mean training loss of the epoch, the learning rate of its last step, and what an evaluation found after this epoch."""
        evaluation = next(callback for callback in trainer.callbacks if isinstance(callback, Evaluation))
        return {
            "train_loss": float(trainer.callback_metrics["train_loss_epoch"]),
            "learning_rate": float(trainer.callback_metrics["learning_rate"]),
            **evaluation.metrics,
        }
