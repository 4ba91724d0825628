import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.errors import InvalidArgumentError
from tessera.names import check_alias, check_name, check_sha256, is_sha256, shown

BAD_NAMES = [
    "",
    "a" * 129,
    "a" * 300,
    "..",
    "../etc",
    "a/b",
    "a\\b",
    "/abs",
    ".hidden",
    "-flag",
    "_x",
    "A",
    "a b",
    "a\n",
    "a\0b",
    "\x1b[31m",
    "é",
    "٣",
]


@pytest.mark.parametrize("name", ["a", "0", "puzzle_cells", "cells-exp4.v2", "a" * 128])
def test_a_good_name_is_returned(name: str) -> None:
    assert check_name(name, "model") == name


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_bad_name_is_refused_with_its_field_and_the_rule(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="1 to 128 of a-z") as refused:
        check_name(name, "spec.model")
    assert refused.value.field == "spec.model"
    assert refused.value.message.startswith("spec.model: ")
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 300


@pytest.mark.parametrize("alias", ["1", "007", *BAD_NAMES])
def test_an_alias_is_a_name_that_does_not_look_like_a_version(alias: str) -> None:
    with pytest.raises(InvalidArgumentError):
        check_alias(alias, "alias")


def test_a_good_alias_is_returned() -> None:
    assert check_alias("v1", "alias") == "v1"


@given(st.text(max_size=400))
def test_any_text_is_a_name_or_an_invalid_argument(text: str) -> None:
    try:
        assert check_name(text, "name") == text
    except InvalidArgumentError as error:
        assert error.message.isprintable()


@pytest.mark.parametrize("digest", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n", "sha256:" + "a" * 57])
def test_a_bad_digest_is_refused(digest: str) -> None:
    assert not is_sha256(digest)
    with pytest.raises(InvalidArgumentError, match="64 lower-case hexadecimal digits"):
        check_sha256(digest, "sha256")


def test_shown_values_are_short_and_printable() -> None:
    text = shown("a\n\x1b" * 1000)
    assert text.startswith("'a\\n\\x1ba\\n")
    assert text.endswith("'... (3000 characters)")
    assert len(text) < 250
    assert len(shown(list(range(10_000)))) < 200
