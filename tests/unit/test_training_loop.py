"""The shared loop: order, checkpoints, resume, precision, learning rate search."""

import errno
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from tessera.errors import InvalidArgumentError
from tests.fixtures.family import SilentReport
from trainers.checkpoints import AtomicCheckpointIO, is_readable, write_atomically
from trainers.families.puzzle_cells import FAMILY
from trainers.family import Network
from trainers.loop import Trained, train
from trainers.sampling import EpochBatches, seed_epoch


class KilledError(Exception):
    """Ends a training from outside, after an epoch."""


class KillAfter(SilentReport):
    """Ends the training once an epoch's checkpoint is on disk."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.last = epoch

    def epoch(self, number: int, metrics: dict[str, float]) -> None:
        super().epoch(number, metrics)
        if number == self.last:
            raise KilledError


class Attempt:
    """Trains the family's example in a directory."""

    def __init__(self, directory: Path, **hyperparameters: Any) -> None:
        directory.mkdir(exist_ok=True)
        example = FAMILY.example(directory)
        architecture = FAMILY.architectures.get("cells_exp3")
        config = architecture.parse_config(example.model_config)
        self.directory = directory
        self.settings = FAMILY.parse_hyperparameters({"epochs": 6, "batch_size": 5, "evaluate_every": 4, **hyperparameters})
        self.training = FAMILY.prepare(example.inputs, config, self.settings)
        torch.manual_seed(self.settings.seed)
        self.network: Network = architecture.build(config)
        self.report = SilentReport()

    def run(self, report: SilentReport | None = None, resume_from: Path | None = None) -> Trained:
        self.report = report or self.report
        return train(self.network, self.training, self.settings, directory=self.directory, report=self.report, resume_from=resume_from)

    @property
    def checkpoints(self) -> list[Path]:
        return sorted((self.directory / "checkpoints").iterdir())

    def weights(self) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self.network.parameters()])


@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
def test_a_resumed_training_ends_with_the_weights_of_one_that_never_stopped(schedule: str, tmp_path: Path) -> None:
    straight = Attempt(tmp_path / "straight", schedule=schedule)
    straight.run()

    killed = Attempt(tmp_path / "killed", schedule=schedule)
    with pytest.raises(KilledError):
        killed.run(KillAfter(3))
    resumed = Attempt(tmp_path / "resumed", schedule=schedule, seed=0)
    resumed.run(resume_from=killed.checkpoints[-1])

    assert list(killed.report.epochs) == [1, 2, 3]
    assert list(resumed.report.epochs) == [4, 5, 6]
    assert (resumed.report.resumed_from, resumed.report.history) == (3, killed.report.epochs)
    assert torch.allclose(resumed.weights(), straight.weights(), rtol=1e-5, atol=1e-6)
    assert resumed.report.epochs[6] == pytest.approx(straight.report.epochs[6], rel=1e-4)


