from pathlib import Path
from typing import Any

import grpc
import pytest

from tessera.errors import PermissionDeniedError, UnauthenticatedError
from tessera.rpc.auth import Role, TokensFile, current_identity, hash_token
from tessera.rpc.interceptors.auth import AuthInterceptor
from tessera.rpc.interceptors.errors import ErrorInterceptor
from tessera.rpc.status import rpc_errors
from tests.fixtures.echo import KINDS, NAME, call, intercepted


@pytest.fixture
def tokens(tmp_path: Path) -> TokensFile:
    path = tmp_path / "tokens"
    path.write_text("".join(f"{hash_token(role.name)} {role.name.lower()} {role.name.lower()}@lab\n" for role in Role))
    return TokensFile(path)


async def who(request: bytes, context: Any) -> bytes:
    return current_identity().encode()


async def answer(tokens: TokensFile, kind: str, least: Role | None, metadata: tuple[tuple[str, str], ...]) -> bytes:
    interceptors = [ErrorInterceptor(), AuthInterceptor(tokens.find, {f"/{NAME}/{kind}": least})]
    async with intercepted(interceptors, who) as channel:
        with rpc_errors():
            return (await call(channel, kind, metadata=metadata))[-1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("least", list(Role))
@pytest.mark.parametrize("held", list(Role))
async def test_a_role_allows_what_asks_for_it_or_less(tokens: TokensFile, kind: str, least: Role, held: Role) -> None:
    metadata = (("authorization", f"Bearer {held.name}"),)
    if held >= least:
        assert await answer(tokens, kind, least, metadata) == f"{held.name.lower()}@lab".encode()
        return
    with pytest.raises(PermissionDeniedError, match=f"{kind} needs the role {least.name.lower()}; {held.name.lower()}@lab is"):
        await answer(tokens, kind, least, metadata)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer nonsense", "Basic READER", "READER", f"Bearer {hash_token('READER')}"]
)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_missing_or_wrong_token_is_refused(tokens: TokensFile, kind: str, header: str | None) -> None:
    metadata = () if header is None else (("authorization", header),)
    with pytest.raises(UnauthenticatedError) as caught:
        await answer(tokens, kind, Role.READER, metadata)
    assert "nonsense" not in caught.value.message


async def test_the_word_bearer_may_be_written_in_any_case(tokens: TokensFile) -> None:
    assert await answer(tokens, "Unary", Role.READER, (("authorization", "bearer READER"),)) == b"reader@lab"


async def test_open_methods_need_no_token(tokens: TokensFile) -> None:
    assert await answer(tokens, "Unary", None, ()) == b"anonymous"


async def test_identities_of_calls_do_not_mix(tokens: TokensFile) -> None:
    interceptors: list[grpc.aio.ServerInterceptor] = [
        AuthInterceptor(tokens.find, {f"/{NAME}/Unary": None, f"/{NAME}/Spread": Role.READER})
    ]
    async with intercepted(interceptors, who) as channel:
        assert await call(channel, "Spread", metadata=(("authorization", "Bearer OPERATOR"),)) == [b"first", b"operator@lab"]
        assert await call(channel, "Unary") == [b"anonymous"]
