"""Calls about rollouts."""

# ruff: noqa: N802 (methods are named as in the contract)

import asyncio

from services.registry.calls.base import Calls, Context, page_of
from tessera.api.registry.v1 import registry_pb2 as pb
from tessera.rpc.auth import Role, current_identity, require


class RolloutCalls(Calls):
    """See registry.proto for every method."""

    async def StartRollout(self, request: pb.StartRolloutRequest, context: Context) -> pb.StartRolloutResponse:
        """Begin a rollout."""
        return pb.StartRolloutResponse(rollout=await self._change(self._registry.rollouts.start, request, current_identity()))

    async def UpdateRollout(self, request: pb.UpdateRolloutRequest, context: Context) -> pb.UpdateRolloutResponse:
        """Change a rollout."""
        return pb.UpdateRolloutResponse(rollout=await self._change(self._registry.rollouts.update, request, current_identity()))

    async def EndRollout(self, request: pb.EndRolloutRequest, context: Context) -> pb.EndRolloutResponse:
        """End a rollout. Only rolling back, which leaves everybody with the version that they had, is not for operators alone."""
        if request.outcome != pb.ROLLOUT_STATE_ROLLED_BACK:
            require(Role.OPERATOR, "EndRollout other than by ROLLED_BACK")
        return await self._change(self._registry.rollouts.end, request, current_identity())

    async def GetRollout(self, request: pb.GetRolloutRequest, context: Context) -> pb.GetRolloutResponse:
        """Answer the rollout of an alias."""
        return pb.GetRolloutResponse(rollout=await asyncio.to_thread(self._registry.rollouts.get, request.model, request.alias))

    async def ListRollouts(self, request: pb.ListRolloutsRequest, context: Context) -> pb.ListRolloutsResponse:
        """Answer a page of rollouts."""
        return await asyncio.to_thread(self._registry.rollouts.page, page_of(request))

    async def ListRolloutHistory(self, request: pb.ListRolloutHistoryRequest, context: Context) -> pb.ListRolloutHistoryResponse:
        """Answer a page of what happened to rollouts."""
        return await asyncio.to_thread(self._registry.rollouts.history, request.model, request.alias, page_of(request))
