from pathlib import Path

import pytest

from tessera.errors import InvalidArgumentError
from tessera.rpc.auth import Role, TokensFile, current_identity, hash_token


def tokens_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tokens"
    path.write_text(text)
    return path


def test_a_token_is_found_by_its_digest(tmp_path: Path) -> None:
    text = f"# who may call\n\n{hash_token('a')} reader alice\n  # indented\n{hash_token('b').upper()} Operator bob\n"
    tokens = TokensFile(tokens_file(tmp_path, text))
    alice, bob = tokens.find("a"), tokens.find("b")
    assert alice is not None and (alice.role, alice.identity) == (Role.READER, "alice")
    assert bob is not None and (bob.role, bob.identity) == (Role.OPERATOR, "bob")
    assert tokens.find("c") is None
    assert tokens.find(hash_token("a")) is None


def test_the_digest_is_that_of_sha256sum() -> None:
    assert hash_token("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_roles_include_the_ones_below() -> None:
    assert Role.READER < Role.PUBLISHER < Role.OPERATOR


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("swordfish reader alice", "line 2: must read `sha256-of-token role identity`"),
        (f"{hash_token('a')} king alice", "line 2: the role must be one of reader, publisher, operator"),
        (f"{hash_token('a')} reader", "line 2: must read"),
        (f"{hash_token('a')} reader alice smith", "line 2: must read"),
    ],
)
def test_a_wrong_line_is_named_and_not_repeated(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message) as error:
        TokensFile(tokens_file(tmp_path, f"# tokens\n{line}\n"))
    assert error.value.field == "tokens_file"
    assert line.split(maxsplit=1)[0] not in error.value.message


def test_a_file_without_tokens_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="holds no token"):
        TokensFile(tokens_file(tmp_path, "# nobody yet\n"))
    with pytest.raises(InvalidArgumentError, match=r"cannot read .*missing: No such file"):
        TokensFile(tmp_path / "missing")


def test_outside_a_call_the_identity_is_anonymous() -> None:
    assert current_identity() == "anonymous"
