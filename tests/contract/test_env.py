"""scripts/env.sh: what it makes, that it overwrites nothing, and how what it made is renewed. No Docker needed."""

import subprocess
import tomllib
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tessera.rpc.address import servers
from tessera.rpc.auth import Role, TokensFile
from tests.contract.test_compose import ROOT, environment

SERVICES = ("registry", "trainer", "inference")
ROLES = {
    "operator": Role.OPERATOR,
    "worker": Role.PUBLISHER,
    "trainer": Role.PUBLISHER,
    "inference": Role.PUBLISHER,
    "client": Role.READER,
}


def run(directory: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script for a directory that is its home as well."""
    command = [str(ROOT / "scripts/env.sh"), "--dir", str(directory), *options]
    return subprocess.run(
        command, env={"PATH": "/usr/bin:/bin", "HOME": str(directory)} | variables, capture_output=True, text=True, check=False
    )


def made(directory: Path) -> dict[str, bytes]:
    """Return what lies there."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def certificate(directory: Path, name: str) -> x509.Certificate:
    """Return a certificate of the directory."""
    return x509.load_pem_x509_certificate((directory / "secrets" / f"{name}.pem").read_bytes())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that tests look at."""
    directory = tmp_path_factory.mktemp("finished")
    result = run(directory)
    assert result.returncode == 0, result.stderr
    return directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that a test changes."""
    result = run(tmp_path)
    assert result.returncode == 0, result.stderr
    return tmp_path


def test_files_are_for_their_owner_and_for_containers_alone(finished: Path) -> None:
    def mode(name: str) -> int:
        return (finished / name).stat().st_mode & 0o777

    assert mode(".env") == 0o600
    assert mode("secrets") == 0o700
    files = {path.name: path.stat().st_mode & 0o777 for path in (finished / "secrets").iterdir()}
    assert files.pop("ca.key") == 0o600
    keys = {f"{name}.{suffix}" for name in SERVICES for suffix in ("pem", "key")}
    assert files == dict.fromkeys({"ca.pem", "tokens", *keys, *(f"{name}.token" for name in ROLES)}, 0o644)
    assert mode(".tessera/profiles") == 0o700


def test_certificates_are_good_for_the_services_and_this_machine(finished: Path) -> None:
    authority = certificate(finished, "ca")
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    for name in SERVICES:
        found = certificate(finished, name)
        found.verify_directly_issued_by(authority)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert set(names.get_values_for_type(x509.DNSName)) == {name, "localhost"}
        assert names.get_values_for_type(x509.IPAddress) == [ip_address("127.0.0.1")]
        assert timedelta(days=300) < found.not_valid_after_utc - datetime.now(UTC) < timedelta(days=398)
        key = load_pem_private_key((finished / "secrets" / f"{name}.key").read_bytes(), None)
        assert key.public_key() == found.public_key()


def test_every_token_has_its_role(finished: Path) -> None:
    tokens = TokensFile(finished / "secrets/tokens")
    for identity, role in ROLES.items():
        grant = tokens.find((finished / "secrets" / f"{identity}.token").read_text().strip())
        assert grant
        assert (grant.identity, grant.role) == (identity, role)


def test_the_profile_names_the_servers_and_shows_the_token_of_an_operator(tmp_path: Path) -> None:
    assert run(tmp_path, "--port-base", "18100").returncode == 0
    profile = tomllib.loads((tmp_path / ".tessera/profiles/compose.toml").read_text())
    assert profile == {
        "registry": "127.0.0.1:18110",
        "trainer": "127.0.0.1:18120",
        "inference": "127.0.0.1:18101",
        "tls_ca": str(tmp_path / "secrets/ca.pem"),
        "token_file": str(tmp_path / "secrets/operator.token"),
    }
    variables = environment(tmp_path / ".env")
    assert (variables["PROMETHEUS_PORT"], variables["GRAFANA_PORT"]) == ("18190", "18130")


@pytest.mark.parametrize(
    ("written", "variables"), [("8101-8103", {}), ("8001", {"INFERENCE_PORTS": "8101-8103"}), ("", {"INFERENCE_PORTS": "8101-8103"})]
)
def test_all_inference_servers_of_a_range_of_ports_stand_in_the_profile(tmp_path: Path, written: str, variables: dict[str, str]) -> None:
    if written:
        (tmp_path / ".env").write_text(f"INFERENCE_PORTS={written}\n")
    assert run(tmp_path, **variables).returncode == 0
    address = tomllib.loads((tmp_path / ".tessera/profiles/compose.toml").read_text())["inference"]
    assert address == "ipv4:127.0.0.1:8101,127.0.0.1:8102,127.0.0.1:8103"
    assert servers(address) == [f"127.0.0.1:{port}" for port in (8101, 8102, 8103)]
    assert environment(tmp_path / ".env")["INFERENCE_PORTS"] == (written or "8101-8103")


def test_what_is_there_stays(finished: Path) -> None:
    before = made(finished)
    again = run(finished)
    assert (again.returncode, again.stderr) == (0, "")
    assert made(finished) == before


def test_what_is_missing_is_made(directory: Path) -> None:
    before = made(directory)
    (directory / ".env").write_text("REDIS_PASSWORD=mine\n")
    (directory / "secrets/trainer.key").unlink()
    assert run(directory).returncode == 0
    after = made(directory)
    variables = environment(directory / ".env")
    assert variables["REDIS_PASSWORD"] == "mine"
    assert len(variables["POSTGRES_PASSWORD"]) == 48
    assert {name for name in before if before[name] != after[name]} == {".env", "secrets/trainer.key", "secrets/trainer.pem"}


def test_a_profile_of_another_stack_stays_and_is_named(directory: Path) -> None:
    profile = directory / ".tessera/profiles/compose.toml"
    profile.write_text('registry = "elsewhere:8010"\n')
    result = run(directory)
    assert result.returncode == 0
    assert str(profile) in result.stderr
    assert profile.read_text() == 'registry = "elsewhere:8010"\n'


def test_secrets_are_other_ones_each_time(finished: Path, directory: Path) -> None:
    mine, theirs = environment(finished / ".env"), environment(directory / ".env")
    secret = [name for name in mine if name.endswith(("_PASSWORD", "_KEY"))]
    assert len({*(mine[name] for name in secret), *(theirs[name] for name in secret)}) == 2 * len(secret) == 16
    for name in ("ca.key", "registry.key", "operator.token"):
        assert (finished / "secrets" / name).read_bytes() != (directory / "secrets" / name).read_bytes()


def test_certificates_are_renewed_in_place_for_the_same_keys(directory: Path) -> None:
    before = made(directory)
    inode = (directory / "secrets/registry.pem").stat().st_ino
    result = run(directory, "--renew")
    assert result.returncode == 0
    assert "registry.pem until" in result.stdout
    after = made(directory)
    assert {name for name in before if before[name] != after[name]} == {f"secrets/{name}.pem" for name in SERVICES}
    assert (directory / "secrets/registry.pem").stat().st_ino == inode, "a container that holds the file sees the new one"
    certificate(directory, "registry").verify_directly_issued_by(certificate(directory, "ca"))


def test_a_new_authority_signs_all_again(directory: Path) -> None:
    before = made(directory)
    for name in ("ca.pem", "ca.key"):
        (directory / "secrets" / name).write_text("")
    assert run(directory).returncode == 0
    after = made(directory)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"secrets/ca.key", *(f"secrets/{name}.pem" for name in ("ca", *SERVICES))}
    certificate(directory, "trainer").verify_directly_issued_by(certificate(directory, "ca"))


