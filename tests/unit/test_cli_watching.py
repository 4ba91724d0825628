"""What the terminal shows of a job, whatever is trained: classifiers, reconstructions, algorithms without epochs."""

import pytest
from rich.progress import Progress, TextColumn

from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.cli.jobs import progress_text
from tessera.cli.watching import _show, headline


@pytest.mark.parametrize(
    ("metrics", "shown"),
    [
        ({"top1": 1.0, "top1_blur": 0.5, "top5": 1.0, "loss": 0.1, "train_loss": 0.2, "learning_rate": 1e-3}, ["top1", "top5"]),
        ({"fourier_error": 0.02, "psnr_amplitude": 30.0}, ["fourier_error", "psnr_amplitude"]),
        ({}, []),
    ],
)
def test_a_line_has_the_metrics_whose_names_qualify_no_other(metrics: dict[str, float], shown: list[str]) -> None:
    assert list(headline(metrics)) == shown


def detail(progress: pb.Progress) -> str:
    """Return what stands beside the bar."""
    with Progress(TextColumn("{task.fields[detail]}"), disable=True) as bar:
        task = bar.add_task("waiting", total=None, detail="")
        _show(bar, task, pb.Job(state=pb.JOB_STATE_RUNNING, progress=progress))
        return str(bar.tasks[0].fields["detail"])


def test_a_job_without_epochs_shows_none() -> None:
    assert detail(pb.Progress(phase="evaluate")) == ""
    assert progress_text(pb.Job(progress=pb.Progress(phase="evaluate"))) == "-"


def test_a_job_with_epochs_shows_how_many_are_done() -> None:
    progress = pb.Progress(phase="train", epoch=3, epochs=50, loss=0.25, metrics={"fourier_error": 0.125})
    assert detail(progress) == "epoch 3/50  loss 0.2500  fourier_error=0.125"
    assert progress_text(pb.Job(progress=progress)) == "3/50"
