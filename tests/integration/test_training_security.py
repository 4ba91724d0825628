"""A whole training over TLS and with tokens: registry, trainer and worker as processes of their own."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from tessera.api.registry.v1 import registry_pb2
from tessera.api.trainer.v1 import trainer_pb2 as pb
from tessera.errors import UnauthenticatedError
from tessera.rpc.auth import hash_token
from tessera.settings import ClientSettings
from tests.fixtures.certificates import Authority
from tests.fixtures.inference import InferenceProcess
from tests.fixtures.logs import logged_lines
from tests.fixtures.redis import RedisServer
from tests.fixtures.registry import RegistryProcess
from tests.fixtures.trainer import Program, TrainerProcess, TrainingStack
from tests.fixtures.waiting import WAIT_S, until

pytestmark = pytest.mark.slow

ROLES = {"person": "publisher", "trainer": "publisher", "worker": "publisher", "visitor": "reader"}


class SecureStack(TrainingStack):
    """A stack that speaks TLS only and knows a token for each of `ROLES`, which is its holder's name."""

    authority: Authority

    def grant(self, **roles: str) -> None:
        """Say who may do what from now on."""
        (self.directory / "tokens").write_text("".join(f"{hash_token(name)} {role} {name}@lab\n" for name, role in (ROLES | roles).items()))

    def start_worker_as(self, trainer_token: str, registry_token: str = "worker") -> Program:
        """Start a worker that shows these tokens."""
        authority = str(self.registry.authority)
        return self.start_worker(
            trainer__tls_ca=authority, trainer__token=trainer_token, registry__tls_ca=authority, registry__token=registry_token
        )


@pytest.fixture
async def secure(tmp_path: Path, redis_server: RedisServer) -> AsyncIterator[SecureStack]:
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("server")
    (tmp_path / "tokens").write_text("".join(f"{hash_token(name)} {role} {name}@lab\n" for name, role in ROLES.items()))
    server = {"tls_cert": str(pair.cert), "tls_key": str(pair.key), "tokens_file": str(tmp_path / "tokens")}
    client = {"registry__tls_ca": str(authority.cert), "registry__token": "trainer"}
    for name in ("registry", "trainer"):
        (tmp_path / name).mkdir()
    registry = RegistryProcess(tmp_path / "registry", authority=authority.cert, **server)
    trainer = TrainerProcess(tmp_path / "trainer", redis_server.url, registry.address, authority=authority.cert, **server, **client)
    settings = ClientSettings(tls_ca=authority.cert, token=SecretStr("person"))
    stack = SecureStack(tmp_path, redis_server, registry, trainer, settings)
    stack.authority = authority
    try:
        registry.start()
        trainer.start()
        async with stack.client:
            yield stack
    finally:
        for program in (*stack.workers, trainer):
            program.close()
        if registry.process is not None:
            registry.kill()


async def test_a_job_goes_through_with_the_least_roles_that_its_parts_need(secure: SecureStack) -> None:
    secure.start_worker_as("worker")
    job = await secure.until_ended(await secure.submit(epochs=2, alias="champion"))
    assert (job.state, job.version) == (pb.JOB_STATE_SUCCEEDED, 1), secure.logs()
    [change] = [change async for change in secure.client.registry.alias_history("cells")]
    assert (change.to_version, change.actor) == (1, "worker@lab")
    failed = await secure.until_ended(await secure.submit(epochs=2, raise_at=1, permanent=True))
    experiment = await secure.client.registry.get_experiment(failed.experiment_id)
    assert (failed.state, experiment.state) == (pb.JOB_STATE_FAILED, registry_pb2.EXPERIMENT_STATE_FAILED), secure.logs()


@pytest.mark.parametrize(
    ("token", "reason"),
    [("visitor", "RegisterWorker needs the role publisher; visitor@lab is reader"), ("stranger", "this token is not known here")],
)
async def test_a_worker_that_may_not_work_says_why(secure: SecureStack, token: str, reason: str) -> None:
    worker = secure.start_worker_as(token)
    await until(lambda: f'"reason": "{reason}"' in worker.log.read_text())
    assert token not in worker.log.read_text().replace(f"{token}@lab", "")
    assert '"event": "serving"' not in worker.log.read_text()
    assert await secure.client.trainer.list_families() == []


def times_logged(log: Path, event: str, reason: str = "") -> int:
    """Return how often a process has logged an event with this in its reason."""
    return sum(line["event"] == event and reason in (line.get("reason") or "") for line in logged_lines(log))


async def test_a_worker_works_while_its_token_has_the_role(secure: SecureStack) -> None:
    log = secure.start_worker_as("worker").log
    await until(lambda: times_logged(log, "serving"))
    secure.grant(worker="reader")
    refusal = "RegisterWorker needs the role publisher; worker@lab is reader"
    await until(lambda: times_logged(log, "not serving", f"the trainer refuses this worker: {refusal}"))
    assert times_logged(log, "the trainer refuses this worker, will try again", refusal) == 1
    secure.grant(worker="publisher")
    await until(lambda: times_logged(log, "serving") == 2)


async def test_a_certificate_that_expired_keeps_a_worker_waiting_until_it_is_renewed(secure: SecureStack) -> None:
    secure.authority.issue("server", ends=datetime.now(UTC) - timedelta(hours=1))
    for service in (secure.registry, secure.trainer):
        await until(lambda log=service.log: times_logged(log, "not serving", "server.crt expired at"))
    log = secure.start_worker_as("worker").log
    await until(lambda: times_logged(log, "waiting for a server", "its certificate has expired; renew it"))
    assert not times_logged(log, "serving")
    secure.authority.issue("server")
    for path, times in ((log, 1), (secure.registry.log, 2), (secure.trainer.log, 2)):
        await until(lambda path=path, times=times: times_logged(path, "serving") >= times)


async def test_an_inference_server_says_that_its_token_is_unknown_and_goes_on_once_it_is_not(secure: SecureStack) -> None:
    settings = {"registry__tls_ca": str(secure.registry.authority), "registry__token": "newcomer"}
    server = InferenceProcess(secure.directory, secure.registry.address, **settings)
    server.start(serving=False)
    try:
        await until(lambda: times_logged(server.log, "cannot follow the registry, trying again", "this token is not known here"))
        await until(lambda: times_logged(server.log, "not serving", "the registry has not been read yet"))
        secure.grant(newcomer="reader")
        await until(lambda: times_logged(server.log, "serving"))
    finally:
        server.kill()


async def test_a_job_says_that_its_worker_may_not_write_to_the_registry(secure: SecureStack) -> None:
    secure.start_worker_as("worker", registry_token="visitor")
    job = await secure.until_ended(await secure.submit(epochs=1, max_attempts=1))
    assert job.state == pb.JOB_STATE_FAILED
    assert "CreateExperiment needs the role publisher; visitor@lab is reader" in job.error


async def test_nobody_comes_in_without_a_token(secure: SecureStack) -> None:
    authority = ClientSettings(tls_ca=secure.registry.authority)
    stranger = TrainingStack(secure.directory, secure.redis, secure.registry, secure.trainer, authority).client
    async with stranger:
        for question in (stranger.trainer.list_families(), stranger.registry.get_model("cells")):
            with pytest.raises(UnauthenticatedError):
                await asyncio.wait_for(question, WAIT_S)
