"""Jobs as a stream: the job as it stands, then every change, until it has ended."""

from services.trainer.jobs import Jobs
from services.trainer.tables import ENDED, State
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.changes import POLL_S, Changes


class JobWatch(Changes[pb.Job]):
    """Tells whoever watches a job that it has changed.

    Args:
        jobs: Where to read a job.
        poll_s: A watched job is read at least this often, seconds.
    """

    def __init__(self, jobs: Jobs, *, poll_s: float = POLL_S) -> None:
        super().__init__(jobs.get, lambda job: State(job.state) in ENDED, poll_s=poll_s)
