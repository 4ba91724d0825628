"""The `tessera` command against small servers: what it prints, as text and as JSON, and what it says when something is wrong."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tessera.api.trainer.v1 import trainer_pb2
from tests.fixtures.waiting import WAIT_S
from tests.unit.cli_fakes import MANIFEST, Fakes, tessera


def test_gc_says_what_it_removed_or_would_remove(fakes: Fakes) -> None:
    assert "removed 2 files (3 MB) and 1 unfinished uploads" in tessera("gc").stderr
    assert "would remove 2 files" in tessera("gc", "--dry-run", "--grace", 0.5).stderr
    first, second = fakes.registry.collected
    assert (first.dry_run, first.HasField("grace")) == (False, False)
    assert (second.dry_run, second.grace.seconds) == (True, 1800)


def test_tags_are_set_and_removed(fakes: Fakes) -> None:
    tags = json.loads(tessera("versions", "tag", "puzzle", 1, "site=roof", "by=hand=held", "--remove", "old", "--json").stdout)["tags"]
    assert tags == {"site": "roof", "by": "hand=held"}
    for arguments, said in (
        ([], "nothing to change"),
        (["site"], "tag site: write tag KEY=VALUE"),
        (["a=1", "a=2"], "tag a is given twice"),
    ):
        result = tessera("versions", "tag", "puzzle", 1, *arguments)
        assert result.exit_code == 1
        assert said in result.stderr


def test_a_token_goes_out_in_the_clear_only_if_told(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_TOKEN", "secret")
    monkeypatch.setenv("TESSERA_REGISTRY_ADDRESS", "registry.invalid:8010")
    refused = tessera("models", "list")
    assert refused.exit_code == 1
    assert "set tls_ca, or allow_insecure" in refused.stderr
    sent = tessera("--allow-insecure", "--timeout", 0.1, "models", "list")
    assert "in the clear" not in sent.stderr, "and tries to reach the registry"
    assert sent.exit_code != refused.exit_code
    monkeypatch.setenv("TESSERA_ALLOW_INSECURE", "1")
    assert "in the clear" not in tessera("--timeout", 0.1, "models", "list").stderr


def test_json_keeps_numbers_and_shortens_enums(fakes: Fakes) -> None:
    job = json.loads(tessera("jobs", "show", "j1", "--json").stdout)
    assert job["state"] == "SUCCEEDED"
    assert job["version"] == 4
    assert job["progress"]["eta"] == 1.5
    assert job["finish_time"] is None
    version = json.loads(tessera("versions", "show", "puzzle", "--json").stdout)
    assert version["manifest_json"] == MANIFEST
    assert version["create_time"] == "2023-11-14T22:13:20Z"


def test_lists_go_on_over_all_pages(fakes: Fakes) -> None:
    assert [model["name"] for model in json.loads(tessera("models", "list", "--json").stdout)] == ["lego", "other", "puzzle"]


def test_a_job_is_watched_as_one_object_a_line(fakes: Fakes) -> None:
    result = tessera("jobs", "watch", "j1", "--json")
    assert [json.loads(line)["state"] for line in result.stdout.splitlines()] == ["QUEUED", "RUNNING", "SUCCEEDED"]


def test_a_failed_job_fails_the_watch_with_its_error(fakes: Fakes) -> None:
    fakes.trainer.outcome = trainer_pb2.JOB_STATE_FAILED
    result = tessera("jobs", "watch", "j1")
    assert result.exit_code == 1
    assert "the picture is too small" in result.stderr
    assert "tessera jobs show j1" in result.stderr


def test_train_sends_what_was_asked_for(fakes: Fakes, tmp_path: Path) -> None:
    picture = tmp_path / "photo.jpg"
    picture.write_bytes(b"a photograph")
    result = tessera(
        *("train", "puzzle_cells", "--architecture", "cells_exp4", "--model", "puzzle", "--input", f"picture={picture}"),
        *("--set", "epochs=5", "--set", "schedule=constant", "--model-config", "columns=6", "--alias", "champion", "--key", "k", "--watch"),
    )
    assert result.exit_code == 0, result.stderr
    [request] = fakes.trainer.submitted
    assert request.idempotency_key == "k"
    assert dict(request.spec.hyperparameters) == {"epochs": 5, "schedule": "constant"}
    assert dict(request.spec.model_config) == {"columns": 6}
    assert request.spec.alias == "champion"
    [sent] = request.spec.inputs
    assert (sent.name, sent.sha256, sent.size_bytes) == ("picture", hashlib.sha256(b"a photograph").hexdigest(), 12)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input", "picture=/no/such/photo.jpg"], "--input picture=/no/such/photo.jpg: cannot read the file: No such file or directory"),
        (["--input", "picture=."], "cannot read the file: Is a directory"),
        (["--input", "photo.jpg"], "write --input NAME=FILE"),
        (["--set", "epochs"], "write --set KEY=VALUE"),
        (["--set", "epochs=1", "--set", "epochs=2"], "--set epochs is given twice"),
    ],
)
def test_train_says_what_is_wrong_before_it_sends_anything(nowhere: str, arguments: list[str], said: str) -> None:
    result = tessera("train", "puzzle_cells", "--architecture", "cells_exp4", "--model", "puzzle", *arguments)
    assert result.exit_code == 1
    assert said in result.stderr


def test_promote_moves_the_champion_to_the_candidate_and_shows_it(fakes: Fakes) -> None:
    result = tessera("promote", "puzzle")
    assert result.exit_code == 0
    assert "champion from version 1" in result.stderr
    assert "champion to version 3" in result.stderr
    assert fakes.registry.models["puzzle"].aliases["champion"] == 3
    again = tessera("promote", "puzzle")
    assert again.exit_code == 1
    assert "stands at version 3 already" in again.stderr


def test_promote_without_a_candidate_says_how_to_make_one(fakes: Fakes) -> None:
    result = tessera("promote", "lego")
    assert result.exit_code == 3
    assert "tessera alias set lego candidate VERSION" in result.stderr


def test_rollback_again_goes_further_back(fakes: Fakes) -> None:
    for version in (2, 3):
        tessera("alias", "set", "puzzle", "champion", version)
    for expected in (2, 1):
        assert tessera("rollback", "puzzle").exit_code == 0
        assert fakes.registry.models["puzzle"].aliases["champion"] == expected
    result = tessera("rollback", "puzzle")
    assert result.exit_code == 1
    assert "never stood anywhere else" in result.stderr


def test_somebody_faster_leaves_exit_code_5(fakes: Fakes) -> None:
    result = tessera("alias", "set", "puzzle", "champion", 2, "--expected", 3)
    assert result.exit_code == 5
    assert "champion stands at 1, not at 3" in result.stderr
    assert "tessera alias list" in result.stderr


def test_what_does_not_exist_leaves_exit_code_3_and_says_where_to_look(fakes: Fakes) -> None:
    result = tessera("models", "show", "nothing")
    assert result.exit_code == 3
    assert "no model 'nothing'" in result.stderr
    assert "tessera models list" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("command", "service"),
    [(("models", "list"), "registry"), (("jobs", "list"), "trainer"), (("predict", "puzzle", "{piece}"), "inference")],
)
def test_a_server_that_is_away_is_named_with_what_to_do(nowhere: str, command: tuple[str, ...], service: str, piece: Path) -> None:
    result = tessera(*(part.format(piece=piece) for part in command))
    assert result.exit_code == 4
    assert f"the {service} is not reachable at {nowhere}" in result.stderr
    assert f"Start it with `tessera up`, or set TESSERA_{service.upper()}_ADDRESS" in result.stderr


def test_an_address_that_reads_wrong_hides_no_other_error(tmp_path: Path) -> None:
    result = tessera("--home", tmp_path, "--registry", "nonsense", "status")
    assert (result.exit_code, result.stderr) == (4, f"error: no stack runs under {tmp_path}; start one with `tessera up`\n")


def test_a_damaged_version_fails_verification_with_the_file(fakes: Fakes) -> None:
    fakes.registry.intact = False
    result = tessera("versions", "verify", "puzzle", 1)
    assert result.exit_code == 1
    assert "weights.safetensors: digest differs" in result.stderr


def test_download_writes_the_files_of_a_version(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(b"bytes").hexdigest()
    fakes.registry.blobs[digest] = b"bytes"
    monkeypatch.setitem(MANIFEST["files"][0], "sha256", digest)
    result = tessera("versions", "download", "puzzle", "--to", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    [written] = json.loads(result.stdout)["files"]
    assert Path(written) == tmp_path / "out" / "pictures" / "heatmap.png"
    assert Path(written).read_bytes() == b"bytes"


@pytest.mark.parametrize("path", ["../outside", "/etc/outside", "a/../../outside"])
def test_download_refuses_a_path_that_leads_out(fakes: Fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setitem(MANIFEST["files"][0], "path", path)
    result = tessera("versions", "download", "puzzle", "--to", tmp_path / "out")
    assert result.exit_code == 1
    assert "leads out of its directory" in result.stderr


def test_predict_places_pieces(fakes: Fakes, piece: Path) -> None:
    result = tessera("predict", "puzzle", piece, piece, "--json")
    assert result.exit_code == 0, result.stderr
    first, _second = json.loads(result.stdout)
    assert first["piece"] == str(piece)
    assert (first["candidates"][0]["column"], first["candidates"][0]["row"]) == (1, 0)
    assert first["answered_by"]["compute"] == 0.003
    table = tessera("predict", "puzzle", piece, "--version", 2)
    assert "90.0%" in table.stdout
    assert "puzzle version 2 on onnxruntime" in table.stderr
    assert "on torchserve" in tessera("predict", "puzzle", piece, "--runtime", "torchserve").stderr


def test_an_unreadable_piece_is_named(fakes: Fakes, tmp_path: Path) -> None:
    result = tessera("predict", "puzzle", tmp_path / "missing.png")
    assert result.exit_code == 1
    assert "missing.png: cannot read the file" in result.stderr


def test_an_unknown_state_lists_the_known_ones(fakes: Fakes) -> None:
    result = tessera("jobs", "list", "--state", "sleeping")
    assert result.exit_code == 1
    assert "known: cancelled, failed, queued, running, succeeded" in result.stderr


def test_no_stack_leaves_exit_code_4(nowhere: str) -> None:
    result = tessera("status")
    assert result.exit_code == 4
    assert "start one with `tessera up`" in result.stderr
    assert tessera("logs").exit_code == 3


def test_a_wrong_pair_of_certificates_is_explained(fakes: Fakes, tmp_path: Path) -> None:
    result = tessera("--tls-cert", tmp_path / "cert.pem", "models", "list")
    assert result.exit_code == 1
    assert "tls_cert and tls_key belong together" in result.stderr


ROOT = Path(__file__).parents[2]
PATIENT = "from tessera.cli import main, options; options.COMPLETION_TIMEOUT_S = 60.0; main.app(prog_name='tessera')"
"""The command, which waits longer than a person would for what completes a word: the machine may be busy."""


def test_shell_completion_knows_the_models(fakes: Fakes) -> None:
    command = [sys.executable, "-c", PATIENT]
    environment = {
        "TESSERA_REGISTRY_ADDRESS": fakes.address,
        "_TESSERA_COMPLETE": "complete_bash",
        "COMP_WORDS": "tessera models show pu",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert done.stdout.split() == ["puzzle"], done.stderr


def test_shell_completion_is_silent_without_a_registry(nowhere: str) -> None:
    environment = {
        "TESSERA_REGISTRY_ADDRESS": nowhere,
        "_TESSERA_COMPLETE": "complete_bash",
        "COMP_WORDS": "tessera models show ",
        "COMP_CWORD": "3",
    }
    command = [sys.executable, "-m", "tessera.cli"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=WAIT_S)
    assert (done.stdout.split(), done.stderr) == ([], "")


def test_help_loads_neither_grpc_nor_numpy() -> None:
    script = "import sys, tessera.cli.main; print([m for m in ('grpc', 'numpy', 'PIL', 'google.protobuf', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tail_follows_what_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tessera.cli.tailing import tail

    log = tmp_path / "a.log"
    log.write_text("one\ntwo\n")
    seen: list[tuple[str, str]] = []

    def show(name: str, line: str) -> None:
        seen.append((name, line))
        if line == "two":
            with log.open("a") as file:
                file.write("three\n")
        if line == "three":
            log.write_text("four\n")  # as after a log that had grown too large was emptied
        if line == "four":
            raise KeyboardInterrupt

    pauses: list[float] = []
    monkeypatch.setattr("tessera.cli.tailing.time", SimpleNamespace(sleep=pauses.append))
    with pytest.raises(KeyboardInterrupt):
        tail({"a": log}, lines=1, follow=True, show=show)
    assert seen == [("a", "two"), ("a", "three"), ("a", "four")]
    assert pauses == [], "it looks again at once after it has found something"
