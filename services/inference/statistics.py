"""What one loaded version has done: sums that cost a request well under a microsecond, for Triton's ModelStatistics."""

import time
from dataclasses import dataclass

from services.inference.batches import Answer


@dataclass(slots=True)
class Sums:
    """Of all requests that were computed in batches of the same size.

    Args:
        requests: Number of requests.
        rows: Of all of them.
        decode_s: Seconds of decoding and preprocessing.
        queue_s: Seconds in the queue.
        compute_s: Seconds in the model; a batch counts once for each of its requests.
        encode_s: Seconds of postprocessing and encoding.
        total_s: Seconds from decoding to the encoded answer.
    """

    requests: int = 0
    rows: int = 0
    decode_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    encode_s: float = 0.0
    total_s: float = 0.0

    def batches(self, size: int) -> int:
        """Return in how many batches of this many requests they were; one that is not fully counted yet counts."""
        return -(-self.requests // size)


class Statistics:
    """Sums since a version was loaded. All of it on the event loop.

    Attributes:
        by_size: Sums by the number of requests in a batch.
        failures: Requests that ended with an error after they had found the version.
        failed_s: Their seconds.
    """

    __slots__ = ("_last", "by_size", "failed_s", "failures")

    def __init__(self) -> None:
        self.by_size: dict[int, Sums] = {}
        self.failures = 0
        self.failed_s = 0.0
        self._last = 0.0

    def answered(self, answer: Answer, rows: int, *, decode_s: float, encode_s: float, total_s: float) -> None:
        """Count an answered request."""
        sums = self.by_size.get(answer.batch_size)
        if sums is None:
            sums = self.by_size[answer.batch_size] = Sums()
        sums.requests += 1
        sums.rows += rows
        sums.decode_s += decode_s
        sums.queue_s += answer.queue_s
        sums.compute_s += answer.compute_s
        sums.encode_s += encode_s
        sums.total_s += total_s
        self._last = time.time()

    def failed(self, total_s: float) -> None:
        """Count a request that ended with an error."""
        self.failures += 1
        self.failed_s += total_s

    @property
    def last_ms(self) -> int:
        """When a request was answered last, milliseconds since 1970; 0 for never."""
        return int(self._last * 1000)
