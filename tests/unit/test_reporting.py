"""What a worker makes of its child's messages before it reports them to the trainer."""

from typing import Any

from tessera.api.trainer.v1 import worker_pb2
from tessera.queue import Delivery
from trainers.reporting import Reporter


class Trainer:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.newest = worker_pb2.ReportProgressRequest()

    async def ReportProgress(
        self, request: worker_pb2.ReportProgressRequest, *, timeout: float | None = None, metadata: object = None
    ) -> worker_pb2.ReportProgressResponse:
        self.newest.CopyFrom(request)
        return worker_pb2.ReportProgressResponse()


async def test_epochs_that_a_resumed_training_tells_again_do_not_turn_its_progress_back() -> None:
    trainer: Any = Trainer()
    nothing: Any = None  # the queue is not asked
    reporter = Reporter(trainer, nothing, Delivery("1-0", {"job_id": "j"}, "w", 1), attempt=2, lease_s=30)
    reporter.tell_resumed(3)
    for epoch in (1, 2, 3):
        await reporter.flush()
        assert (trainer.newest.progress.epoch, trainer.newest.resumed_from_epoch) == (3, 3)
        reporter.tell_epoch(epoch, {"top1": epoch / 4})
    await reporter.flush()
    assert trainer.newest.progress.metrics["top1"] == 0.75
    reporter.tell_epoch(4, {"top1": 1.0})
    await reporter.flush()
    assert (trainer.newest.progress.epoch, trainer.newest.progress.metrics["top1"]) == (4, 1.0)