def test_without_the_key_of_the_authority_certificates_stay_and_it_is_said(directory: Path) -> None:
    (directory / "secrets/ca.key").unlink()
    assert run(directory).returncode == 0, "nothing is to be signed"
    before = made(directory)
    result = run(directory, "--renew")
    assert result.returncode == 2
    assert "ca.key is not the key of ca.pem" in result.stderr
    assert result.stderr.count("\n") == 1
    assert made(directory) == before


def test_a_token_whose_file_is_emptied_is_replaced_and_the_old_one_forgotten(directory: Path) -> None:
    tokens, file = directory / "secrets/tokens", directory / "secrets/worker.token"
    old, inodes = file.read_text().strip(), (tokens.stat().st_ino, file.stat().st_ino)
    tokens.write_text(f"{tokens.read_text()}{'0' * 64} reader by-hand\n")
    file.write_text("")
    assert run(directory).returncode == 0
    loaded = TokensFile(tokens)
    assert loaded.find(old) is None
    new = loaded.find(file.read_text().strip())
    assert new
    assert new.identity == "worker"
    assert "reader by-hand" in tokens.read_text()
    assert inodes == (tokens.stat().st_ino, file.stat().st_ino)


@pytest.mark.parametrize("options", [["--port-base", "many"], ["--port-base"], ["--colour"]])
def test_wrong_options_are_refused_in_words(tmp_path: Path, options: list[str]) -> None:
    result = run(tmp_path / "never", *options)
    assert result.returncode == 2
    assert result.stderr.startswith("env.sh: ")
    assert result.stderr.count("\n") == 1
