"""What a family of models is to the shared code: the loop, the export, the child process and `trainers.describe` know no more than this.

A family is a package below `trainers.families` that exports `FAMILY`. It names its architectures and hyperparameters, and it turns the
files of a job into a `Training`, which knows the data, the loss, the metrics, the pictures and what its exported models look like; or, for
an algorithm that has nothing to learn, into a `Subject`, which lacks what only training needs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from tessera.errors import InvalidArgumentError
from tessera.tensors import Signature
from trainers.architectures import ArchitectureConfig, ArchitectureRegistry, Network
from trainers.progress import Report
from trainers.validation import validate

Tensors = tuple[torch.Tensor, ...]
Arrays = dict[str, NDArray[Any]]


class Hyperparameters(BaseModel):
    """What shapes a training, whatever the family; families derive from it to set their own defaults and add fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(100, ge=1, le=1_000_000, description="Passes over the data.")
    batch_size: int = Field(128, ge=1, le=1_000_000, description="Examples a step, over all devices together.")
    learning_rate: float = Field(1e-3, gt=0, le=10, description="Of Adam; the peak, if the schedule is one_cycle.")
    schedule: Literal["one_cycle", "constant"] = Field("one_cycle", description="Course of the learning rate.")
    find_learning_rate: bool = Field(False, description="Replace learning_rate by what a range test suggests (one device only).")
    evaluate_every: int = Field(10, ge=1, description="Epochs between evaluations with pictures; the last epoch always has one.")
    seed: int = Field(0, ge=0, lt=2**32, description="Of weights, data order and everything else random.")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field("32-true", description="Mixed precision; 16-mixed needs a GPU.")
    accelerator: Literal["auto", "cpu", "gpu"] = Field("auto", description="Where to train; auto takes a GPU if there is one.")
    devices: int = Field(1, ge=1, le=1024, description="GPUs (or CPU processes) that share every batch.")


@dataclass(frozen=True)
class InputRequirement:
    """A file that a family trains on.

    Attributes:
        name: Name in the job.
        description: For people.
        required: Whether a job without it is refused.
    """

    name: str
    description: str
    required: bool = True


@dataclass(frozen=True)
class Export:
    """What an exported version of a family carries besides its weights.

    Attributes:
        signature: Tensors of the graph.
        golden: Input arrays by name, few rows, that a server computes before it serves the version.
        check: Makes all input arrays, in batches, on which graph and network must agree before the version counts.
        runtimes: What can serve it, the preferred one first: `onnxruntime` gets the graph as ONNX, `torchserve` as an exported program.
        constants: Arrays that the task needs beside the graph; servers keep them with the version.
        mappings: Whatever turns outputs into answers.
        labels: Names of the classes, in order.
        rtol: Relative tolerance between the graph and the network.
        atol: Absolute tolerance between the graph and the network.
    """

    signature: Signature
    golden: Arrays
    check: Callable[[], Iterator[Arrays]]
    runtimes: tuple[str, ...] = ("onnxruntime", "torchserve")
    constants: Arrays = field(default_factory=dict)
    mappings: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    rtol: float = 1e-3
    atol: float = 1e-4


class Subject(ABC):
    """What a version is made of, from the files of a job. An algorithm needs no more than this; a network is trained: `Training`."""

    dataset_digest: str
    """sha256 of what is trained or measured on, 64 hexadecimal digits."""

    @abstractmethod
    def measure(self, network: Network, report: Report) -> dict[str, float]:
        """Return the metrics of the finished network, which is on the CPU and in eval mode.

        Args:
            network: The network.
            report: To be told how far it is: what says nothing for two minutes is taken for dead.
        """

    @abstractmethod
    def draw(self, network: Network, directory: Path, stem: str) -> list[Path]:
        """Draw what the network does, as PNG files whose names begin with `stem`; return them (none, if there is nothing to see)."""

    @abstractmethod
    def export(self, network: Network) -> Export:
        """Return what the exported version of the finished network carries."""


class Training(Subject):
    """One training: the data of a job and everything that is done with them."""

    @abstractmethod
    def begin(self, network: Network) -> None:
        """Give a new network what the data alone determine (a mean, a scale, a probe), before its first step; often nothing."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of examples."""

    @abstractmethod
    def batch(self, indices: list[int]) -> Tensors:
        """Return examples by index, 0 to len - 1, as tensors on the CPU whose first dimension is the batch."""

    @abstractmethod
    def loss(self, network: Network, batch: Tensors) -> torch.Tensor:
        """Return the scalar loss of a batch that lies on the network's device."""

    @abstractmethod
    def evaluate(self, network: Network) -> dict[str, float]:
        """Return the metrics that are followed during training, which `measure` has too; the network is in eval mode, without gradients."""


Prepare = Callable[[Mapping[str, Path], ArchitectureConfig, Hyperparameters], Subject]


@dataclass(frozen=True)
class Example:
    """The smallest job that a family can do, for tests that walk over all families.

    Attributes:
        inputs: Files to train on.
        model_config: For all of its architectures.
        of_architecture: What those have beside it, by name, whose graphs are large by default.
    """

    inputs: dict[str, Path]
    model_config: dict[str, Any]
    of_architecture: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """A kind of model that can be trained.

    Attributes:
        name: Its name, that of its package.
        description: For people.
        task: Name of the module of `tessera.tasks` whose pre- and post-processing its models need.
        task_revision: Revision of that processing.
        architectures: Its networks.
        hyperparameters: Class of its hyperparameters.
        inputs: Files it needs.
        prepare: Reads the files of a job; InvalidArgumentError if they are not fit for it. Returns a `Training` where the architecture of
            this config is trained.
        example: Writes the files of the smallest job into a directory.
        card: The model card that goes with every version.
    """

    name: str
    description: str
    task: str
    task_revision: int
    architectures: ArchitectureRegistry
    hyperparameters: type[Hyperparameters]
    inputs: tuple[InputRequirement, ...]
    prepare: Prepare
    example: Callable[[Path], Example]
    card: Path

    def parse_hyperparameters(self, values: Mapping[str, Any]) -> Hyperparameters:
        """Return hyperparameters with defaults filled in; InvalidArgumentError for an unknown one (lists the known) or a wrong value."""
        return validate(self.hyperparameters, values, field="spec.hyperparameters", what="hyperparameter")

    def check_inputs(self, inputs: Mapping[str, Path]) -> None:
        """Raise InvalidArgumentError if a file is missing, or is none that the family knows."""
        known = {requirement.name: requirement for requirement in self.inputs}
        for name in inputs:
            if name not in known:
                raise InvalidArgumentError.unknown("input", name, known, field="spec.inputs")
        for name, requirement in known.items():
            if requirement.required and name not in inputs:
                raise InvalidArgumentError(f"the input {name!r} is missing: {requirement.description}", field="spec.inputs")


def predict(network: Network, inputs: torch.Tensor, batch_size: int = 256) -> NDArray[np.float32]:
    """Return the network's output for many inputs as one array, computed in batches on the network's device without gradients."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        return np.concatenate([network(chunk.to(device)).float().cpu().numpy() for chunk in inputs.split(batch_size)])
