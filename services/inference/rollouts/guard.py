"""When a version on trial has to go: it is worse than the stable one by more than the guard of its rollout allows."""

from dataclasses import dataclass

from services.inference.rollouts.windows import Summary
from tessera.api.registry.v1.registry_pb2 import RolloutGuard


@dataclass(frozen=True)
class Breach:
    """Why a version on trial has to go.

    Args:
        cause: `error_rate` or `latency`.
        reason: With the numbers, for people.
    """

    cause: str
    reason: str


def judge(guard: RolloutGuard, stable: Summary, candidate: Summary) -> Breach | None:
    """Compare what both versions did within the guard's window; None while the candidate is good enough or has too few calls.

    The latency is judged once each version has answered `min_requests`. A stable version without calls (a weight of 100 %) is taken
    for one that never fails.
    """
    if candidate.calls < guard.min_requests:
        return None
    if candidate.error_rate > stable.error_rate + guard.max_error_rate_increase:
        return Breach(
            "error_rate",
            f"error rate {candidate.error_rate:.2%} ({candidate.failed} of {candidate.calls}) against {stable.error_rate:.2%} "
            f"({stable.failed} of {stable.calls}); allowed is {guard.max_error_rate_increase:.2%} more",
        )
    if min(stable.answered, candidate.answered) < guard.min_requests:
        return None
    for name, theirs, ours in (("p50", stable.p50_s, candidate.p50_s), ("p95", stable.p95_s, candidate.p95_s)):
        least = guard.min_latency_increase.ToTimedelta().total_seconds()
        if ours > theirs * guard.max_latency_ratio and ours - theirs > least:
            return Breach(
                "latency",
                f"{name} latency {ours * 1e3:.1f} ms over {candidate.answered} calls against {theirs * 1e3:.1f} ms over {stable.answered}; "
                f"allowed is {guard.max_latency_ratio:g} times as much and {least * 1e3:g} ms more",
            )
    return None
