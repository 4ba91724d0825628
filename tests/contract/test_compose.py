"""What docker-compose.yml promises, read from the file; tests/compose starts it."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.inference.settings import InferenceSettings
from services.registry.settings import RegistrySettings
from services.trainer.settings import TrainerSettings
from tessera.settings import ProcessSettings, ServerSettings, describe
from trainers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS: dict[str, type[ProcessSettings]] = {
    "registry": RegistrySettings,
    "trainer": TrainerSettings,
    "worker": WorkerSettings,
    "worker-gpu": WorkerSettings,
    "inference": InferenceSettings,
    "inference-gpu": InferenceSettings,
}
OURS = {*SETTINGS, "torchserve", "torchserve-gpu"}
PUBLISHED = {"registry", "trainer", "inference", "inference-gpu", "prometheus", "grafana"}
SHELLESS = {"collector"}
"""Images that hold nothing that could ask the server."""

NETWORKS = {
    "edge": {"registry", "trainer", "inference", "inference-gpu"},
    "edge-observability": {"prometheus", "grafana"},
    "control": {"registry", "trainer", "worker", "worker-gpu", "inference", "inference-gpu"},
    "database": {"postgres", "registry", "trainer", "inference", "inference-gpu"},
    "store": {"minio", "registry", "worker", "worker-gpu", "inference", "inference-gpu"},
    "queue": {"redis", "trainer", "worker", "worker-gpu", "inference", "inference-gpu"},
    "torchserve": {"inference", "inference-gpu", "torchserve", "torchserve-gpu"},
    "telemetry": {*SETTINGS, "prometheus", "grafana", "collector", "tempo"},
}
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<operator>[-?])(?P<default>[^}]*))?\}")


def environment(path: Path) -> dict[str, str]:
    """Return the variables of an `.env` file."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}


def interpolated(text: str, variables: dict[str, str]) -> str:
    """Return the text with variables put in as Compose does it."""
    return VARIABLE.sub(lambda found: variables.get(found["name"], "") or found["default"] or "", text)


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("env")
    subprocess.run([ROOT / "scripts/env.sh", "--dir", folder], env={"PATH": "/usr/bin:/bin", "HOME": str(folder)}, check=True)
    return environment(folder / ".env")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_bounded_watched_and_started_again(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["init"]
    assert VARIABLE.fullmatch(service["mem_limit"])
    assert VARIABLE.fullmatch(service["cpus"])
    assert service["pids_limit"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert "no-new-privileges:true" in service["security_opt"]
    assert "stop_grace_period" in service
    assert ("healthcheck" in service) == (name not in SHELLESS)
    assert not service.keys() & {"privileged", "network_mode", "pid", "ipc", "user", "devices", "extra_hosts"}


@pytest.mark.parametrize("name", sorted(OURS))
def test_ours_run_without_capabilities_on_a_root_that_cannot_be_written(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["tmpfs"] == ["/tmp"]
    assert all(re.fullmatch(r"[a-z]+-state:/var/lib/\w+", volume) for volume in service.get("volumes", [])), "no folder of the host"
    assert re.fullmatch(r"tessera/[a-z]+:\$\{TESSERA_TAG:-dev\}(-gpu)?", service["image"])
    assert (ROOT / service["build"]["dockerfile"]).is_file()


def test_only_those_talk_who_must() -> None:
    members = {network: {name for name, service in SERVICES.items() if network in service["networks"]} for network in COMPOSE["networks"]}
    assert members == NETWORKS
    open_ones = {name for name, network in COMPOSE["networks"].items() if not (network or {}).get("internal")}
    assert open_ones == {"edge", "edge-observability"}


def test_ports_are_published_on_loopback_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == PUBLISHED
    for ports in published.values():
        assert len(ports) == 1
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z]+_PORTS?:-\d+\}:\d+", ports[0])


def test_images_of_others_are_pinned() -> None:
    images = {name: service["image"] for name, service in SERVICES.items() if name not in OURS}
    assert all(re.search(r":(RELEASE\.)?v?\d[\w.-]*$", image) for image in images.values()), images


def test_every_image_that_is_built_is_named_after_one_dockerfile() -> None:
    built = {interpolated(SERVICES[name]["image"], {}): SERVICES[name]["build"]["dockerfile"] for name in OURS if not name.endswith("-gpu")}
    assert len(built) == len(set(built.values())) == 5


def test_gpu_twins_differ_from_the_cpu_ones_in_what_they_must() -> None:
    for name in ("worker", "inference", "torchserve"):
        cpu, gpu = SERVICES[name], SERVICES[f"{name}-gpu"]
        assert (cpu["profiles"], gpu["profiles"]) == (["minimal"], ["gpu"])
        assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
        assert {alias for network in gpu["networks"].values() if network for alias in network["aliases"]} == {name}
        different = {"profiles", "image", "build", "deploy", "networks"}
        assert {key: value for key, value in gpu.items() if key not in different} == {
            key: value for key, value in cpu.items() if key not in different
        }


def test_whoever_must_wait_waits_for_health() -> None:
    for name, service in SERVICES.items():
        for awaited, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}, (name, awaited)
            assert awaited not in SHELLESS
    assert set(SERVICES["registry"]["depends_on"]) == {"postgres", "minio"}
    assert {"registry", "trainer"} <= set(SERVICES["worker"]["depends_on"])


