"""What is started again whenever it ends, and how long it waits for that."""

import time

from tessera.client.calls import pause_s

SETTLED_S = 30.0
"""What ran for this long and then ends is started again at once, as if it had never failed."""


class Restarts:
    """Counts how often something has ended early, and says how long to wait before it is started again."""

    def __init__(self) -> None:
        self.failures = 0
        """Ends in a row without a long run before them."""
        self.started_at = 0.0
        """On the clock of `time.monotonic`."""

    def started(self) -> None:
        """Write down that it is being started now."""
        self.started_at = time.monotonic()

    def ended(self) -> float:
        """Write down that it has ended, or could not be started, and return the seconds to wait before the next start."""
        settled = time.monotonic() - self.started_at > SETTLED_S
        self.failures = 1 if settled else self.failures + 1
        return pause_s(self.failures)
