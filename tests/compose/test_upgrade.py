"""One service is built anew and replaced while the others go on; test_replicas does that with several servers."""

from tests.compose.conftest import Served
from tests.compose.stack import Stack, revision, until


def test_the_one_registry_is_replaced_by_a_new_build_under_load(stack: Stack, served: Served) -> None:
    old = stack.container("registry")
    with served.load() as load:
        stack.build_anew("registry")
        said = stack.run("scripts/rollout.sh", "registry")
        load.go_on(20)
    assert "registry has one container: what is asked of it before the new one is well has to be asked again" in said
    new = stack.container("registry")
    assert new["Image"] != old["Image"]
    assert revision(new) == "another"
    assert "all of 1 are current" in stack.run("scripts/rollout.sh", "registry")
    assert stack.container("registry")["Id"] == new["Id"]


def test_a_worker_that_is_replaced_gives_its_job_back_and_the_new_one_goes_on(stack: Stack, served: Served) -> None:
    stack.build_anew("worker")
    job = served.submit(epochs=100)
    until(lambda: served.job(job).progress.epoch > 0, "the job does not train")
    stack.run("scripts/rollout.sh", "worker")
    first, *others = served.finish(job).attempts
    assert first.error == "the worker was stopped"
    assert others[0].resumed_from_epoch > 0
    assert revision(stack.container("worker")) == "another"
