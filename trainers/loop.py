"""The one training loop, shared by all families: Lightning with checkpoints, resume, mixed precision, TensorBoard and several devices.

Whatever is random in an epoch (data order, dropout) follows from the seed and the epoch's number alone, so a training that is resumed
from the checkpoint of epoch n goes on exactly as if it had never stopped.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import structlog
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.utils.data import DataLoader, Dataset

from tessera.cpus import available_cpus
from tessera.errors import InvalidArgumentError
from trainers.architectures import Network
from trainers.callbacks import Checkpoints, Evaluation, ProgressReports
from trainers.checkpoints import AtomicCheckpointIO, is_readable
from trainers.family import Hyperparameters, Tensors, Training
from trainers.progress import Report
from trainers.quiet import quiet_libraries
from trainers.sampling import EpochBatches, seed_epoch

# The writer of TensorBoard files would load TensorFlow where that is installed, for seconds and for nothing, unless it finds this module.
sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))

_log = structlog.get_logger()


@dataclass(frozen=True)
class Trained:
    """How a training went.

    Attributes:
        learning_rate: That was used, whether given or found.
        is_first: False in the helper processes of a training on several devices, which have nothing more to do.
    """

    learning_rate: float
    is_first: bool


class _Examples(Dataset[Tensors]):
    """Whole batches by lists of indices: examples lie in memory, so collating them one by one would be wasted time."""

    def __init__(self, training: Training) -> None:
        self._training = training

    def __getitem__(self, indices: list[int]) -> Tensors:
        return self._training.batch(indices)


class _Module(LightningModule):
    """What Lightning trains."""

    def __init__(self, network: Network, training: Training, settings: Hyperparameters) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = settings.learning_rate
        self._training_data = training
        self._settings = settings

    def train_dataloader(self) -> DataLoader[Tensors]:
        batches = EpochBatches(
            len(self._training_data),
            self._settings.batch_size,
            seed=self._settings.seed,
            rank=self.trainer.global_rank,
            ranks=self.trainer.world_size,
        )
        return DataLoader(_Examples(self._training_data), sampler=batches, batch_size=None)

    def on_train_epoch_start(self) -> None:
        seed_epoch(self._settings.seed, self.current_epoch, self.global_rank)

    def training_step(self, batch: Tensors) -> torch.Tensor:
        loss = self._training_data.loss(self.network, batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True, batch_size=len(batch[0]))
        self.log("learning_rate", self.optimizers().param_groups[0]["lr"])
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)
        if self._settings.schedule == "constant":
            return optimizer
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            # Only the rate has a cycle; Adam's momentum stays as it is.
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["learning_rate"] = self.learning_rate

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.learning_rate = checkpoint["learning_rate"]


def train(
    network: Network, training: Training, settings: Hyperparameters, *, directory: Path, report: Report, resume_from: Path | None = None
) -> Trained:
    """Train a network in place; afterwards it is on the CPU and in eval mode.

    Args:
        network: With fresh weights, or whatever if it is resumed.
        training: Data, loss, metrics and pictures.
        settings: Hyperparameters.
        directory: Gets `checkpoints/epoch=0007.ckpt` (the newest two), `pictures/` and `tensorboard/`.
        report: Told about every step and epoch.
        resume_from: Checkpoint of an earlier attempt with the same settings. One that cannot be read costs its epochs, not the training.

    Raises:
        InvalidArgumentError: The machine cannot do what the settings ask for (devices, precision).
        OSError: A checkpoint or picture cannot be written.
    """
    if resume_from is not None and not is_readable(resume_from):
        _log.warning("checkpoint cannot be read, training starts anew", path=str(resume_from))
        resume_from = None
    on_cpu = settings.accelerator == "cpu" or (settings.accelerator == "auto" and not torch.cuda.is_available())
    if on_cpu and settings.precision == "16-mixed":
        message = "16-mixed needs a GPU; bf16-mixed and 32-true work on CPUs too"
        raise InvalidArgumentError(message, field="spec.hyperparameters.precision")
    # Processes that train on CPUs share the cores.
    torch.set_num_threads(max(1, available_cpus() // (settings.devices if on_cpu else 1)))
    # Convolutions on small pictures run a little faster in this layout, on CPUs and GPUs; other parameters may have other axes.
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.to(memory_format=torch.channels_last)
    module = _Module(network, training, settings)
    with quiet_libraries():
        if settings.find_learning_rate and resume_from is None:
            module.learning_rate = _find_learning_rate(module, settings, directory)
        trainer = _trainer(
            settings,
            logger=TensorBoardLogger(directory, name="tensorboard", version=""),
            callbacks=[
                ProgressReports(report, settings.epochs),
                Evaluation(training, settings.epochs, settings.evaluate_every, directory / "pictures", report),
                Checkpoints(directory / "checkpoints", report),
            ],
            directory=directory,
        )
        trainer.fit(module, ckpt_path=resume_from, weights_only=True)
    network.to("cpu").eval()
    return Trained(module.learning_rate, trainer.is_global_zero)


def _trainer(settings: Hyperparameters, *, logger: Any, callbacks: list[Any], directory: Path) -> Trainer:
    """Return a trainer that says nothing by itself; InvalidArgumentError if the machine lacks what the settings ask for."""
    try:
        return Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            precision=settings.precision,
            max_epochs=settings.epochs,
            logger=logger,
            callbacks=callbacks,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=directory,
            log_every_n_steps=10,
            # The sampler shares the batches out by itself, in an order that survives a resume.
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=bool(callbacks),
        )
    except (MisconfigurationException, ValueError) as error:
        raise InvalidArgumentError(f"this machine cannot train so: {error}", field="spec.hyperparameters") from error


def _find_learning_rate(module: _Module, settings: Hyperparameters, directory: Path) -> float:
    """Return the learning rate at which the loss falls fastest in a range test, or the given one if the test finds none."""
    if settings.devices > 1:
        message = "the range test runs on one device; train on one, or give learning_rate"
        raise InvalidArgumentError(message, field="spec.hyperparameters.find_learning_rate")
    trainer = _trainer(settings, logger=False, callbacks=[], directory=directory)
    finder = Tuner(trainer).lr_find(module, min_lr=1e-6, max_lr=1.0, num_training=100, update_attr=False)
    found = finder.suggestion() if finder is not None else None
    _log.info("learning rate found", found=found, given=settings.learning_rate)
    return float(found) if found is not None else settings.learning_rate
