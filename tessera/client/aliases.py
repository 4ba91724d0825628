"""Aliases for versions that come of a job: moved once, whoever repeats the work."""

from tessera.api.common.v1.common_pb2 import Fence
from tessera.client.registry import RegistryClient
from tessera.errors import ConflictError, StaleFenceError

_TRIES = 5


async def move_alias_once(registry: RegistryClient, model: str, alias: str, version: int, *, reason: str, fence: Fence) -> None:
    """Move an alias to a new version by compare-and-swap, unless it has pointed there before: somebody may have moved it on since.

    May be repeated until it returns.

    Args:
        registry: The registry's client.
        model: The model.
        alias: Made when missing.
        version: Where it shall point.
        reason: For the alias's history.
        fence: Of the job that made the version.

    Raises:
        StaleFenceError: A later attempt has begun.
        ConflictError: Others keep moving the alias.
        NotFoundError: No such model or version.
    """
    for _ in range(_TRIES):
        if version in [change.to_version async for change in registry.alias_history(model, alias)]:
            return
        current = (await registry.get_model(model)).aliases.get(alias, 0)
        try:
            await registry.set_alias(model, alias, version, expected_version=current, reason=reason, fence=fence)
        except StaleFenceError:
            raise
        except ConflictError:  # moved by somebody else meanwhile, or by our own call whose answer was lost
            continue
        return
    raise ConflictError(f"the alias {alias} of {model} was moved by others {_TRIES} times in a row")