def test_a_training_killed_behind_its_last_epoch_only_needs_its_export(tmp_path: Path) -> None:
    first = Attempt(tmp_path / "first")
    first.run()
    again = Attempt(tmp_path / "again")
    again.run(resume_from=first.checkpoints[-1])
    assert again.report.epochs == {}
    assert (again.report.resumed_from, again.report.history) == (6, first.report.epochs)
    assert torch.equal(again.weights(), first.weights())


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(tmp_path: Path) -> None:
    attempts = [Attempt(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    for attempt in attempts:
        attempt.run()
    assert torch.equal(attempts[0].weights(), attempts[1].weights())
    assert not torch.allclose(attempts[0].weights(), attempts[2].weights())


def test_only_the_newest_checkpoints_are_kept_and_nothing_half_written(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "attempt")
    attempt.run()
    assert [path.name for path in attempt.checkpoints] == ["epoch=0005.ckpt", "epoch=0006.ckpt"]
    assert (attempt.directory / "tensorboard").is_dir()


def test_evaluation_in_eval_mode_and_pictures_come_at_the_interval_and_at_the_end(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "attempt")
    attempt.run()
    with torch.no_grad():
        assert attempt.report.epochs[6] == pytest.approx(attempt.report.epochs[6] | attempt.training.evaluate(attempt.network), rel=1e-4)
    assert [epoch for epoch, metrics in attempt.report.epochs.items() if "top1" in metrics] == [4, 6]
    assert {path.name.split("_")[0] for path in (attempt.directory / "pictures").iterdir()} == {"epoch=0004", "epoch=0006"}
    assert not attempt.network.training
    assert attempt.report.phases == ["train", "evaluate", "train", "evaluate", "train"]


def test_every_epoch_is_reported_with_loss_and_learning_rate(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "attempt")
    attempt.run()
    assert list(attempt.report.epochs) == [1, 2, 3, 4, 5, 6]
    assert all({"train_loss", "learning_rate"} <= set(metrics) for metrics in attempt.report.epochs.values())
    assert attempt.report.steps[-1] == 6 * 3


def test_a_damaged_checkpoint_costs_its_epochs_not_the_training(tmp_path: Path) -> None:
    (tmp_path / "damaged.ckpt").write_bytes(b"PK\3\4 but no more")
    attempt = Attempt(tmp_path / "attempt", epochs=1)
    attempt.run(resume_from=tmp_path / "damaged.ckpt")
    assert (list(attempt.report.epochs), attempt.report.resumed_from) == ([1], None)


def test_a_learning_rate_that_is_too_high_is_named_as_the_cause(tmp_path: Path) -> None:
    class Exploding(SilentReport):
        """Puts what a divergence would leave into the weights."""

        def epoch(self, number: int, metrics: dict[str, float]) -> None:
            next(attempt.network.parameters()).data.fill_(torch.nan)

    attempt = Attempt(tmp_path / "attempt")
    with pytest.raises(InvalidArgumentError, match="the loss became nan in epoch 2") as caught:
        attempt.run(Exploding())
    assert caught.value.field == "spec.hyperparameters.learning_rate"


def test_the_learning_rate_can_be_searched_and_is_kept_over_a_resume(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "attempt", find_learning_rate=True, epochs=40, learning_rate=0.123)
    with pytest.raises(KilledError):
        attempt.run(KillAfter(20))
    resumed = Attempt(tmp_path / "resumed", find_learning_rate=True, epochs=40, learning_rate=0.123)
    trained = resumed.run(resume_from=attempt.checkpoints[-1])
    rates = [metrics["learning_rate"] for metrics in (attempt.report.epochs | resumed.report.epochs).values()]
    assert 1e-6 <= trained.learning_rate <= 1
    assert trained.learning_rate != 0.123
    assert max(rates) == pytest.approx(trained.learning_rate, rel=0.05)


def test_mixed_precision_trains(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path / "attempt", precision="bf16-mixed", accelerator="cpu")
    attempt.run()
    assert attempt.report.epochs[6]["train_loss"] < attempt.report.epochs[1]["train_loss"]
    assert attempt.weights().dtype == torch.float32


@pytest.mark.parametrize(
    ("hyperparameters", "field"),
    [
        ({"precision": "16-mixed", "accelerator": "cpu"}, "spec.hyperparameters.precision"),
        ({"devices": 1000, "accelerator": "gpu"}, "spec.hyperparameters"),
        ({"devices": 2, "find_learning_rate": True, "accelerator": "cpu"}, "spec.hyperparameters.find_learning_rate"),
    ],
)
def test_what_this_machine_cannot_do_is_refused(hyperparameters: dict[str, Any], field: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Attempt(tmp_path / "attempt", **hyperparameters).run()
    assert caught.value.field == field


def test_an_epoch_shows_every_example_once_in_an_order_of_its_own() -> None:
    batches = EpochBatches(10, 4, seed=3)
    first, again = list(batches), list(batches)
    batches.set_epoch(1)
    second = list(batches)
    assert first == again != second
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert len(batches) == 3
    for epoch in (first, second):
        assert sorted(chain.from_iterable(epoch)) == list(range(10))


@pytest.mark.parametrize(("examples", "batch_size", "ranks"), [(10, 4, 2), (9, 4, 3), (7, 2, 4)])
def test_several_devices_share_every_batch_and_take_equally_many_steps(examples: int, batch_size: int, ranks: int) -> None:
    shares = [list(EpochBatches(examples, batch_size, seed=0, rank=rank, ranks=ranks)) for rank in range(ranks)]
    assert {len(share) for share in shares} == {-(-examples // batch_size)}
    assert all(batch for share in shares for batch in share)
    assert set(chain.from_iterable(chain.from_iterable(shares))) == set(range(examples))


def test_randomness_follows_from_seed_epoch_and_rank() -> None:
    def drawn(*arguments: int) -> float:
        seed_epoch(*arguments)
        return float(torch.rand(()))

    assert drawn(1, 2, 0) == drawn(1, 2, 0)
    assert len({drawn(1, 2, 0), drawn(1, 3, 0), drawn(2, 2, 0), drawn(1, 2, 1)}) == 4


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "epoch=0001.ckpt"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_checkpoint_that_holds_code_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "epoch=0001.ckpt"
    AtomicCheckpointIO().save_checkpoint({"code": Path}, path)
    assert not is_readable(path)
    with pytest.raises(Exception, match="Weights only load failed"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)


def test_training_loads_no_tensorflow() -> None:
    from tensorboard.compat import tf

    assert tf.__version__ == "stub"
