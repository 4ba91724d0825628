"""The examples in clients/ against a server that speaks TLS and wants a token; those in README.md run in the clear."""

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera.client.inference import InferenceClient
from tessera.rpc.auth import hash_token
from tessera.rpc.channel import open_channel
from tessera.settings import ClientSettings
from tests.fixtures.certificates import Authority
from tests.fixtures.inference import CELLS, COLUMNS, ROWS, TinyModel, piece, publish_version, serve_inference
from tests.fixtures.registry import RegistryServer

ROOT = Path(__file__).parents[2]
NODE_MODULES = ROOT / ".tools/node_modules"
MODEL, MARKER = "meadow", 6
TIMEOUT_S = 120.0


@dataclass
class Files:
    """A server's address, files of a piece, and the variables that a client is given."""

    address: str
    piece: Path
    array: Path
    environment: dict[str, str]

    async def run(self, *command: object) -> tuple[int, str]:
        """Run an example and return its exit code with what it printed."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TESSERA_")}
        path = os.pathsep.join([str(NODE_MODULES / ".bin"), str(Path(sys.executable).parent), clean["PATH"]])
        environment = clean | {"NODE_PATH": str(NODE_MODULES), "PATH": path, "PYTHONPATH": str(ROOT)} | self.environment
        process = await asyncio.create_subprocess_exec(
            *map(str, command), env=environment, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
        return process.returncode or 0, output.decode()


@pytest.fixture
async def files(registry_server: RegistryServer, tmp_path: Path) -> AsyncIterator[Files]:
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("server")
    (tmp_path / "tokens").write_text(f"{hash_token('of-a-reader')} reader reader@lab\n")
    (tmp_path / "token").write_text("of-a-reader\n")
    options = {"tls_cert": pair.cert, "tls_key": pair.key, "tokens_file": tmp_path / "tokens"}
    settings = ClientSettings(tls_ca=authority.cert, token_file=tmp_path / "token")
    environment = {"TESSERA_TLS_CA": str(authority.cert), "TESSERA_TOKEN_FILE": str(tmp_path / "token")}
    picture = np.rint(piece() * 255).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "piece.png")
    np.save(tmp_path / "piece.npy", picture.transpose(2, 0, 1)[np.newaxis].astype(np.float32) / 255)
    async with serve_inference(registry_server.address, tmp_path / "cache", **options) as server:
        async with open_channel(server.address, settings) as channel:
            await publish_version(server.registry, MODEL, TinyModel(MARKER), alias="champion")
            await replace(server, client=InferenceClient(channel)).wait_for_alias(MODEL, 1)
        yield Files(f"localhost:{server.grpc.port}", tmp_path / "piece.png", tmp_path / "piece.npy", environment)


async def without_token(files: Files, *command: object) -> str:
    """Return what an example prints that fails since it shows no token."""
    code, printed = await replace(files, environment={"TESSERA_TLS_CA": files.environment["TESSERA_TLS_CA"]}).run(*command)
    assert code == 1, printed
    return printed


@pytest.mark.parametrize("program", [(sys.executable, "clients/python/classify.py"), ("node", "clients/node/classify.js")])
async def test_a_piece_finds_its_cell(files: Files, program: tuple[str, str]) -> None:
    command = (*program, MODEL, files.piece, files.address)
    code, printed = await files.run(*command)
    assert code == 0, printed
    head, best, *others = printed.splitlines()
    assert head == f"{MODEL} version 1, grid {COLUMNS} x {ROWS}"
    assert best.split()[:4] == ["column", str(MARKER % COLUMNS), "row", str(MARKER // COLUMNS)]
    assert len(others) == 4
    assert "undefined" not in printed
    assert "UNAUTHENTICATED: this server wants a token" in await without_token(files, *command)


async def test_triton_s_client_finds_the_cell(files: Files) -> None:
    command = (ROOT / ".tools/tritonclient/bin/python", "clients/triton/infer.py", MODEL, files.array, files.address)
    code, printed = await files.run(*command)
    assert (code, printed) == (0, f"{MODEL} version 1, {CELLS} cells\n  cell {MARKER}\n")
    assert "StatusCode.UNAUTHENTICATED: this server wants a token" in await without_token(files, *command)


async def test_the_shell_calls_by_reflection(files: Files) -> None:
    request = {"model": {"model": MODEL}, "image": base64.b64encode(files.piece.read_bytes()).decode(), "top_k": 1}
    method = "tessera.api.inference.v1.PuzzleService/ClassifyCell"
    command = ("clients/shell/call.sh", files.address, method, json.dumps(request))
    code, printed = await files.run(*command)
    assert code == 0, printed
    assert json.loads(printed)["candidates"][0]["index"] == MARKER
    await without_token(files, *command)
