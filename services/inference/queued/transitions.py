"""What may become of a request: the only place where the state of a request or of an attempt changes to an end or back to the queue."""

from services.inference.queued import metrics
from services.inference.queued.tables import ENDED, Attempt, Inference, Outcome, State
from tessera.times import microseconds, to_datetime

COUNTED = frozenset({Outcome.RETRYABLE, Outcome.LOST})
"""Outcomes that use up one of a request's attempts."""

LONGEST_RETRY_DELAY_S = 60.0

_ENDS = {Outcome.SUCCEEDED: State.SUCCEEDED, Outcome.CANCELLED: State.CANCELLED, Outcome.EXPIRED: State.EXPIRED}


def begin_attempt(inference: Inference, server: str, *, now: int, lease_until: int) -> Attempt:
    """Begin the next attempt at a queued request."""
    attempt = Attempt(number=newest_number(inference) + 1, server=server, outcome=None, error="", start_time=now)
    inference.attempts.append(attempt)
    inference.state = State.RUNNING
    inference.lease_until = lease_until
    inference.start_time = inference.start_time or now
    inference.rows_done = 0
    if inference.reconstruction is not None:
        inference.reconstruction = {}
    return attempt


def end_attempt(inference: Inference, outcome: Outcome, error: str, *, now: int, retry_delay_s: float) -> None:
    """End the newest attempt, which runs, and with it the request, or put the request back into the queue."""
    attempt = inference.attempts[-1]
    attempt.outcome, attempt.error, attempt.finish_time = outcome, error, now
    inference.lease_until = None
    metrics.ATTEMPTS.labels(outcome.name.lower()).inc()
    failures = sum(attempt.outcome in COUNTED for attempt in inference.attempts)
    if outcome in _ENDS:
        end_inference(inference, _ENDS[outcome], now=now, error=error)
    elif inference.cancel_requested:
        end_inference(inference, State.CANCELLED, now=now)
    elif outcome is Outcome.PERMANENT:
        end_inference(inference, State.FAILED, now=now, error=error)
    elif failures >= inference.max_attempts:
        end_inference(inference, State.FAILED, now=now, error=f"{error} (attempt {failures} of {inference.max_attempts})")
    else:
        _queue_again(inference, outcome, error, failures=failures, now=now, retry_delay_s=retry_delay_s)


def end_inference(inference: Inference, state: State, *, now: int, error: str = "") -> None:
    """End a request for good."""
    assert state in ENDED
    inference.state, inference.error, inference.finish_time = state, error, now
    inference.dead_letter_due = state is State.FAILED
    metrics.SECONDS.labels(state.name.lower()).observe((now - inference.create_time) / 1e6)


def expire(inference: Inference, *, now: int) -> None:
    """End a queued request that was not computed in time; why it waited last is kept."""
    why = f"; last: {inference.error}" if inference.error else ""
    end_inference(
        inference, State.EXPIRED, now=now, error=f"not computed by {to_datetime(inference.expire_time):%Y-%m-%d %H:%M:%S} UTC{why}"
    )


def newest_number(inference: Inference) -> int:
    """Return the number of the newest attempt, which is the fencing token in force; 0 before the first."""
    return inference.attempts[-1].number if inference.attempts else 0


def _queue_again(inference: Inference, outcome: Outcome, error: str, *, failures: int, now: int, retry_delay_s: float) -> None:
    """Put a request back into the queue; it gets a new entry, and whoever is handed the old one drops it."""
    inference.postponed = inference.postponed + 1 if outcome is Outcome.POSTPONED else 0
    delay_s = 0.0
    if outcome is not Outcome.RELEASED:
        delay_s = min(LONGEST_RETRY_DELAY_S, retry_delay_s * 2.0 ** min(16, max(0, failures + inference.postponed - 1)))
    inference.state = State.QUEUED
    inference.error = error
    inference.dispatch_time = now + microseconds(delay_s)
    inference.entry_id = None
    earlier = inference.attempts[:-1]
    if outcome is Outcome.POSTPONED and earlier and earlier[-1].outcome == Outcome.POSTPONED:
        inference.attempts.remove(earlier[-1])  # a day of waiting shall not become a list of a thousand attempts
