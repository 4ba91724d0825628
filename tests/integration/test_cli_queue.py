"""`tessera queue` against real servers: what a person submits, follows, fetches and cancels."""

import asyncio
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner, Result

from tessera.cli.main import app
from tests.fixtures.inference import TinyModel
from tests.fixtures.queued import MODEL, PART, QueuedServer, images, until_state
from tests.fixtures.registry import RegistryServer

RUNNING = 2


def assert_logits(logits: object) -> None:
    np.testing.assert_allclose(np.asarray(logits), TinyModel(marker=1).logits(images(PART)), rtol=1e-4, atol=1e-5)


async def test_what_is_submitted_in_files_comes_back_in_files(
    queued_server: QueuedServer, registry_server: RegistryServer, tmp_path: Path
) -> None:
    servers = ["--registry", registry_server.address, "--inference", queued_server.address, "--home", str(tmp_path / "home")]

    async def tessera(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, app, [*servers, "queue", *arguments])

    np.save(tmp_path / "image.npy", images(PART))
    np.savez(tmp_path / "inputs.npz", image=images(PART))
    save_file({"image": images(PART)}, tmp_path / "inputs.safetensors")
    ids = []
    for argument in (f"image={tmp_path}/image.npy", f"{tmp_path}/inputs.npz", f"{tmp_path}/inputs.safetensors"):
        done = await tessera("submit", MODEL, argument, "--wait")
        assert done.exit_code == 0, done.output
        assert f"succeeded  rows {PART}/{PART}" in done.stderr
        ids.append(done.stdout.strip())

    listed = json.loads((await tessera("list", "--json", "--state", "succeeded")).stdout)
    assert [one["id"] for one in listed] == ids[::-1]
    assert ids[0] in (await tessera("list")).stdout
    assert "result kept until" in (await tessera("show", ids[0])).stdout
    shown = json.loads((await tessera("show", ids[0], "--json")).stdout)
    assert (shown["state"], shown["rows"], shown["attempts"][0]["number"]) == ("SUCCEEDED", PART, 1)

    assert_logits(json.loads((await tessera("result", ids[0], "--json")).stdout)["logits"])
    for name in ("r.npz", "r.npy", "r.safetensors"):
        assert (await tessera("result", ids[0], "--save", str(tmp_path / name))).exit_code == 0
    assert_logits(np.load(tmp_path / "r.npz")["logits"])
    assert_logits(np.load(tmp_path / "r.npy"))
    assert_logits(load_file(tmp_path / "r.safetensors")["logits"])

    queued_server.router.close()
    held = json.loads((await tessera("submit", MODEL, f"{tmp_path}/inputs.npz", "--key", "k", "--json")).stdout)["id"]
    assert (await tessera("submit", MODEL, f"{tmp_path}/inputs.npz", "--key", "k")).stdout.strip() == held
    await until_state(queued_server.client, held, RUNNING)
    refused = await tessera("result", held)
    assert refused.exit_code != 0
    assert "there is no result yet" in refused.stderr
    assert "will stop" in (await tessera("cancel", held)).stderr
    watched = await tessera("watch", held, "--json")
    assert json.loads(watched.stdout.splitlines()[-1])["state"] == "CANCELLED"
    assert f"request {held} cancelled" in watched.stderr

    for arguments, problem in (
        (("submit", MODEL, "nothing.npz"), "nothing.npz"),
        (("submit", MODEL, "a.safetensors", "b.npz"), "give it alone"),
        (("submit", MODEL, "image"), "NAME=FILE.npy"),
        (("submit", MODEL, f"{tmp_path}/inputs.npz", f"image={tmp_path}/image.npy"), "given twice"),
        (("submit", MODEL, f"{tmp_path}/inputs.npz", "--priority", "urgent"), "known: high, low, normal"),
        (("list", "--state", "asleep"), "unknown state"),
    ):
        failed = await tessera(*arguments)
        assert failed.exit_code != 0
        assert problem in failed.stderr, failed.output
