"""How rollouts are printed."""

from typing import TYPE_CHECKING

from tessera.cli import output

if TYPE_CHECKING:
    from tessera.api.inference.v1.serving_pb2 import ServedRollout
    from tessera.api.registry.v1 import registry_pb2 as pb


def print_rollout(rollout: "pb.Rollout", *, json: bool) -> None:
    """Print a rollout as the registry has it."""
    if json:
        output.print_json(rollout)
        return
    guard = rollout.guard
    output.print_fields(
        {
            "rollout": f"version {rollout.candidate_version} for {rollout.alias} of {rollout.model}, at version {rollout.stable_version}",
            "state": _state(rollout),
            "weight": f"{rollout.weight_percent:g} %",
            "shadow": f"{rollout.shadow_percent:g} %",
            "rolled back if": f"error rate + {guard.max_error_rate_increase:.2%}, or p50 or p95 x {guard.max_latency_ratio:g} "
            f"and + {guard.min_latency_increase.ToTimedelta().total_seconds() * 1e3:g} ms, after {guard.min_requests} requests",
            "changed": f"{output.time_text(rollout.change_time)} by {rollout.actor}",
            "why": rollout.reason,
        }
    )


def print_measured(rollout: "ServedRollout") -> None:
    """Print what one server has measured."""
    from tessera.cli.plain import enum_name

    rows = [
        (
            arm.version,
            enum_name(arm, "state"),
            arm.requests,
            arm.failed,
            f"{arm.p50.ToTimedelta().total_seconds() * 1e3:.1f}",
            f"{arm.p95.ToTimedelta().total_seconds() * 1e3:.1f}",
        )
        for arm in (rollout.stable, rollout.candidate)
    ]
    output.print_table(("VERSION", "STATE", "REQUESTS", "FAILED", "P50 MS", "P95 MS"), rows)
    if rollout.halted:
        output.note(f"this server sends nothing more to version {rollout.candidate.version}: {rollout.halted}")
    if shadow := rollout.shadow.requests:
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(shadow.items()))
        output.note(
            f"copies: {counts}; {rollout.shadow.agreeing_rows} of {rollout.shadow.rows} rows agree, "
            f"greatest difference {rollout.shadow.max_absolute_difference:.4g}"
        )


def table_of(rollouts: "list[pb.Rollout]") -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """Return headings and rows for `output.print_table`."""
    columns = ("TIME", "MODEL", "ALIAS", "STABLE", "CANDIDATE", "WEIGHT", "SHADOW", "STATE", "WHO", "WHY")
    return columns, [
        (
            output.time_text(one.change_time),
            one.model,
            one.alias,
            one.stable_version,
            one.candidate_version,
            f"{one.weight_percent:g} %",
            f"{one.shadow_percent:g} %",
            _state(one),
            one.actor,
            one.reason,
        )
        for one in rollouts
    ]


def _state(rollout: "pb.Rollout") -> str:
    from tessera.cli.plain import enum_name

    return enum_name(rollout, "state")
