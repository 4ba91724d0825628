"""The examples in clients/ as a reader of the stack, who shows its token and trusts its authority."""

import base64
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.compose.conftest import MODEL, Served
from tests.compose.stack import ROOT, Stack

NODE_MODULES = ROOT / ".tools" / "node_modules"


@pytest.fixture
def reader(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let commands run as that reader, and return the server's address."""
    secrets = stack.directory / "secrets"
    changes = {
        "TESSERA_TLS_CA": str(secrets / "ca.pem"),
        "TESSERA_TOKEN_FILE": str(secrets / "client.token"),
        "NODE_PATH": str(NODE_MODULES),
        "PATH": os.pathsep.join([str(NODE_MODULES / ".bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    for name, value in changes.items():
        monkeypatch.setitem(stack.environment, name, value)
    return stack.address("inference")


@pytest.mark.parametrize("program", [(sys.executable, "clients/python/classify.py"), ("node", "clients/node/classify.js")])
def test_a_piece_finds_its_cell(stack: Stack, served: Served, reader: str, tmp_path: Path, program: tuple[str, str]) -> None:
    (tmp_path / "piece.png").write_bytes(served.piece)
    head, best, *_ = stack.run(*program, MODEL, str(tmp_path / "piece.png"), reader).splitlines()
    assert head.startswith(f"{MODEL} version ")
    assert best.split()[0] == "column"


def test_the_shell_calls_by_reflection(stack: Stack, served: Served, reader: str) -> None:
    request = {"model": {"model": MODEL}, "image": base64.b64encode(served.piece).decode(), "top_k": 1}
    method = "tessera.api.inference.v1.PuzzleService/ClassifyCell"
    assert len(json.loads(stack.run("clients/shell/call.sh", reader, method, json.dumps(request)))["candidates"]) == 1


def test_triton_s_client_asks_for_raw_tensors(stack: Stack, served: Served, reader: str, tmp_path: Path) -> None:
    with Image.open(io.BytesIO(served.piece)) as piece:
        pixels = np.asarray(piece.convert("RGB").resize((64, 64)), np.float32)
    np.save(tmp_path / "piece.npy", pixels.transpose(2, 0, 1)[np.newaxis] / 255)
    program = str(ROOT / ".tools" / "tritonclient" / "bin" / "python")
    said = stack.run(program, "clients/triton/infer.py", MODEL, str(tmp_path / "piece.npy"), reader)
    assert f"{MODEL} version " in said
    assert " 12 cells" in said
