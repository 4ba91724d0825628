"""The stack with an S3 server that is none of its containers: no MinIO, and backup and restore all the same."""

import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from minio import Minio
from minio.error import MinioException
from urllib3.exceptions import HTTPError

from tests.compose.stack import ROOT, Stack, until
from tests.compose.test_backup import verify
from tests.fixtures.inference import TinyModel, publish_version

PROJECT = "tessera-s3-elsewhere-test"
BUCKET = "our-models"
DIAL = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 30)"


@pytest.fixture
def elsewhere(built: Stack, tmp_path: Path) -> Iterator[tuple[Stack, Minio]]:
    """Yield a stack that is not up yet, of the images of the other one, and the S3 server that it is told to take."""
    key, secret = "elsewhere", secrets.token_hex(20)
    image = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["minio"]["image"]
    gateway = built.run("docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()
    account = ("--env", f"MINIO_ROOT_USER={key}", "--env", f"MINIO_ROOT_PASSWORD={secret}")
    server = built.run("docker", "run", "--detach", "--rm", *account, "--publish", f"{gateway}::9000", image, "server", "/data").strip()
    try:
        endpoint = built.run("docker", "port", server, "9000").split()[0]
        client = Minio(endpoint, key, secret, region="us-east-1", secure=False)
        until(lambda: answers(client), "the S3 server elsewhere does not answer")
        stack = Stack(
            tmp_path,
            PROJECT,
            {
                "S3_ENDPOINT": endpoint,
                "S3_BUCKET": BUCKET,
                "S3_ACCESS_KEY": key,
                "S3_SECRET_KEY": secret,
                "MINIO_REPLICAS": "0",
                "STORE_INTERNAL": "false",
            },
        )
        try:
            yield stack, client
        finally:
            stack.compose("down", "--volumes", "--remove-orphans")
    finally:
        built.run("docker", "stop", server)


def answers(client: Minio) -> bool:
    with suppress(MinioException, HTTPError):
        client.list_buckets()
        return True
    return False


def blobs(client: Minio) -> set[str]:
    return {found.object_name or "" for found in client.list_objects(BUCKET, prefix="blobs/", recursive=True)}


def test_a_stack_on_another_s3_server_is_backed_up_and_restored(elsewhere: tuple[Stack, Minio], tmp_path: Path) -> None:
    stack, client = elsewhere
    stack.up("registry")
    assert set(stack.compose("ps", "--services").split()) == {"postgres", "registry"}, "no MinIO"

    async def publish() -> str:
        async with stack.client() as tessera:
            return (await publish_version(tessera.registry, "tiny", TinyModel(marker=3), alias="champion")).digest

    digest = stack.ask(publish())
    address = stack.settings["S3_ENDPOINT"].split(":")
    stack.compose("run", "--rm", "--no-deps", "--no-TTY", "--entrypoint", "python", "worker", "-c", DIAL, *address)
    stored = blobs(client)
    assert len(stored) >= 2
    assert f"3 databases and {len(stored)} blobs" in stack.run("scripts/backup.sh", str(tmp_path / "backup"))

    stack.compose("down", "--volumes")
    for name in stored:
        client.remove_object(BUCKET, name)
    assert f"{len(stored)} blobs stored" in stack.run("scripts/restore.sh", str(tmp_path / "backup"))
    assert blobs(client) == stored
    stack.up("registry")

    async def restored() -> str:
        async with stack.client() as tessera:
            return (await tessera.registry.get_version("tiny", alias="champion")).digest

    assert stack.ask(restored()) == digest
    verify(stack)
