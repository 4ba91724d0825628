"""Every program as an operator starts it, with a setting that cannot be right: one line that says so, never a stack trace."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.waiting import WAIT_S

ROOT = Path(__file__).parents[2]
RIGHT = {
    "services.registry": {"--port": "0", "--database-url": "sqlite:///{here}/registry.db", "--blob-store": "file://{here}/blobs"},
    "services.trainer": {"--port": "0", "--database-url": "sqlite:///{here}/trainer.db", "--redis-url": "redis://127.0.0.1:1/0"},
    "services.inference": {"--port": "0", "--cache-dir": "{here}/cache"},
    "trainers.worker": {"--redis-url": "redis://127.0.0.1:1/0", "--work-dir": "{here}/work"},
}
"""What each program needs; `{here}` is a directory of the test, in which `file` is a file."""

DATABASES = [
    ("nonsense", "the database URL cannot be parsed"),
    ("postgresql+psycopg://me:swordfish@host:port/tessera", "the database URL cannot be parsed"),
    ("mysql://host/tessera", "unknown database 'mysql'; known: postgresql+psycopg, sqlite"),
    ("sqlite:///{here}/file/below/it.db", "cannot make the folder '{here}/file/below' of the database: Not a directory"),
]
REDIS = [
    ("nonsense", "the Redis URL is malformed; it takes redis://host:port/0"),
    ("redis://:swordfish/0", "the Redis URL is malformed"),
    ("redis://host:6379/0?no_such_option=1", "the Redis URL is malformed"),
]
ADDRESSES = [("nonsense", "the address must read host:port, not 'nonsense'")]
TOKENS = [("{here}/missing", "cannot read {here}/missing: No such file or directory")]
WRONG = {
    "services.registry": {
        "--database-url": DATABASES,
        "--blob-store": [
            ("nonsense", "'nonsense' is no blob store; it takes file:///absolute/directory or s3://bucket"),
            ("file://[", "'file://[' is no URL"),
            ("file://{here}/file/below", "the filesystem failed at '{here}/file/below/blobs/sha256': Not a directory"),
            ("s3://bucket", "an S3 store needs both an access key and a secret key"),
        ],
        "--tokens-file": TOKENS,
    },
    "services.trainer": {
        "--database-url": DATABASES,
        "--redis-url": REDIS,
        "--registry-address": ADDRESSES,
        "--registry.token-file": TOKENS,
        "--tokens-file": TOKENS,
    },
    "services.inference": {
        "--registry-address": ADDRESSES,
        "--registry.tls-ca": TOKENS,
        "--cache-dir": [("{here}/file/below", "the filesystem failed at '{here}/file/below': Not a directory")],
        "--tokens-file": TOKENS,
    },
    "trainers.worker": {
        "--redis-url": REDIS,
        "--work-dir": [("{here}/file/below", "the filesystem failed at '{here}/file/below/jobs': Not a directory")],
        "--trainer-address": ADDRESSES,
        "--registry-address": ADDRESSES,
        "--trainer.token-file": TOKENS,
    },
}
CASES = [
    pytest.param(program, option, value, said, id=f"{program} {option} {value}")
    for program, options in WRONG.items()
    for option, values in options.items()
    for value, said in values
]


def run(program: str, *options: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")}
    command = [sys.executable, "-W", "error", "-m", program, *options]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=WAIT_S, check=False)


def right(program: str) -> dict[str, str]:
    return {"--metrics-port": "none"} | RIGHT[program]


@pytest.mark.parametrize(("program", "option", "value", "said"), CASES)
def test_a_wrong_setting_is_told_in_one_line(tmp_path: Path, program: str, option: str, value: str, said: str) -> None:
    (tmp_path / "file").touch()
    options = [part.format(here=tmp_path) for pair in (right(program) | {option: value}).items() for part in pair]
    done = run(program, *options)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "swordfish" not in done.stderr
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert (line["event"], line["level"], line["service"]) == ("cannot start", "error", program.rpartition(".")[2])
    assert said.format(here=tmp_path) in line["reason"]


@pytest.mark.parametrize("program", RIGHT)
def test_an_endpoint_for_traces_that_is_no_url_is_told_in_one_line(tmp_path: Path, program: str) -> None:
    options = [part.format(here=tmp_path) for pair in right(program).items() for part in pair]
    done = run(program, *options, "--otlp-endpoint", "http://[::1")
    assert done.returncode == 1, done.stderr
    assert [json.loads(line)["reason"] for line in done.stderr.splitlines()] == [
        "the OTLP endpoint 'http://[::1' is no URL: Invalid IPv6 URL"
    ]


@pytest.mark.parametrize("program", [name for name in RIGHT if name != "services.inference"])
def test_what_must_be_set_is_named(program: str) -> None:
    done = run(program)
    assert done.returncode == 2
    assert "Field required" in done.stderr
    assert done.stderr.endswith("--help lists every setting\n")


@pytest.mark.parametrize("program", RIGHT)
def test_help_lists_every_setting(program: str) -> None:
    done = run(program, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    prefix = f"TESSERA_{program.rpartition('.')[2].upper()}_"
    for option in [*WRONG[program], *RIGHT[program], "--otlp-endpoint", "--log-level"]:
        variable = prefix + option.removeprefix("--").replace(".", "__").replace("-", "_").upper()
        (line,) = [line for line in done.stdout.splitlines() if line.split()[:2] == [option, variable]]
        assert len(line.split()) > 3, "and says what it is for"
