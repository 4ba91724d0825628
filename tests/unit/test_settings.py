from pathlib import Path

import pytest
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from tessera.settings import ClientSettings, ProcessSettings, ServerSettings, describe, load_settings


class ShopSettings(ServerSettings):
    """Settings of a shop."""

    model_config = SettingsConfigDict(env_prefix="SHOP_")
    port: int = Field(8123, description="Port of the shop.")
    secret_key: SecretStr = Field(SecretStr("hunter2"), description="Key of the shop.")
    bank: ClientSettings = ClientSettings()


class NeedySettings(ProcessSettings):
    """Settings that cannot be guessed."""

    model_config = SettingsConfigDict(env_prefix="NEEDY_")
    url: str = Field(description="Where it is.")


def test_the_environment_is_read_and_the_command_line_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PORT", "1")
    monkeypatch.setenv("SHOP_LOG_LEVEL", "DEBUG")
    settings = load_settings(ShopSettings, ["--port", "2", "--allow-insecure"])
    assert (settings.port, settings.log_level, settings.allow_insecure) == (2, "DEBUG", True)


def test_nested_settings_are_reached_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_BANK__TIMEOUT_S", "3")
    settings = load_settings(ShopSettings, ["--bank.token-file", "token.txt"])
    assert (settings.bank.timeout_s, settings.bank.token_file) == (3.0, Path("token.txt"))


def test_the_word_none_stands_for_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(ShopSettings, ["--metrics-port", "none"]).metrics_port is None
    monkeypatch.setenv("SHOP_METRICS_PORT", "none")
    assert load_settings(ShopSettings, []).metrics_port is None


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("PORT", "99999999")
    assert load_settings(ShopSettings, []).port == 8123


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ShopSettings().port = 3  # type: ignore[misc]


def test_help_lists_every_setting_with_variable_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        load_settings(ShopSettings, ["--port", "nonsense", "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("--")}
    assert set(rows) == {
        *("--" + name.replace("_", "-") for name in ShopSettings.model_fields if name != "bank"),
        *("--bank." + name.replace("_", "-") for name in ClientSettings.model_fields),
    }
    assert rows["--port"].split(maxsplit=3) == ["--port", "SHOP_PORT", "8123", "Port of the shop."]
    assert "SHOP_BANK__TOKEN_FILE" in rows["--bank.token-file"]
    assert all(len(line.split(maxsplit=3)) == 4 for line in rows.values())


def test_help_says_which_settings_are_required() -> None:
    assert "(required)" in describe(NeedySettings)


@pytest.mark.parametrize("cls", [ShopSettings])
def test_no_secret_is_shown(cls: type[ShopSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_BANK__TOKEN", "swordfish")
    settings = load_settings(cls, [])
    assert settings.bank.token is not None
    for text in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json(), describe(cls)):
        assert "swordfish" not in text
        assert "hunter2" not in text


def test_a_wrong_secret_is_not_repeated_in_the_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_BANK__TOKEN", "swordfish")
    with pytest.raises(SystemExit) as exit_:
        load_settings(ShopSettings, ["--bank.token-file", "also.txt", "--port", "x12345"])
    assert exit_.value.code == 2
    text = capsys.readouterr().err
    assert "port: Input should be a valid integer" in text
    assert "set token or token_file, not both" in text
    assert "swordfish" not in text


def test_a_missing_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_settings(NeedySettings, [])
    assert "url: Field required" in capsys.readouterr().err


def test_an_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        load_settings(ShopSettings, ["--prot", "1"])
    assert exit_.value.code == 2
    assert "--prot" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "shop.example.com", ""])
def test_an_open_host_without_tokens_is_refused_with_what_to_do(host: str) -> None:
    with pytest.raises(ValidationError, match=r"set tokens_file, or listen on 127\.0\.0\.1, or set allow_insecure"):
        ServerSettings(host=host)


def test_tokens_in_the_clear_are_refused_on_an_open_host() -> None:
    with pytest.raises(ValidationError, match="tokens would travel in the clear: set tls_cert and tls_key"):
        ServerSettings(host="0.0.0.0", tokens_file=Path("tokens"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_tokens(host: str) -> None:
    assert ServerSettings(host=host).tokens_file is None


def test_an_open_host_is_allowed_when_meant_or_secured() -> None:
    ServerSettings(host="0.0.0.0", allow_insecure=True)
    ServerSettings(host="0.0.0.0", tokens_file=Path("tokens"), tls_cert=Path("cert"), tls_key=Path("key"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tls_cert": Path("cert")}, "tls_cert and tls_key belong together"),
        ({"tls_client_ca": Path("ca")}, "tls_client_ca needs tls_cert"),
        ({"port": 70000}, "less than or equal to 65535"),
        ({"shutdown_grace_s": 0}, "greater than 0"),
    ],
)
def test_server_settings_that_do_not_fit_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ServerSettings(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tls_cert": Path("cert")}, "tls_cert and tls_key belong together"),
        ({"tls_cert": Path("cert"), "tls_key": Path("key")}, "tls_cert needs tls_ca"),
        ({"token": "a", "token_file": Path("b")}, "not both"),
    ],
)
def test_client_settings_that_do_not_fit_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClientSettings(**given)  # type: ignore[arg-type]
