"""`tessera rollout`: part of an alias's traffic for another version, until that is promoted or given up."""

from typing import TYPE_CHECKING, Annotated

import typer

from tessera.cli import output
from tessera.cli.connection import run
from tessera.cli.options import Filter, Json, Model, OrderBy, Reason
from tessera.cli.rollout_output import print_measured, print_rollout, table_of
from tessera.names import DEFAULT_ALIAS

if TYPE_CHECKING:
    from tessera.api.inference.v1.serving_pb2 import ServedRollout
    from tessera.api.registry.v1 import registry_pb2 as pb
    from tessera.client import Client

app = typer.Typer(no_args_is_help=True, help="Rollouts: part of an alias's traffic for another version, until that is promoted.")

Alias = Annotated[str, typer.Option("--alias", help="The alias whose traffic is split.")]
Candidate = Annotated[int, typer.Option("--version", min=1, help="The version on trial.")]
Weight = Annotated[float | None, typer.Option("--weight", min=0, max=100, help="Share of the requests that it answers, percent.")]
Shadow = Annotated[
    float | None,
    typer.Option("--shadow", min=0, max=100, help="Share of the other requests that it computes too, to compare, percent."),
]
MinRequests = Annotated[
    int | None, typer.Option("--min-requests", min=1, max=2000, help="Requests that it must have answered before it is judged.")
]
ErrorRate = Annotated[
    float | None,
    typer.Option("--max-error-rate-increase", min=0, max=1, help="Roll back if its error rate is higher by more than this; 1 for never."),
]
Latency = Annotated[
    float | None,
    typer.Option("--max-latency-ratio", min=1, max=1000, help="Roll back if its p50 or p95 is above so many times that of the other."),
]
Window = Annotated[float | None, typer.Option("--window", min=1, max=86400, help="How far back servers look when they judge, seconds.")]


@app.command()
def start(
    ctx: typer.Context,
    model: Model,
    *,
    version: Candidate,
    alias: Alias = DEFAULT_ALIAS,
    weight: Weight = 10.0,
    shadow: Shadow = 0.0,
    min_requests: MinRequests = None,
    max_error_rate_increase: ErrorRate = None,
    max_latency_ratio: Latency = None,
    window: Window = None,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Send a share of an alias's requests to another version; all servers follow, and roll it back if it is worse."""
    guard = _guard(min_requests, max_error_rate_increase, max_latency_ratio, window)

    async def main(client: "Client") -> "pb.Rollout":
        return await client.registry.start_rollout(
            model, version, alias=alias, weight_percent=weight or 0.0, shadow_percent=shadow or 0.0, guard=guard, reason=reason
        )

    print_rollout(run(ctx, main), json=json)


@app.command("set")
def set_(
    ctx: typer.Context,
    model: Model,
    *,
    alias: Alias = DEFAULT_ALIAS,
    weight: Weight = None,
    shadow: Shadow = None,
    min_requests: MinRequests = None,
    max_error_rate_increase: ErrorRate = None,
    max_latency_ratio: Latency = None,
    window: Window = None,
    reason: Reason = "",
    json: Json = False,
) -> None:
    """Change a rollout; what is not named stays. A version that a server gave up is judged again."""
    guard = _guard(min_requests, max_error_rate_increase, max_latency_ratio, window)

    async def main(client: "Client") -> "pb.Rollout":
        seen = await client.registry.get_rollout(model, alias)
        return await client.registry.update_rollout(
            model, alias=alias, weight_percent=weight, shadow_percent=shadow, guard=guard, reason=reason, expected_revision=seen.revision
        )

    print_rollout(run(ctx, main), json=json)


@app.command()
def status(ctx: typer.Context, model: Model, *, alias: Alias = DEFAULT_ALIAS, json: Json = False) -> None:
    """Show a rollout, or the last one of the alias, and what the inference server has measured."""

    async def main(client: "Client") -> "tuple[pb.Rollout, ServedRollout | None]":
        rollout = await client.registry.get_rollout(model, alias)
        return rollout, await _measured(client, rollout)

    rollout, measured = run(ctx, main)
    if json:
        output.print_json({"rollout": rollout, "server": measured})
        return
    print_rollout(rollout, json=False)
    if measured:
        print_measured(measured)


@app.command()
def promote(ctx: typer.Context, model: Model, *, alias: Alias = DEFAULT_ALIAS, reason: Reason = "", json: Json = False) -> None:
    """Point the alias at the version on trial, which ends the rollout."""
    from tessera.api.registry.v1 import registry_pb2 as pb

    print_rollout(_ended(ctx, model, alias, pb.ROLLOUT_STATE_PROMOTED, reason), json=json)


@app.command()
def abort(ctx: typer.Context, model: Model, *, alias: Alias = DEFAULT_ALIAS, reason: Reason = "", json: Json = False) -> None:
    """End a rollout; the alias stays where it is and gets all requests again."""
    from tessera.api.registry.v1 import registry_pb2 as pb

    print_rollout(_ended(ctx, model, alias, pb.ROLLOUT_STATE_ABORTED, reason), json=json)


@app.command("list")
def list_(ctx: typer.Context, filter: Filter = "state = ACTIVE", order_by: OrderBy = "", json: Json = False) -> None:  # noqa: A002 - its name in the API
    """List the rollouts of all models, by default those that go on."""

    async def main(client: "Client") -> "list[pb.Rollout]":
        return [rollout async for rollout in client.registry.list_rollouts(filter, order_by)]

    rollouts = run(ctx, main)
    if json:
        output.print_json(rollouts)
    else:
        output.print_table(*table_of(rollouts), empty="no such rollout; `tessera rollout start MODEL --version N` begins one")


@app.command()
def history(ctx: typer.Context, model: Model, *, alias: Alias = "", json: Json = False) -> None:
    """Show who started, changed and ended rollouts when and why; newest first, by default of all aliases."""

    async def main(client: "Client") -> "list[pb.Rollout]":
        return [change async for change in client.registry.rollout_history(model, alias)]

    changes = run(ctx, main)
    if json:
        output.print_json(changes)
    else:
        output.print_table(*table_of(changes), empty="there never was a rollout")


def _guard(min_requests: int | None, error_rate: float | None, latency_ratio: float | None, window_s: float | None) -> "pb.RolloutGuard":
    from tessera.api.registry.v1 import registry_pb2 as pb
    from tessera.times import to_duration

    return pb.RolloutGuard(
        min_requests=min_requests,
        max_error_rate_increase=error_rate,
        max_latency_ratio=latency_ratio,
        window=None if window_s is None else to_duration(window_s),
    )


def _ended(ctx: typer.Context, model: str, alias: str, outcome: "pb.RolloutState.ValueType", reason: str) -> "pb.Rollout":
    """End the rollout that stands there when the command begins, and no other."""

    async def main(client: "Client") -> "pb.Rollout":
        seen = await client.registry.get_rollout(model, alias)
        ended = await client.registry.end_rollout(model, outcome, alias=alias, reason=reason, expected_revision=seen.revision)
        return ended.rollout

    return run(ctx, main)


async def _measured(client: "Client", rollout: "pb.Rollout") -> "ServedRollout | None":
    """Return what the inference server tells of a rollout; None if it cannot be reached or has none."""
    from tessera.errors import TesseraError

    try:
        served = await client.inference.list_served(rollout.model)
    except TesseraError as error:
        output.note(f"no live numbers: {error.message}")
        return None
    return next((one for one in served.rollouts if (one.model, one.alias) == (rollout.model, rollout.alias)), None)
