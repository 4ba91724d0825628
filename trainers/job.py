"""A training job from its settings to its artifact, without anything of processes or networks."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from trainers.artifact import write_artifact
from trainers.families import find_family
from trainers.family import Family, Hyperparameters, Training
from trainers.lineage import git_commit
from trainers.loop import train
from trainers.progress import Report

ARTIFACT = "artifact"
"""Directory of the finished version, below the attempt's."""


class Job(BaseModel):
    """One attempt at a job, as the supervisor writes it to `job.json`.

    Attributes:
        job_id: In the trainer; empty outside of it.
        attempt: 1 for the first.
        family: Name of the family.
        architecture: Name of the network.
        model: Under which the version will be registered.
        name: For people.
        architecture_config: What shapes the network; called `model_config` in JSON.
        hyperparameters: What shapes the training.
        inputs: Paths of the files to train on, by the name that the family gives them.
        input_digests: Their sha256, by the same names.
        experiment_id: In the registry; may be empty.
        resume_from: Checkpoint of an earlier attempt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    job_id: str = ""
    attempt: int = 1
    family: str
    architecture: str
    model: str
    name: str = ""
    architecture_config: dict[str, Any] = Field(default_factory=dict, alias="model_config")
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, Path] = Field(default_factory=dict)
    input_digests: dict[str, str] = Field(default_factory=dict)
    experiment_id: str = ""
    resume_from: Path | None = None


def run(job: Job, directory: Path, report: Report) -> dict[str, float]:
    """Train, measure, draw and export.

    Args:
        job: What to do.
        directory: Of the attempt; gets `checkpoints/`, `tensorboard/`, `pictures/` and at the very end, as a whole, `artifact/`.
        report: Told how it goes.

    Returns:
        The metrics of the finished network; none in a helper process of a training on several devices.

    Raises:
        InvalidArgumentError: The job cannot be done on any attempt: unknown names, wrong settings, unfit files.
        TesseraError: The exported graph is not what was trained.
        OSError: A file cannot be written.
    """
    report.phase("prepare")
    family = find_family(job.family)
    architecture = family.architectures.get(job.architecture)
    config = architecture.parse_config(job.architecture_config)
    settings = family.parse_hyperparameters(job.hyperparameters)
    family.check_inputs(job.inputs)
    subject = family.prepare(job.inputs, config, settings)
    torch.manual_seed(settings.seed)
    network = architecture.build(config)
    if architecture.trained:
        assert isinstance(subject, Training), "what is trained is prepared for training"
        subject.begin(network)
        trained = train(network, subject, settings, directory=directory, report=report, resume_from=job.resume_from)
        if not trained.is_first:
            return {}
        settings = settings.model_copy(update={"learning_rate": trained.learning_rate})
    network.eval()
    report.phase("evaluate")
    metrics = subject.measure(network, report)
    facts = _facts(job, family, settings) | {"model_config": config.model_dump(mode="json"), "metrics": metrics}
    facts["lineage"]["dataset_digest"] = subject.dataset_digest
    with tempfile.TemporaryDirectory(dir=directory) as drawings:
        alive = partial(report.phase, "export")
        alive()
        pictures = subject.draw(network, Path(drawings), "final")
        alive()
        export = subject.export(network)
        write_artifact(directory / ARTIFACT, network, export, facts, card=family.card, pictures=pictures, alive=alive)
    return metrics


def _facts(job: Job, family: Family, settings: Hyperparameters) -> dict[str, Any]:
    """Return what the manifest says about who made the version and how."""
    return {
        "model": job.model,
        "family": job.family,
        "architecture": job.architecture,
        "task": {"name": family.task, "revision": family.task_revision},
        "lineage": {
            "git_commit": git_commit(),
            "hyperparameters": settings.model_dump(mode="json"),
            "seed": settings.seed,
            "experiment_id": job.experiment_id,
            "job_id": job.job_id,
        },
    }
