"""What holds for every image: who runs in it, how it is asked whether it is well, and what may not get into it."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.contract.test_layout import ROOT, tracked

PYTHON = "python:3.11-slim-bookworm"
IMAGES = {
    "services/registry": "services.registry",
    "services/trainer": "services.trainer",
    "services/inference": "services.inference",
    "services/inference/torchserve": "services.inference.torchserve",
    "trainers": "trainers.worker",
}
WITH_TORCH = ("trainers", "services/inference/torchserve")
TENSOR_LIBRARIES = {"torch", "tensorflow", "onnxruntime", "lightning", "torchserve"}

Instruction = tuple[str, str]


def instructions(folder: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile: their names and what follows, without comments."""
    lines = (ROOT / folder / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", "")
    return [(name, arguments.strip()) for name, _, arguments in (line.partition(" ") for line in text.splitlines() if line.strip())]


def stages(folder: str) -> list[list[Instruction]]:
    """Return the stages of a Dockerfile, each beginning with its FROM."""
    found: list[list[Instruction]] = []
    for name, arguments in instructions(folder):
        if name == "FROM":
            found.append([])
        found[-1].append((name, arguments))
    return found


def last_stage(folder: str) -> dict[str, str]:
    """Return the instructions of the last stage by their names; those that occur several times are joined."""
    found: dict[str, str] = {}
    for name, arguments in stages(folder)[-1]:
        found[name] = "\n".join(filter(None, [found.get(name), arguments]))
    return found


def requirements(extra: str) -> set[str]:
    """Return the names of what an extra installs, and of what the kernel needs anyway."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"][extra]]
    return {re.split(r"[\[=<>~ ]", line)[0].lower() for line in lines}


def test_every_process_has_an_image_and_every_image_a_process() -> None:
    assert {path.parent.relative_to(ROOT).as_posix() for path in tracked() if path.name == "Dockerfile"} == set(IMAGES)
    for module in IMAGES.values():
        path = ROOT / module.replace(".", "/")
        assert (path / "__main__.py").is_file() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("folder", IMAGES)
def test_an_image_runs_one_process_as_a_user_without_rights(folder: str) -> None:
    last = last_stage(folder)
    assert last["USER"] == "10001:10001"
    assert json.loads(last["ENTRYPOINT"]) == ["python", "-m", IMAGES[folder]]  # the exec form: SIGTERM reaches the process
    assert "useradd --uid 10001" in last["RUN"]
    assert "CMD" not in last


@pytest.mark.parametrize("folder", IMAGES)
def test_an_image_says_whether_it_is_well_and_what_it_is(folder: str) -> None:
    last = last_stage(folder)
    assert "-m" in json.loads(last["HEALTHCHECK"].partition(" CMD ")[2])
    assert '"tessera.probe"' in last["HEALTHCHECK"]
    port = re.search(r":(\d+)", last["HEALTHCHECK"])
    assert port
    assert port[1] in last["EXPOSE"].split()
    for label in ("title", "description", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in last["LABEL"]


@pytest.mark.parametrize("folder", IMAGES)
def test_an_image_is_built_from_a_named_release_with_the_versions_that_are_tested(folder: str) -> None:
    own = {match[1] for name, arguments in instructions(folder) if name == "FROM" and (match := re.search(r" AS (\S+)$", arguments))}
    sources = {arguments.split()[0] for name, arguments in instructions(folder) if name == "FROM"}
    assert sources - own == {PYTHON}
    assert len(stages(folder)) >= 2
    for name, arguments in instructions(folder):
        if name == "RUN" and " install " in arguments and "pip" in arguments:
            assert "constraints.txt" in arguments
            assert "--mount=type=cache,target=/root/.cache/pip" in arguments  # what pip keeps is in no layer
    assert not (ROOT / folder / "Dockerfile").read_text().startswith("# syntax")


def test_torch_is_one_layer_for_all_images_that_need_it() -> None:
    first, second = (stages(folder)[0] for folder in WITH_TORCH)
    assert first == second
    assert [stages(folder)[-1][1] for folder in WITH_TORCH] == [("COPY", "--from=torch /opt/torch /opt/torch")] * 2


@pytest.mark.parametrize("extra", ["registry", "trainer"])
def test_the_registry_and_the_trainer_install_no_tensor_library(extra: str) -> None:
    assert requirements(extra) & TENSOR_LIBRARIES == set()


def test_torch_is_the_release_that_is_tested() -> None:
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    for match in re.findall(r'"torch==([^"]+)"', (ROOT / "pyproject.toml").read_text()):
        assert match == pinned[1]


def test_nothing_gets_into_a_build_but_what_is_named() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {line.removeprefix("!") for line in rules if line.startswith("!")}
    copied = {
        source
        for folder in IMAGES
        for name, arguments in instructions(folder)
        if name == "COPY" and "--from" not in arguments
        for source in arguments.split()[:-1]
    }
    assert {Path(source).parts[0] for source in copied} == let_in