def test_no_secret_has_a_default_or_stands_in_the_file() -> None:
    named = re.compile(r"PASSWORD|SECRET_KEY|ACCESS_KEY|AUTH$")
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            if named.search(key):
                found = VARIABLE.fullmatch(str(value))
                assert found, f"{name}: {key}"
                assert found["operator"] != "-", f"{name}: {key}"
    text = (ROOT / "docker-compose.yml").read_text()
    assert not re.search(r"://[^/\s]*:(?!\$\{\w+\}@)[^/@\s]*@", text), "a URL with a password in it"


def test_every_variable_has_a_default_or_is_made_by_make_env(variables: dict[str, str]) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    without = {found["name"] for found in VARIABLE.finditer(text) if found["operator"] != "-"}
    assert without <= variables.keys()
    # The guide's "run make env first": at least one use of each says so.
    assert without == {found["name"] for found in VARIABLE.finditer(text) if found["operator"] == "?"}
    used = {found["name"] for found in VARIABLE.finditer(text)}
    assert variables.keys() - used == {"COMPOSE_PROFILES"}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_of_ours_are_ones_that_they_have(name: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    cls = SETTINGS[name]
    given = {key: interpolated(str(value), variables) for key, value in SERVICES[name]["environment"].items()}
    assert {key for key in given if key != "TESSERA_PROBE_TLS_CA" and f"{key} " not in describe(cls)} == set()
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    # What the image sets itself.
    monkeypatch.setenv(f"{cls.model_config['env_prefix']}HOST", "0.0.0.0")
    monkeypatch.setenv("TESSERA_WORKER_WORK_DIR", "/var/lib/tessera/work")
    settings = cls(_cli_parse_args=[])  # type: ignore[call-arg]
    assert settings.otlp_endpoint == "http://collector:4317"
    if isinstance(settings, ServerSettings):
        assert settings.tls_cert
        assert settings.tokens_file
        assert not settings.allow_insecure


def test_secrets_are_files_that_their_user_alone_gets(variables: dict[str, str]) -> None:
    folder = Path(variables["SECRETS_DIR"])
    files = {name: Path(interpolated(secret["file"], variables)) for name, secret in COMPOSE["secrets"].items()}
    assert all(path == folder / name and path.is_file() for name, path in files.items())
    assert "ca.key" not in files
    for name, service in SERVICES.items():
        plain = name.removesuffix("-gpu")
        assert {secret for secret in service.get("secrets", []) if secret.split(".")[0] not in (plain, "ca", "tokens")} == set()


def test_mounted_files_are_in_the_repository() -> None:
    mounts = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    folders = [mount for mount in mounts if mount.startswith(".")]
    assert folders
    assert [mount for mount in folders if not (ROOT / mount).exists()] == []
    assert {mount for mount in mounts if not mount.startswith(".")} == set(COMPOSE["volumes"])


def test_prometheus_asks_every_service_on_its_port_of_metrics() -> None:
    jobs = yaml.safe_load((ROOT / "observability/prometheus/prometheus.yml").read_text())["scrape_configs"]
    found = {job["job_name"]: job["dns_sd_configs"][0] for job in jobs if "dns_sd_configs" in job}
    for name, cls in SETTINGS.items():
        if not name.endswith("-gpu"):
            assert found[name]["names"] == [name]
            assert found[name]["port"] == cls.model_fields["metrics_port"].default


def test_traces_pass_through_the_collector_to_the_store_that_grafana_shows() -> None:
    collector = yaml.safe_load((ROOT / "observability/collector/config.yaml").read_text())
    traces = collector["service"]["pipelines"]["traces"]
    for kind in ("receivers", "processors", "exporters"):
        assert set(traces[kind]) == set(collector[kind])
    assert collector["exporters"]["otlp"]["endpoint"] == "tempo:4317"
    tempo = yaml.safe_load((ROOT / "observability/tempo/tempo.yaml").read_text())
    assert tempo["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].endswith(":4317")
    sources = yaml.safe_load((ROOT / "observability/grafana/provisioning/datasources/datasources.yaml").read_text())["datasources"]
    by_uid = {source["uid"]: source for source in sources}
    assert by_uid["tempo"]["url"] == f"http://tempo:{tempo['server']['http_listen_port']}"
    assert by_uid["prometheus"]["jsonData"]["exemplarTraceIdDestinations"] == [{"name": "trace_id", "datasourceUid": "tempo"}]
    assert "--enable-feature=exemplar-storage" in SERVICES["prometheus"]["command"]
