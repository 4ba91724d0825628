"""Who may call what: a bearer token stands for an identity with a role, and every method asks for a least role."""

from collections.abc import Callable, Mapping
from typing import Any

from tessera.errors import UnauthenticatedError
from tessera.rpc.auth import Grant, Role, require, set_caller
from tessera.rpc.interceptors.base import Call, CallInterceptor, Context, Method


class AuthInterceptor(CallInterceptor):
    """Lets a call through if its token has the role that the method asks for.

    Args:
        find: Returns what a token stands for, None if it is not known.
        roles: Least role of every method by its path; None for those that are open to all.
    """

    def __init__(self, find: Callable[[str], Grant | None], roles: Mapping[str, Role | None]) -> None:
        super().__init__()
        self._find = find
        self._roles = roles

    def around(self, method: Method, call: Call) -> Call:
        """Check the calls of a method."""
        least = self._roles[method.path]
        if least is None:
            return call

        async def checked(request: Any, context: Context) -> Any:
            self._check(method, least, context)
            return await call(request, context)

        return checked

    def _check(self, method: Method, least: Role, context: Context) -> None:
        header = dict(context.invocation_metadata() or ()).get("authorization")
        scheme, _, token = header.partition(" ") if isinstance(header, str) else ("", "", "")
        if scheme.lower() != "bearer" or not token:
            raise UnauthenticatedError("this server wants a token: send the metadata `authorization: Bearer <token>`")
        grant = self._find(token.strip())
        if grant is None:
            raise UnauthenticatedError("this token is not known here")
        set_caller(grant)
        require(least, method.name)
