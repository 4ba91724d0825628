"""The registry's client: rollouts."""

from collections.abc import AsyncIterator

from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.client.calls import call, pages
from tessera.client.registry_base import RegistryCalls
from tessera.names import DEFAULT_ALIAS


class RolloutCalls(RegistryCalls):
    """Part of an alias's traffic for another version, until that is promoted or given up."""

    async def start_rollout(
        self,
        model: str,
        candidate_version: int,
        *,
        alias: str = DEFAULT_ALIAS,
        weight_percent: float = 0.0,
        shadow_percent: float = 0.0,
        guard: pb.RolloutGuard | None = None,
        reason: str = "",
        expected_version: int | None = None,
    ) -> pb.Rollout:
        """Send a share of an alias's traffic to a version on trial; all servers follow.

        Args:
            model: The model.
            candidate_version: The version on trial.
            alias: Whose traffic is split.
            weight_percent: Share of the requests that the candidate answers, 0 to 100.
            shadow_percent: Share of the other requests that it computes as well, for comparison, 0 to 100.
            guard: When servers end it by themselves; what it leaves unset gets the registry's defaults.
            reason: For the history.
            expected_version: Start it only if the alias points here.

        Raises:
            FailedPreconditionError: The alias has a rollout already, or the version is retired.
            ConflictError: The alias points elsewhere.
            NotFoundError: No such model, alias or version.
        """
        request = pb.StartRolloutRequest(
            model=model,
            alias=alias,
            candidate_version=candidate_version,
            weight_percent=weight_percent,
            shadow_percent=shadow_percent,
            guard=guard,
            reason=reason,
            expected_version=expected_version,
        )
        return (await call(self.stub.StartRollout, request, timeout_s=self.timeout_s)).rollout

    async def update_rollout(
        self,
        model: str,
        *,
        alias: str = DEFAULT_ALIAS,
        weight_percent: float | None = None,
        shadow_percent: float | None = None,
        guard: pb.RolloutGuard | None = None,
        reason: str = "",
        expected_revision: int | None = None,
    ) -> pb.Rollout:
        """Change the active rollout of an alias; None, and what the guard leaves unset, stays as it is.

        Raises:
            FailedPreconditionError: The alias has no active rollout.
            ConflictError: It was changed after `expected_revision`.
        """
        request = pb.UpdateRolloutRequest(
            model=model,
            alias=alias,
            expected_revision=expected_revision,
            weight_percent=weight_percent,
            shadow_percent=shadow_percent,
            guard=guard,
            reason=reason,
        )
        return (await call(self.stub.UpdateRollout, request, timeout_s=self.timeout_s)).rollout

    async def end_rollout(
        self,
        model: str,
        outcome: pb.RolloutState.ValueType,
        *,
        alias: str = DEFAULT_ALIAS,
        reason: str = "",
        expected_revision: int | None = None,
    ) -> pb.EndRolloutResponse:
        """End the active rollout of an alias as PROMOTED (the alias moves to the candidate), ROLLED_BACK or ABORTED.

        Raises:
            FailedPreconditionError: The alias has no active rollout.
            ConflictError: It was changed after `expected_revision`.
        """
        request = pb.EndRolloutRequest(model=model, alias=alias, expected_revision=expected_revision, outcome=outcome, reason=reason)
        return await call(self.stub.EndRollout, request, timeout_s=self.timeout_s)

    async def get_rollout(self, model: str, alias: str = DEFAULT_ALIAS) -> pb.Rollout:
        """Return the active rollout of an alias, else its last one. Raises NotFoundError if it never had one."""
        return (await call(self.stub.GetRollout, pb.GetRolloutRequest(model=model, alias=alias), timeout_s=self.timeout_s)).rollout

    async def list_rollouts(self, filter: str = "", order_by: str = "") -> AsyncIterator[pb.Rollout]:  # noqa: A002 - its name in the API
        """Yield the rollouts of all models; filter and order as described at `ListRolloutsRequest`."""

        async def fetch(token: str) -> pb.ListRolloutsResponse:
            request = pb.ListRolloutsRequest(filter=filter, order_by=order_by, page_token=token)
            return await call(self.stub.ListRollouts, request, timeout_s=self.timeout_s)

        async for page in pages(fetch):
            for rollout in page.rollouts:
                yield rollout

    async def rollout_history(self, model: str, alias: str = "") -> AsyncIterator[pb.Rollout]:
        """Yield the rollouts of an alias (empty: of all of the model) as they stood after each change; newest first."""

        async def fetch(token: str) -> pb.ListRolloutHistoryResponse:
            request = pb.ListRolloutHistoryRequest(model=model, alias=alias, page_token=token)
            return await call(self.stub.ListRolloutHistory, request, timeout_s=self.timeout_s)

        async for page in pages(fetch):
            for change in page.changes:
                yield change
